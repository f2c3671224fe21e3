"""Calls of functions: described to the model, read from its text, written as OpenAI's, on scripted deltas."""

import json
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessageFunctionToolCall,
)

from api.decoding import to_decoding
from api.tool_calls import callable_functions
from engine.grammar import to_grammar
from errors import APIError
from generation import Delta, FinishReason
from prompts.encoder import SentencePieceEncoder
from protocol import ChatCompletionRequest
from tests.support.fake_engine import FakeEngine
from tests.support.replies import events

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "你好"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "某地的天气", "parameters": SCHEMA},
    },
    {"type": "function", "function": {"name": "now"}},
]
ASK: dict[str, Any] = {"messages": HELLO, "tools": TOOLS, "tool_choice": "required"}
NAMED = {"type": "function", "function": {"name": "now"}}
CALL = '{"name": "weather", "arguments": {"city": "杭州}"}}'
ARGUMENTS = '{"city": "杭州}"}'


def script(text: str, *cuts: int, reason: FinishReason = "stop", index: int = 0) -> list[Delta]:
    ends = [*cuts, len(text)]
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], ends, strict=True)]
    return [*(Delta(index, piece, (5,)) for piece in pieces), Delta(index, "", (2,), reason)]


def calls_of(
    chunks: list[dict[str, Any]], index: int = 0
) -> tuple[list[dict[str, Any]], list[str]]:
    """The calls of one choice as a client joins them, and its finish reasons."""
    calls: list[dict[str, Any]] = []
    reasons = []
    for choice in (
        choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index
    ):
        assert choice["delta"].get("content") is None
        for piece in choice["delta"].get("tool_calls", []):
            if piece["index"] == len(calls):
                calls.append({"id": piece["id"], "type": piece["type"], **piece["function"]})
            else:
                assert piece.keys() == {"index", "function"}
                calls[piece["index"]]["arguments"] += piece["function"]["arguments"]
        if choice["finish_reason"]:
            assert choice["delta"] == {}
            reasons.append(choice["finish_reason"])
    return calls, reasons


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=str
)
def test_a_call_is_openais(
    client: TestClient, engine: FakeEngine, choice: dict[str, Any] | str
) -> None:
    engine.script = script(CALL)
    body = client.post(PATH, json={**ASK, "tool_choice": choice}).json()
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    message = body["choices"][0]["message"]
    assert message.keys() == {"role", "content", "refusal", "tool_calls"}
    assert message["content"] is None
    calls = ChatCompletion.model_validate(body, strict=True).choices[0].message.tool_calls
    assert calls is not None
    [call] = calls
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.type == "function"
    assert call.id.startswith("call_")
    assert (call.function.name, call.function.arguments) == ("weather", ARGUMENTS)


def test_a_stream_of_a_call_joins_to_the_plain_reply_however_its_text_is_cut(
    client: TestClient, engine: FakeEngine
) -> None:
    for cuts in [
        (),
        *((cut,) for cut in range(1, len(CALL))),
        *combinations(range(1, len(CALL), 5), 3),
    ]:
        engine.script = script(CALL, *cuts)
        chunks = events(client.post(PATH, json={**ASK, "stream": True}).text)
        assert all(ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in chunks)
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant"}
        [call], reasons = calls_of(chunks)
        assert (call["name"], call["arguments"], reasons) == ("weather", ARGUMENTS, ["tool_calls"])


def test_the_arguments_stream_as_they_come(client: TestClient, engine: FakeEngine) -> None:
    engine.script = script(CALL, 42, 45, 47)
    chunks = events(client.post(PATH, json={**ASK, "stream": True}).text)
    pieces = [
        chunk["choices"][0]["delta"].get("tool_calls", [{}])[0].get("function") for chunk in chunks
    ]
    assert [piece["arguments"] for piece in pieces if piece] == ['{"city": ', '"杭州', '}"', "}"]


