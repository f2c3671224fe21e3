"""What a reply must look like, as grammars: what they accept, what is refused, and how quickly."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from transformers import AutoTokenizer

from api.decoding import to_decoding
from api.tool_calls import to_calls
from engine.grammar import GrammarCompiler, to_grammar
from errors import APIError
from generation import CallFormat, Decoding
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import JSON_LINES
from protocol import ChatCompletionRequest
from settings import DEMO_MODEL

LEAD = " "
END = 2
ENCODER = SentencePieceEncoder(DEMO_MODEL / "tokenizer.model")
"""It puts the lead before each text."""
ADDRESS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "no": {"type": "integer"},
        "tags": {"type": "array", "items": {}},
    },
    "required": ["city"],
}
SHAPES = {
    "oneOf": [
        {"const": "圆"},
        {"type": "object", "properties": {"r": {"type": "number"}}, "required": ["r"]},
    ]
}
BASE = {
    "$defs": {
        "base": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    }
}
INHERITED = {
    **BASE,
    "allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {"type": "integer"}}}],
}
KEYS = [{"properties": {key: {}}, "required": [key]} for key in "ab"]
CHOSEN = {"type": "object", "properties": {"k": {}}, "required": ["k"], "anyOf": KEYS}
EXTENDED = {
    **BASE,
    "$ref": "#/$defs/base",
    "properties": {"b": {"type": "integer"}},
    "required": ["b"],
}
LOOSE = {
    "type": "function",
    "function": {"name": "loose", "parameters": {"properties": {"a": {"type": "integer"}}}},
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": ADDRESS}}
NOW: dict[str, Any] = {"type": "function", "function": {"name": "now"}}
A_CALL = '{"name": "weather", "arguments": {"city": "a"}}'
NOW_CALL = '{"name": "now", "arguments": {}}'
HERMES = CallFormat('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>")
ONE_CALL = CallFormat(middle='", "parameters": ', separator=None)


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    return GrammarCompiler(tokenizer, len(tokenizer))


def decoding_of(call_format: CallFormat = JSON_LINES, **fields: Any) -> Decoding:
    body = ChatCompletionRequest(messages=[{"role": "user", "content": "?"}], **fields)
    return to_decoding(body, to_calls(body, call_format))


def grammar(**fields: Any) -> str:
    decoding = decoding_of(**fields)
    written = to_grammar(decoding.constraint, decoding.calls, LEAD)
    assert written is not None
    return written


def is_kept(compiler: GrammarCompiler, text: str, **fields: Any) -> bool:
    """Whether the text may be the whole reply, as a model writes it: no id is a control token but the last."""
    checker = compiler.compile(grammar(**fields), LEAD, "tools")
    try:
        checker.check([*ENCODER.encode([text]), END], has_ended=True)
    except APIError:
        return False
    return True


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    }


@pytest.mark.parametrize(
    ("fields", "kept", "broken"),
    [
        (
            {"response_format": {"type": "json_object"}},
            ["{}", '{"甲": [1, {"b": null}]}'],
            ["[]", "1", "{", '{"a":1}'],
        ),
        (
            json_schema(ADDRESS),
            ['{"city": "杭州"}', '{"city": "\\n\\"", "no": -3}'],
            ["{}", '{"city": "a", "x": 1}'],
        ),
        (json_schema({**ADDRESS, "additionalProperties": True}), ['{"city": "a", "x": 1}'], ["{}"]),
        (json_schema(SHAPES), ['"圆"', '{"r": 1.5}'], ['"方"', "{}"]),
        (json_schema(INHERITED), ['{"a": 1, "b": 2}'], ['{"b": 2}']),
        (
            json_schema({"properties": {"a": {}}, "required": ["a", "b"], "type": "object"}),
            ['{"a": 1, "b": 2}'],
            ["{}"],
        ),
        (json_schema(CHOSEN), ['{"k": 1, "a": 2}'], ['{"k": 1}']),
        (json_schema(EXTENDED), ['{"a": 1, "b": 2}'], ['{"b": 2}']),
        (
            json_schema({"properties": {"x": {"enum": ["allOf"]}}, "type": "object"}),
            ['{"x": "allOf"}'],
            ['{"y": 3}'],
        ),
        (
            json_schema({"properties": {"default": ADDRESS}, "type": "object"}),
            ["{}"],
            ['{"default": {"b": 1}}'],
        ),
        (
            json_schema({"properties": {"properties": {"type": "integer"}}, "type": "object"}),
            ['{"properties": 1}'],
            [],
        ),
        (json_schema({"type": "string", "format": "path"}), ['"a/b"'], ["1"]),
        (
            json_schema({"type": "array", "items": {"type": "integer"}, "uniqueItems": False}),
            ["[1, 1]"],
            ["{}"],
        ),
        (json_schema({}), ["1", "{}"], [""]),
        ({"structured_outputs": {"json": {}}}, ["1", "{}"], [""]),
        ({"structured_outputs": {"json": json.dumps(ADDRESS)}}, ['{"city": "a"}'], ["{}"]),
        ({"structured_outputs": {"grammar": '?start: "a" | "::="'}}, ["a", "::="], ["b"]),
        (json_schema({"const": {"properties": {"a": 1}}}), ['{"properties": {"a": 1}}'], ["{}"]),
        (
            {"structured_outputs": {"json": ADDRESS}},
            ['{"city": "a", "tags": [1, "b"]}'],
            ['{"city": 1}'],
        ),
        ({"structured_outputs": {"json_object": True}}, ["{}"], ["[]"]),
        (
            {"structured_outputs": {"choice": ["北京", 'a"b\\n', "a\nb", "😀"]}},
            ["北京", "a\nb", "😀"],
            ["北", ""],
        ),
        (
            {"structured_outputs": {"regex": r"\d{3}/[京沪]+|x"}},
            ["123/京沪", "x"],
            ["12/京", "123/"],
        ),
        (
            {"structured_outputs": {"grammar": 'start: /[a-c]+/ "}" x\nx: "北"'}},
            ["abc}北"],
            ["abc}"],
        ),
        ({"structured_outputs": {"grammar": 'root ::= "a" b\nb ::= [0-9]+'}}, ["a12"], ["a", "b1"]),
        (
            {"tools": [WEATHER, NOW], "tool_choice": "required"},
            ['{"name": "weather", "arguments": {"city": "a"}}', '{"name": "now", "arguments": {}}'],
            ['{"name": "now", "arguments": {"city": "a"}}', '{"name": "other", "arguments": {}}'],
        ),
        (
            {
                "tools": [WEATHER, NOW],
                "tool_choice": {"type": "function", "function": {"name": "now"}},
            },
            ['{"name": "now", "arguments": {}}'],
            ['{"name": "weather", "arguments": {"city": "a"}}'],
        ),
        (
            {"tools": [WEATHER, NOW], "tool_choice": "required"},
            [f"{A_CALL}\n{NOW_CALL}\n{A_CALL}"],
            [f"{A_CALL}\n", f"{A_CALL}{NOW_CALL}", f"好\n{A_CALL}", "好", ""],
        ),
        (
            {"tools": [WEATHER, NOW], "tool_choice": "required", "parallel_tool_calls": False},
            [A_CALL],
            [f"{A_CALL}\n{NOW_CALL}"],
        ),
        (
            {"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "now"}}},
            [NOW_CALL],
            [f"{NOW_CALL}\n{NOW_CALL}"],
        ),
        (
            {"functions": [NOW["function"]], "function_call": {"name": "now"}},
            [NOW_CALL],
            [f"{NOW_CALL}\n{NOW_CALL}", "好"],
        ),
        (
            {"tools": [WEATHER, NOW]},
            [
                *("好", "a\nb", '{"names": 1}', '说 {"name": 1}', '{"nam', '[{"name": 1}]'),
                *(A_CALL, NOW_CALL, f"{A_CALL}\n{NOW_CALL}", f"好\n{A_CALL}", f"\n\n{A_CALL}"),
            ],
            [
                *('{"name": "x"}', '{"name"', '好\n{"name": "x"}', f"{A_CALL}\n", f"{A_CALL} 好"),
                *('{"name": "now", "arguments": {"a": 1}}', f"{A_CALL}{A_CALL}"),
            ],
        ),
        (
            {"tools": [WEATHER], "parallel_tool_calls": False},
            ["好", A_CALL, f"好\n{A_CALL}"],
            [f"{A_CALL}\n{A_CALL}"],
        ),
        (
            {"tools": [NOW], "response_format": {"type": "json_object"}},
            ["{}", '{"name": "x"}', NOW_CALL],
            ["好", f"好\n{NOW_CALL}"],
        ),
        (
            {"tools": [NOW], "structured_outputs": {"choice": ["是", "不"]}},
            ["是", NOW_CALL, f"{NOW_CALL}\n{NOW_CALL}"],
            ["好", f"是\n{NOW_CALL}"],
        ),
        (
            {"tools": [NOW], "call_format": HERMES},
            [
                *(
                    "好",
                    "<tool",
                    '{"name": "now", "arguments": {}}',
                    f"<tool_call>\n{NOW_CALL}\n</tool_call>",
                ),
                f"好<tool_call>\n{NOW_CALL}\n</tool_call>\n<tool_call>\n{NOW_CALL}\n</tool_call>",
            ],
            ["<tool_call>", f"<tool_call>{NOW_CALL}</tool_call>", f"<tool_call>\n{NOW_CALL}"],
        ),
        (
            {"tools": [NOW], "call_format": ONE_CALL},
            ["好", '{"name": "now", "parameters": {}}'],
            ['{"name": "now", "parameters": {}}\n{"name": "now", "parameters": {}}', NOW_CALL],
        ),
        (
            {"tools": [LOOSE], "tool_choice": "required"},
            ['{"name": "loose", "arguments": {"a": 5}}'],
            ['{"name": "loose", "arguments": 5}', '{"name": "loose", "arguments": [1]}'],
        ),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, dict) else "",
)
def test_a_grammar_takes_what_was_asked_for_and_nothing_else(
    compiler: GrammarCompiler, fields: dict[str, Any], kept: list[str], broken: list[str]
) -> None:
    assert [text for text in kept if not is_kept(compiler, text, **fields)] == []
    assert [text for text in broken if is_kept(compiler, text, **fields)] == []


NAME = {"type": "string", "maxLength": 3}
CONTROL = ["<s>", "</s>", "<unk>"]
COLOURS = {"$defs": {"颜色": {"enum": ["红", "绿"]}}}


def record(**keywords: Any) -> dict[str, Any]:
    return json_schema({"type": "object", "additionalProperties": {"type": "integer"}, **keywords})


NAMES = ["城市", "a b", "a/b", "a~b", "a%b", "a%20b", "List<城市>", 'x"y', "a#b", "[x]", "é?", ""]
SPELT = [
    (name, spell) for name in NAMES for spell in (str, quote) if spell is quote or "%20" not in name
]
"""As it is, `a%20b` is the name `a b`."""


@pytest.mark.parametrize(
    ("name", "spell"), SPELT, ids=lambda value: value if isinstance(value, str) else value.__name__
)
@pytest.mark.parametrize("place", ["$defs", "definitions", "my types"])
def test_a_reference_may_have_any_name(
    compiler: GrammarCompiler, name: str, spell: Callable[[str], str], place: str
) -> None:
    reference = f"#/{spell(place)}/{spell(name.replace('~', '~0').replace('/', '~1'))}"
    schema = {
        place: {name: NAME},
        "type": "object",
        "properties": {"c": {"$ref": reference}},
        "required": ["c"],
    }
    assert is_kept(compiler, '{"c": "abc"}', **json_schema(schema))
    assert not is_kept(compiler, '{"c": "abcd"}', **json_schema(schema))


@pytest.mark.parametrize("where", ["response_format", "json_object", "json", "tools"])
def test_a_reference_may_have_any_name_wherever_a_schema_is_read(
    compiler: GrammarCompiler, where: str
) -> None:
    defs = {"$defs": {"城市": NAME}}
    schema = {
        **defs,
        "type": "object",
        "properties": {"c": {"$ref": "#/$defs/城市"}},
        "required": ["c"],
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    fields = {
        "response_format": json_schema(schema),
        "json_object": {"response_format": {"type": "json_object", "schema": schema}},
        "json": {"structured_outputs": {"json": json.dumps(schema)}},
        "tools": {"tools": [tool], "tool_choice": "required"},
    }[where]
    frame = '{"name": "f", "arguments": %s}' if where == "tools" else "%s"
    assert is_kept(compiler, frame % '{"c": "杭州"}', **fields)
    assert not is_kept(compiler, frame % '{"c": 1}', **fields)


@pytest.mark.parametrize(
    ("schema", "kept", "broken"),
    [
        ({"$defs": {"q": {"$anchor": "城", **NAME}}, "$ref": "#城"}, ['"x"'], ["1"]),
        ({"$defs": {"q": {"$id": "城 市", **NAME}}, "$ref": "城 市"}, ['"x"'], ["1"]),
        ({"$id": "我的 schema", **NAME}, ['"x"'], ["1"]),
        ({"$defs": {"g": {"$defs": {"城": NAME}}}, "$ref": "#/$defs/g/$defs/城"}, ['"x"'], ["1"]),
        (
            {"anyOf": [NAME, {"type": "array", "items": {"$ref": "#/anyOf/0"}}]},
            ['"x"', '["x"]'],
            ["[1]"],
        ),
        (
            {"树": {"type": "object", "properties": {"n": {"$ref": "#/树"}}}, "$ref": "#/树"},
            ['{"n": {"n": {}}}'],
            ['{"m": {}}'],
        ),
    ],
    ids=str,
)
def test_other_references_may_have_any_name_too(
    compiler: GrammarCompiler, schema: dict[str, Any], kept: list[str], broken: list[str]
) -> None:
    assert [text for text in kept if not is_kept(compiler, text, **json_schema(schema))] == []
    assert [text for text in broken if is_kept(compiler, text, **json_schema(schema))] == []


@pytest.mark.parametrize("text", CONTROL)
@pytest.mark.parametrize(
    "kind",
    [
        lambda text: ({"structured_outputs": {"choice": [f"a{text}删", "b"]}}, f"a{text}删"),
        lambda text: ({"structured_outputs": {"regex": f"{text}[0-9]"}}, f"{text}1"),
        lambda text: (
            {"structured_outputs": {"grammar": f'start: "{text[:2]}" "{text[2:]}" /x+/'}},
            f"{text}xx",
        ),
        lambda text: ({"structured_outputs": {"grammar": f'root ::= "{text}" [x]'}}, f"{text}x"),
        lambda text: (
            {"guided_grammar": f'%llguidance {{"no_forcing": false}}\nstart: "{text}" /x/'},
            f"{text}x",
        ),
        lambda text: (json_schema({"const": text}), f'"{text}"'),
        lambda text: (json_schema({"enum": [text, 1]}), f'"{text}"'),
        lambda text: (json_schema({"type": "string", "pattern": f"^{text}$"}), f'"{text}"'),
        lambda text: (
            json_schema({"type": "object", "properties": {text: {}}, "required": [text]}),
            f'{{"{text}": 1}}',
        ),
        lambda text: (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"required": [text]}},
                    }
                ],
                "tool_choice": "required",
            },
            f'{{"name": "f", "arguments": {{"{text}": 1}}}}',
        ),
    ],
    ids=[
        "choice",
        "regex",
        "lark",
        "gbnf",
        "options",
        "const",
        "enum",
        "pattern",
        "property",
        "tools",
    ],
)
def test_text_that_spells_a_control_token_is_text(
    compiler: GrammarCompiler, text: str, kind: Callable[[str], tuple[dict[str, Any], str]]
) -> None:
    """At no place is a control token the only way to go on, or a way at all but for the end."""
    fields, reply = kind(text)
    assert is_kept(compiler, reply, **fields)
    matcher = compiler.compile(grammar(**fields), LEAD, "tools").matcher
    for token_id in ENCODER.encode([reply]):
        allowed = int.from_bytes(matcher.compute_bitmask(), "little")
        assert not allowed & 0b111 or matcher.is_accepting()
        assert allowed >> token_id & 1
        assert matcher.compute_ff_tokens() == []
        assert matcher.consume_token(token_id)


@pytest.mark.parametrize("token", ["<s>", "<[1]>", "<[0-9]>", "<|end|>"])
@pytest.mark.parametrize(
    "place", ['start: "a" {} // "', "start: /[<]/ {}", '%llguidance {{}}\nstart: x\nx: {} "b"']
)
def test_a_grammar_that_asks_for_a_control_token_is_a_400(token: str, place: str) -> None:
    with pytest.raises(APIError, match="control tokens") as failure:
        grammar(structured_outputs={"grammar": place.format(token)})
    assert (failure.value.status, failure.value.param) == (400, "structured_outputs")


GUIDANCES = {
    "gen": ("start: a\na[capture, max_tokens=10]: A\nA: /(?s:.*)/", ["你好", "a"], []),
    "gen with a stop": (
        'start: tag\ntag: "<b>" c "</b>"\nc[capture, stop="</b>"]: C\nC: /(?s:.*)/',
        ["<b>你</b>"],
        ["<b>", "<b>你</b>好"],
    ),
    "select": (
        'start: x\nx[capture]: X\n\nX: "甲"\n     | "root ::="\n\n',
        ["甲", "root ::="],
        ["乙"],
    ),
    "json": (
        'start: j\n\nj[capture]: %json {\n  "properties": {"n": {"type": "integer"}},\n'
        '  "required": ["n"],\n  "type": "object",\n'
        '  "x-guidance": {"whitespace_flexible": false, "whitespace_pattern": null}\n}\n',
        ['{"n":1}'],
        ['{"n": 1}', "{}"],
    ),
}
"""Grammars as guidance's client writes them, without the options that they begin with; what keeps and breaks them."""


