"""What a reply must look like, as grammars: what they accept, what is refused, and how quickly."""

import json
import time
from contextlib import suppress

import pytest
from conftest import DEMO_MODEL
from transformers import AutoTokenizer

from errors import APIError
from grammar import Vocabulary, to_grammar
from protocol import ChatCompletionRequest

LEAD = " "
END = 2
ADDRESS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "no": {"type": "integer"}, "tags": {"type": "array", "items": {}}},
    "required": ["city"],
}
SHAPES = {"oneOf": [{"const": "圆"}, {"type": "object", "properties": {"r": {"type": "number"}}, "required": ["r"]}]}
BASE = {"$defs": {"base": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}
INHERITED = {**BASE, "allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {"type": "integer"}}}]}
KEYS = [{"properties": {key: {}}, "required": [key]} for key in "ab"]
CHOSEN = {"type": "object", "properties": {"k": {}}, "required": ["k"], "anyOf": KEYS}
EXTENDED = {**BASE, "$ref": "#/$defs/base", "properties": {"b": {"type": "integer"}}, "required": ["b"]}
LOOSE = {"type": "function", "function": {"name": "loose", "parameters": {"properties": {"a": {"type": "integer"}}}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": ADDRESS}}
NOW = {"type": "function", "function": {"name": "now"}}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    return Vocabulary(tokenizer, len(tokenizer))


def grammar(**fields) -> str:
    request = ChatCompletionRequest(messages=[{"role": "user", "content": "?"}], **fields)
    text = to_grammar(request, LEAD)
    assert text is not None
    return text


def is_kept(vocabulary: Vocabulary, text: str, **fields) -> bool:
    follower = vocabulary.follow(grammar(**fields), LEAD, "tools")
    try:
        follower.take([*vocabulary._tokenizer.tokenize_str(LEAD + text), END], has_ended=True)
    except APIError:
        return False
    return True


def json_schema(schema: dict) -> dict:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


@pytest.mark.parametrize(
    ("fields", "kept", "broken"),
    [
        ({"response_format": {"type": "json_object"}}, ["{}", '{"甲": [1, {"b": null}]}'], ["[]", "1", "{", '{"a":1}']),
        (json_schema(ADDRESS), ['{"city": "杭州"}', '{"city": "\\n\\"", "no": -3}'], ["{}", '{"city": "a", "x": 1}']),
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
        (json_schema({"properties": {"x": {"enum": ["allOf"]}}, "type": "object"}), ['{"x": "allOf"}'], ['{"y": 3}']),
        (json_schema({"properties": {"default": ADDRESS}, "type": "object"}), ["{}"], ['{"default": {"b": 1}}']),
        (json_schema({"properties": {"properties": {"type": "integer"}}, "type": "object"}), ['{"properties": 1}'], []),
        (json_schema({"type": "string", "format": "path"}), ['"a/b"'], ["1"]),
        (json_schema({"type": "array", "items": {"type": "integer"}, "uniqueItems": False}), ["[1, 1]"], ["{}"]),
        (json_schema({}), ["1", "{}"], [""]),
        ({"structured_outputs": {"json": {}}}, ["1", "{}"], [""]),
        ({"structured_outputs": {"json": json.dumps(ADDRESS)}}, ['{"city": "a"}'], ["{}"]),
        ({"structured_outputs": {"grammar": '?start: "a" | "::="'}}, ["a", "::="], ["b"]),
        (json_schema({"const": {"properties": {"a": 1}}}), ['{"properties": {"a": 1}}'], ["{}"]),
        ({"structured_outputs": {"json": ADDRESS}}, ['{"city": "a", "tags": [1, "b"]}'], ['{"city": 1}']),
        ({"structured_outputs": {"json_object": True}}, ["{}"], ["[]"]),
        ({"structured_outputs": {"choice": ["北京", 'a"b\\n', "a\nb", "😀"]}}, ["北京", "a\nb", "😀"], ["北", ""]),
        ({"structured_outputs": {"regex": r"\d{3}/[京沪]+|x"}}, ["123/京沪", "x"], ["12/京", "123/"]),
        ({"structured_outputs": {"grammar": 'start: /[a-c]+/ "}" x\nx: "北"'}}, ["abc}北"], ["abc}"]),
        ({"structured_outputs": {"grammar": 'root ::= "a" b\nb ::= [0-9]+'}}, ["a12"], ["a", "b1"]),
        (
            {"tools": [WEATHER, NOW], "tool_choice": "required"},
            ['{"name": "weather", "arguments": {"city": "a"}}', '{"name": "now", "arguments": {}}'],
            ['{"name": "now", "arguments": {"city": "a"}}', '{"name": "other", "arguments": {}}'],
        ),
        (
            {"tools": [WEATHER, NOW], "tool_choice": {"type": "function", "function": {"name": "now"}}},
            ['{"name": "now", "arguments": {}}'],
            ['{"name": "weather", "arguments": {"city": "a"}}'],
        ),
        (
            {"tools": [LOOSE], "tool_choice": "required"},
            ['{"name": "loose", "arguments": {"a": 5}}'],
            ['{"name": "loose", "arguments": 5}', '{"name": "loose", "arguments": [1]}'],
        ),
    ],
    ids=lambda value: json.dumps(value, ensure_ascii=False)[:50] if isinstance(value, dict) else "",
)
def test_a_grammar_takes_what_was_asked_for_and_nothing_else(vocabulary, fields, kept, broken):
    assert [text for text in kept if not is_kept(vocabulary, text, **fields)] == []
    assert [text for text in broken if is_kept(vocabulary, text, **fields)] == []


def test_a_reply_that_needs_no_grammar_has_none():
    messages = [{"role": "user", "content": "?"}]
    for fields in (
        {},
        {"response_format": {"type": "text"}},
        {"tools": [WEATHER]},
        {"tools": [NOW], "tool_choice": "none"},
    ):
        assert to_grammar(ChatCompletionRequest(messages=messages, **fields), LEAD) is None


WIDE = {"type": "object", "properties": {f"k{number}": {"type": "string"} for number in range(1500)}}
DOUBLED = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(30)}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, '"not"'),
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
def test_a_schema_that_cannot_be_kept_is_a_400_that_says_why(vocabulary, schema, reason):
    def begin() -> None:
        follower = vocabulary.follow(grammar(**json_schema(schema)), LEAD, "response_format")
        follower.take(vocabulary._tokenizer.tokenize_str(" {"), has_ended=False)

    with pytest.raises(APIError, match=reason) as failure:
        begin()
    assert (failure.value.status, failure.value.param) == (400, "response_format")


@pytest.mark.parametrize(
    "fields",
    [
        json_schema(WIDE),
        json_schema({"type": "string", "minLength": 10**9}),
        json_schema({"type": "array", "minItems": 10**4, "items": {"type": "array", "minItems": 10**4, "items": {}}}),
        json_schema({"enum": [f"v{number}" for number in range(6000)]}),
        json_schema({"$defs": {**DOUBLED, "d30": {"type": "string"}}, "$ref": "#/$defs/d0"}),
        json_schema({"type": "string", "pattern": "(a|aa|b*c*){500}x(y|z)*[^a]{3000}"}),
        {"structured_outputs": {"regex": "(.*a){40}.{500}b"}},
        {"structured_outputs": {"choice": [f"c{number}" * 5 for number in range(1000)]}},
        {"structured_outputs": {"grammar": "\n" * 16_000}},
        {"structured_outputs": {"grammar": "root ::= " + "(" * 8_000}},
        {"structured_outputs": {"grammar": "root ::= r0\n" + "".join(f"r{n} ::= r{n + 1}\n" for n in range(900))}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": WIDE}}] * 9, "tool_choice": "required"},
    ],
    ids=lambda fields: json.dumps(fields)[-60:],
)
def test_a_monstrous_grammar_is_read_or_refused_within_a_second(vocabulary, fields):
    began = time.perf_counter()
    with suppress(APIError):
        vocabulary.follow(grammar(**fields), LEAD, "response_format")
    assert time.perf_counter() - began < 1