def test_choices_call_for_themselves(client: TestClient, engine: FakeEngine) -> None:
    now = '{"name": "now", "arguments": {}}'
    first, second = script(CALL, 20, 41), script(now, 12, 30, index=1)
    engine.script = [delta for pair in zip(first, second, strict=True) for delta in pair]
    for fields in ({}, {"stream": True}):
        reply = client.post(PATH, json={**ASK, "n": 2, **fields})
        if fields:
            calls = [calls_of(events(reply.text), index)[0][0] for index in (0, 1)]
        else:
            calls = [
                choice["message"]["tool_calls"][0]["function"] for choice in reply.json()["choices"]
            ]
        assert [(call["name"], call["arguments"]) for call in calls] == [
            ("weather", ARGUMENTS),
            ("now", "{}"),
        ]


@pytest.mark.parametrize(
    ("text", "reason", "arguments"),
    [
        (CALL[:-4], "length", '{"city": "杭州'),
        (CALL[:-1], "length", ARGUMENTS),
        (CALL[:-4], "stop", '{"city": "杭州'),
        ('{"name": "weather", "arguments": ' + "[" * 2000, "length", "[" * 2000),
        (CALL[:12], "length", None),
        ('{"name": "other", "arguments": {}}', "stop", None),
        ("", "length", None),
    ],
)
def test_a_call_that_is_cut_off_keeps_the_reason(
    client: TestClient, engine: FakeEngine, text: str, reason: FinishReason, arguments: str | None
) -> None:
    engine.script = script(text, reason=reason)
    [choice] = client.post(PATH, json=ASK).json()["choices"]
    calls, reasons = calls_of(events(client.post(PATH, json={**ASK, "stream": True}).text))
    assert [choice["finish_reason"]] == reasons == [reason]
    assert [call["arguments"] for call in calls] == [arguments] * (arguments is not None)
    if arguments is None:
        assert choice["message"] == {"role": "assistant", "content": "", "refusal": None}
    else:
        assert choice["message"]["tool_calls"][0]["function"]["arguments"] == arguments


def test_a_whole_call_is_one_even_where_the_tokens_have_run_out(
    client: TestClient, engine: FakeEngine
) -> None:
    engine.script = script(CALL, reason="length")
    [choice] = client.post(PATH, json=ASK).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == ARGUMENTS


@pytest.mark.parametrize(
    ("choice", "named"), [("required", ["weather", "now"]), (NAMED, ["now"])], ids=str
)
def test_the_model_is_told_of_the_functions_it_may_call(
    serve: Callable[..., TestClient],
    engine: FakeEngine,
    demo_encoder: SentencePieceEncoder,
    choice: dict[str, Any] | str,
    named: list[str],
) -> None:
    for system, settings in (
        ("You are a helpful assistant. 你是一个乐于助人的助手。", {}),
        ("用古文。", {"system_text": "用古文。"}),
        ("", {"system_text": ""}),
    ):
        serve(**settings).post(PATH, json={**ASK, "tool_choice": choice})
        text = demo_encoder.decode(engine.asked[-1][0].ids)
        assert text.startswith(
            f"<s>[INST] <<SYS>>\n{system}\n\n" if system else "<s>[INST] <<SYS>>\n你可以"
        )
        assert [name for name in ("weather", "now") if f'"name": "{name}"' in text] == named
        assert (
            ("某地的天气" in text) == ('"city": {"type": "string"}' in text) == ("weather" in named)
        )
    messages = [{"role": "system", "content": "简短。"}, *HELLO]
    serve().post(PATH, json={**ASK, "messages": messages})
    assert demo_encoder.decode(engine.asked[-1][0].ids).startswith(
        "<s>[INST] <<SYS>>\n简短。\n\n你可以"
    )


def test_a_call_in_the_history_is_the_text_that_the_model_wrote(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    engine.script = script(CALL)
    message = client.post(PATH, json=ASK).json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "晴"}
    reply = client.post(PATH, json={"messages": [*HELLO, message, result], "tools": TOOLS})
    assert f"你好 [/INST] {CALL}</s><s>[INST] 晴 [/INST]" in demo_encoder.decode(
        engine.asked[-1][0].ids
    )
    assert reply.headers["X-Ignored-Parameters"] == "tools"