@pytest.mark.parametrize("field", ["structured_outputs", "guided_grammar"])
@pytest.mark.parametrize(
    "options", ["%llguidance {}\n\n", '\n %llguidance {"no_forcing": false}\n', ""]
)
@pytest.mark.parametrize(("rules", "kept", "broken"), GUIDANCES.values(), ids=GUIDANCES)
def test_a_grammar_that_begins_with_llguidances_options_is_lark(
    compiler: GrammarCompiler,
    rules: str,
    kept: list[str],
    broken: list[str],
    options: str,
    field: str,
) -> None:
    lark = options + rules
    fields = {field: lark if field == "guided_grammar" else {"grammar": lark}}
    assert [text for text in kept if not is_kept(compiler, text, **fields)] == []
    assert [text for text in broken if is_kept(compiler, text, **fields)] == []


@pytest.mark.parametrize(
    ("lark", "reason"),
    [
        ('%llguidance {}\nroot ::= "a"', "not valid"),
        ("%llguidance {nothing}\nstart: /a/", "not valid"),
        ("root ::= (", "the grammar is not valid GBNF"),
    ],
)
def test_a_wrong_grammar_is_told_in_its_own_words(
    compiler: GrammarCompiler, lark: str, reason: str
) -> None:
    with pytest.raises(APIError) as failure:
        compiler.compile(grammar(guided_grammar=lark), LEAD, "guided_grammar")
    assert str(failure.value) == f"What 'guided_grammar' asks for cannot be kept: {reason}."
    assert failure.value.param == "guided_grammar"


