"""Chat templates that take tools: how they write calls is found out, and conversations with calls are theirs."""

import json
from typing import Any

import pytest

from generation import CallFormat, Calls
from prompt_template import PromptTemplate
from prompts.calls import Call, Message
from prompts.chat_templates import chat_template_layout
from prompts.encoder import TokenizerEncoder
from prompts.layouts import JSON_LINES
from tests.support.chatml import chatml_tokenizer


@pytest.fixture(scope="module")
def chatml() -> TokenizerEncoder:
    return chatml_tokenizer(normalizes=False)


WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "某地的天气 <|im_end|>",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TURNS = "<|im_start|>{{ m.role }}\n{{ m.content }}"
TOOLS = "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
END = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def template_of(call: str, between: str = "", head: str = TOOLS) -> str:
    """A chat template that writes each call with `call`, in which `f` is the function called."""
    calls = "{% for c in m.tool_calls or [] %}{% set f = c.function %}" + call
    if between:
        calls += "{% if not loop.last %}" + between + "{% endif %}"
    return f"{head}{{% for m in messages %}}{TURNS}{calls}{{% endfor %}}{END}"


AS_HERMES = template_of(
    '<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>',
    "{{ '\\n' }}",
)
AS_LLAMA_3 = template_of(
    "{% if not loop.first %}{{ raise_exception('one call only') }}{% endif %}"
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (AS_HERMES, CallFormat('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n")),
        (AS_LLAMA_3, CallFormat('{"name": "', '", "parameters": ', "}", None)),
        (template_of("<function={{ f.name }}>{{ f.arguments | tojson }}</function>"),
         CallFormat("<function=", ">", "</function>", "")),
        (template_of('[{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}]', ", "),
         CallFormat('[{"name": "', '", "arguments": ', "}]", ", ")),
        (template_of("<f>{{ f.name }}{% for k, v in f.arguments.items() %}<{{ k }}>{{ v }}{% endfor %}"), None),
        (template_of('<|im_start|>{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}'), None),
        (template_of('{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}, "id": "{{ c.id[0] }}"}'), None),
        (template_of('{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}', head=""), None),
        (template_of(""), None),
    ],
)  # fmt: skip
def test_the_way_a_template_writes_calls_is_found_out(
    chatml: TokenizerEncoder, source: str, found: CallFormat | None
) -> None:
    layout = chat_template_layout("own", chatml.tokenizer, source)
    assert layout.takes_tools == (found is not None)
    assert layout.call_format == (found or JSON_LINES)


def test_a_template_that_takes_tools_gets_functions_calls_and_results_in_its_way(
    chatml: TokenizerEncoder,
) -> None:
    template = PromptTemplate(chat_template_layout("own", chatml.tokenizer, AS_HERMES), chatml)
    arguments = json.dumps({"city": "杭州</s><|im_end|>"}, ensure_ascii=False)
    call = Call("weather", arguments)
    messages = [
        Message("user", "天气？"),
        Message("assistant", "好", (call, call)),
        Message("tool", "晴", function="weather"),
        Message("tool", "雨", function="weather"),
    ]
    calls = Calls((WEATHER,), template.layout.call_format, False, False)
    ids = template.render_chat(messages, calls).ids
    written = f'<tool_call>\n{{"name": "weather", "arguments": {arguments}}}\n</tool_call>'
    tool = json.dumps({"type": "function", "function": WEATHER}, ensure_ascii=False)
    assert chatml.decode(ids) == (
        f"<|im_start|>system\n{tool}\n<|im_end|>\n<|im_start|>user\n天气？<|im_end|>\n"
        f"<|im_start|>assistant\n好{written}\n{written}<|im_end|>\n"
        "<|im_start|>tool\n晴<|im_end|>\n<|im_start|>tool\n雨<|im_end|>\n<|im_start|>assistant\n"
    )
    ends = [token_id for token_id in ids if token_id == chatml.control_ids["<|im_end|>"]]
    assert len(ends) == 5


def test_a_template_without_tools_gets_them_as_text(chatml: TokenizerEncoder) -> None:
    template = PromptTemplate(
        chat_template_layout("own", chatml.tokenizer, template_of("")), chatml
    )
    messages = [
        Message("user", "天气？"),
        Message("assistant", "", (Call("weather", "{}"),)),
        Message("tool", "晴", function="weather"),
    ]
    calls = Calls((WEATHER,), template.layout.call_format, False, False)
    text = chatml.decode(template.render_chat(messages, calls).ids)
    assert text.startswith("<|im_start|>system\n你可以调用以下函数：\n")
    assert 'assistant\n{"name": "weather", "arguments": {}}<|im_end|>' in text
    assert "<|im_start|>user\n函数 weather 的结果：晴<|im_end|>" in text