def test_a_call_without_arguments_in_the_history_is_whole(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": ""}}
    client.post(
        PATH, json={"messages": [*HELLO, {"role": "assistant", "tool_calls": [call]}, *HELLO]}
    )
    assert '[/INST] {"name": "now", "arguments": {}}</s>' in demo_encoder.decode(
        engine.asked[0][0].ids
    )


def test_arguments_that_are_no_object_are_refused() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
    body = ChatCompletionRequest(messages=HELLO, tools=[tool], tool_choice="required")
    constraint = to_decoding(body, callable_functions(body)).constraint
    assert constraint is not None
    with pytest.raises(APIError, match="object") as failure:
        to_grammar(constraint, " ")
    assert (failure.value.status, failure.value.param) == (400, "tools")


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_a_model_that_need_not_call_answers_in_text(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder, choice: str | None
) -> None:
    reply = client.post(PATH, json={**ASK, "tool_choice": choice, "parallel_tool_calls": True})
    assert reply.json()["choices"][0]["message"]["content"] == "北京。"
    assert reply.headers["X-Ignored-Parameters"] == "tools"
    assert "weather" not in demo_encoder.decode(engine.asked[0][0].ids)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "any"}, "tool_choice.type"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
        ({"tool_choice": 1}, "tool_choice"),
        ({"tools": []}, "tool_choice"),
        ({"tools": None}, "tool_choice"),
        ({"tools": {}}, "tools"),
        ({"tools": [*TOOLS, {"type": "web_search"}]}, "tools[2].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"logprobs": True}, "logprobs"),
        ({"num_beams": 2}, "tools"),
        ({"response_format": {"type": "json_object"}}, "tools"),
        ({"structured_outputs": {"choice": ["a"]}}, "tools"),
        ({"ignore_eos": True}, "tools"),
        ({"min_tokens": 1}, "tools"),
        ({"stop": ["}"]}, "stop"),
        ({"stop_token_ids": [7]}, "stop_token_ids"),
        ({"include_stop_str_in_output": True}, "include_stop_str_in_output"),
    ],
    ids=json.dumps,
)
def test_a_call_that_cannot_be_asked_for_is_a_400(
    client: TestClient, fields: dict[str, Any], param: str
) -> None:
    reply = client.post(PATH, json={**ASK, **fields})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "described"),
    [
        (allowed("required", "weather"), ["weather"]),
        (allowed("required", "now", "weather"), ["weather", "now"]),
        (allowed("auto", "weather"), []),
    ],
    ids=str,
)
def test_allowed_tools_are_those_that_may_be_called(
    client: TestClient,
    engine: FakeEngine,
    demo_encoder: SentencePieceEncoder,
    choice: dict[str, Any],
    described: list[str],
) -> None:
    """As OpenAI documents it: a part of the tools, of which one has to be called, or may be."""
    engine.script = script(CALL)
    reply = client.post(PATH, json={**ASK, "tool_choice": choice})
    assert reply.status_code == 200
    text = demo_encoder.decode(engine.asked[0][0].ids)
    assert [
        tool["function"]["name"]
        for tool in ASK["tools"]
        if f'"name": "{tool["function"]["name"]}", "d' in text
    ] == described
    assert reply.json()["choices"][0]["finish_reason"] == ("tool_calls" if described else "stop")
    assert ("X-Ignored-Parameters" in reply.headers) == (not described)


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (allowed("required", "other"), "tool_choice"),
        (allowed("auto", "weather", "other"), "tool_choice"),
        (allowed("maybe", "weather"), "tool_choice.allowed_tools.mode"),
        (allowed("required"), "tool_choice.allowed_tools.tools"),
        ({"type": "allowed_tools"}, "tool_choice"),
        (
            {"type": "auto", **{"allowed_tools": {"mode": "auto", "tools": []}}},
            "tool_choice.allowed_tools.tools",
        ),
        (
            {"type": "function", "allowed_tools": allowed("auto", "now")["allowed_tools"]},
            "tool_choice",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", [PATH, "/tokenize"])
def test_allowed_tools_that_cannot_be_are_a_400(
    client: TestClient, path: str, choice: dict[str, Any], param: str
) -> None:
    reply = client.post(path, json={**ASK, "tool_choice": choice})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