def test_what_only_looks_like_a_control_token_is_none(compiler: GrammarCompiler) -> None:
    for lark in ('start: "<s>" // <s>', "start: /<s>/ # <s>", 'start: "\\"<s>"'):
        compiler.compile(grammar(structured_outputs={"grammar": lark}), LEAD, "structured_outputs")


@pytest.mark.parametrize(
    ("fields", "kept", "broken"),
    [
        (record(propertyNames={"type": "string"}), ['{"a": 1}', "{}"], ['{"a": "b"}']),
        (record(propertyNames=True), ['{"a": 1}'], []),
        (record(propertyNames={"description": "名称", "minLength": 0}), ['{"": 1}'], []),
        (
            record(propertyNames={"type": "string", "pattern": "^[a-c]+$"}),
            ['{"ab": 1}'],
            ['{"d": 1}', '{"ab": ""}'],
        ),
        (
            record(propertyNames={"minLength": 2, "maxLength": 3}),
            ['{"城市": 1}'],
            ['{"a": 1}', '{"abcd": 1}'],
        ),
        (
            record(propertyNames={"type": "string", "enum": ["红", "绿"]}, required=["红"]),
            ['{"红": 1}', '{"红": 1, "绿": 2}'],
            ['{"绿": 1}', '{"红": 1, "蓝": 2}'],
        ),
        (record(propertyNames={"const": "a"}), ['{"a": 1}'], ['{"b": 1}']),
        (record(**COLOURS, propertyNames={"$ref": "#/$defs/颜色"}), ['{"绿": 1}'], ['{"蓝": 1}']),
        (
            record(
                propertyNames={"enum": ["a", "b"]}, properties={"a": {"type": "string"}, "c": {}}
            ),
            ['{"a": "x", "b": 1}'],
            ['{"a": 1}', '{"c": 1}'],
        ),
        (
            json_schema(
                {"type": "object", "propertyNames": {"enum": ["a"]}, "additionalProperties": False}
            ),
            ["{}"],
            ['{"a": 1}'],
        ),
        (
            json_schema({"type": "object", "properties": {"a": {}}, "patternProperties": {}}),
            ['{"a": 1}'],
            ['{"b": 1}'],
        ),
        (
            json_schema({"type": "string", "propertyNames": {"pattern": "x"}, "contains": {}}),
            ['"a"'],
            ["1"],
        ),
        (
            json_schema(
                {
                    "type": ["integer", "null"],
                    "uniqueItems": True,
                    "dependentRequired": {"a": ["b"]},
                }
            ),
            ["1"],
            [],
        ),
        (json_schema({"type": "array", "uniqueItems": True, "maxItems": 1}), ["[1]"], ["[1, 1]"]),
        (
            json_schema({"type": "array", "minContains": 2, "unevaluatedItems": True}),
            ["[1]"],
            ["1"],
        ),
        (
            json_schema({"type": "array", "contains": {"const": 1}, "minContains": 0}),
            ["[2]"],
            ["1"],
        ),
        (
            json_schema({"type": "array", "items": {"type": "integer"}, "unevaluatedItems": False}),
            ["[2]"],
            ['["a"]'],
        ),
        (
            json_schema({"type": "array", "prefixItems": [NAME], "unevaluatedItems": False}),
            ['["a"]'],
            ['["a", 1]'],
        ),
        (json_schema({"type": "string", "if": {"minLength": 1}, "not": False}), ['"a"'], ["1"]),
        (
            json_schema({"type": "string", "then": False, "else": {}, "$dynamicAnchor": "x"}),
            ['"a"'],
            ["1"],
        ),
        (
            json_schema(
                {"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False}
            ),
            ['{"a": 1}'],
            ['{"b": 1}'],
        ),
        (record(unevaluatedProperties=False, dependentRequired={}), ['{"a": 1}'], ['{"a": ""}']),
        (
            json_schema({**ADDRESS, "minProperties": 1, "dependentRequired": {"no": ["city"]}}),
            ['{"city": "a"}'],
            ["{}"],
        ),
        (json_schema({"type": "integer", "minimum": 1, "exclusiveMinimum": True}), ["2"], ["1"]),
    ],
    ids=lambda value: (
        json.dumps(value, ensure_ascii=False)[70:150] if isinstance(value, dict) else ""
    ),
)
def test_keywords_that_say_nothing_are_dropped_and_equal_ones_are_read(
    compiler: GrammarCompiler, fields: dict[str, Any], kept: list[str], broken: list[str]
) -> None:
    assert [text for text in kept if not is_kept(compiler, text, **fields)] == []
    assert [text for text in broken if is_kept(compiler, text, **fields)] == []


@pytest.mark.parametrize(
    ("response_format", "kept", "broken"),
    [
        ({"type": "json_object", "schema": ADDRESS}, ['{"city": "a"}'], ["{}", '{"city": 1}']),
        (
            {"type": "json_object", "schema": {"properties": {"a": {}}}},
            ['{"a": 1}', "{}"],
            ["1", '{"b": 1}'],
        ),
        ({"type": "json_object", "schema": {}}, ["{}"], ["1"]),
        ({"type": "json_schema", "schema": {"type": "integer"}}, ["1"], ["{}"]),
    ],
    ids=str,
)
def test_a_schema_without_its_wrapper_is_kept(
    compiler: GrammarCompiler, response_format: dict[str, Any], kept: list[str], broken: list[str]
) -> None:
    assert [
        text for text in kept if not is_kept(compiler, text, response_format=response_format)
    ] == []
    assert [
        text for text in broken if is_kept(compiler, text, response_format=response_format)
    ] == []


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object", "schema": {"type": "array"}},
        {"type": "json_object", "schema": "{}"},
        {"type": "json_schema"},
        {"type": "json_schema", "schema": {}, "json_schema": {"schema": {}}},
        {"type": "json_object", "json_schema": {"schema": {}}},
        {"type": "text", "schema": {"type": "object"}},
    ],
    ids=str,
)
def test_a_format_that_contradicts_itself_is_a_400(
    client: TestClient, response_format: dict[str, Any]
) -> None:
    reply = client.post(
        "/v1/chat/completions", json={"messages": "a", "response_format": response_format}
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith("response_format")


def test_a_reply_that_needs_no_grammar_has_none() -> None:
    unconstrained: list[dict[str, Any]] = [
        {},
        {"response_format": {"type": "text"}},
        {"tools": [NOW], "tool_choice": "none"},
        {"tools": []},
    ]
    for fields in unconstrained:
        decoding = decoding_of(**fields)
        assert to_grammar(decoding.constraint, decoding.calls, LEAD) is None


WIDE = {
    "type": "object",
    "properties": {f"k{number}": {"type": "string"} for number in range(1500)},
}
DOUBLED = {
    f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]}
    for n in range(30)
}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, '"not"'),
        ({"propertyNames": {"enum": 5}}, "propertyNames"),
        ({"if": {"type": "string"}, "then": {"minLength": 3}}, '"if"'),
        ({"type": "array", "contains": {"type": "string"}}, '"contains"'),
        ({"type": "object", "properties": 5, "required": [[], 5], "allOf": 5}, "not valid"),
        ({"type": "strin"}, "not valid"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
        ({"$ref": "#"}, "not valid"),
        ({"$ref": "http://localhost/schema.json"}, "not valid"),
        ({"$ref": "file:///etc/passwd"}, "not valid"),
        ({"type": "string", "pattern": "("}, "not valid"),
        (WIDE, "too complex|not valid"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_schema_that_cannot_be_kept_is_a_400_that_says_why(
    compiler: GrammarCompiler, schema: dict[str, Any], reason: str
) -> None:
    def begin() -> None:
        checker = compiler.compile(grammar(**json_schema(schema)), LEAD, "response_format")
        checker.check(compiler._tokenizer.tokenize_str(" {"), has_ended=False)

    with pytest.raises(APIError, match=reason) as failure:
        begin()
    assert (failure.value.status, failure.value.param) == (400, "response_format")


@pytest.mark.parametrize(
    "fields",
    [
        json_schema(WIDE),
        json_schema({"type": "string", "minLength": 10**9}),
        json_schema(
            {
                "type": "array",
                "minItems": 10**4,
                "items": {"type": "array", "minItems": 10**4, "items": {}},
            }
        ),
        json_schema({"enum": [f"v{number}" for number in range(6000)]}),
        json_schema({"$defs": {**DOUBLED, "d30": {"type": "string"}}, "$ref": "#/$defs/d0"}),
        json_schema({"type": "string", "pattern": "(a|aa|b*c*){500}x(y|z)*[^a]{3000}"}),
        {"structured_outputs": {"regex": "(.*a){40}.{500}b"}},
        {"structured_outputs": {"choice": [f"c{number}" * 5 for number in range(1000)]}},
        {"structured_outputs": {"grammar": "\n" * 16_000}},
        {"structured_outputs": {"grammar": "root ::= " + "(" * 8_000}},
        {
            "structured_outputs": {
                "grammar": "root ::= r0\n" + "".join(f"r{n} ::= r{n + 1}\n" for n in range(900))
            }
        },
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": WIDE}}] * 9,
            "tool_choice": "required",
        },
    ],
    ids=lambda fields: json.dumps(fields)[-60:],
)
def test_a_monstrous_grammar_is_read_or_refused_within_a_second(
    compiler: GrammarCompiler, fields: dict[str, Any]
) -> None:
    began = time.perf_counter()
    with suppress(APIError):
        compiler.compile(grammar(**fields), LEAD, "response_format")
    assert time.perf_counter() - began < 1
