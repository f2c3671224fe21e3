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

from api.tool_calls import to_calls
from engine.grammar import to_grammar
from errors import APIError
from generation import CallFormat, Delta, FinishReason, TokenLogprob
from prompts.encoder import SentencePieceEncoder
from protocol import ChatCompletionRequest
from tests.support.fake_engine import FakeEngine
from tests.support.joined import of_reply, of_stream
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
    text = demo_encoder.decode(engine.asked[-1][0].ids)
    assert f"你好 [/INST] {CALL}</s><s>[INST] 函数 weather 的结果：晴 [/INST]" in text
    assert "X-Ignored-Parameters" not in reply.headers


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
    with pytest.raises(APIError, match="object") as failure:
        to_grammar(None, to_calls(body, CallFormat()), " ")
    assert (failure.value.status, failure.value.param) == (400, "tools")


def test_a_model_that_may_not_call_is_told_of_no_functions(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    engine.script = script(CALL)
    reply = client.post(PATH, json={**ASK, "tool_choice": "none"})
    assert reply.json()["choices"][0]["message"]["content"] == CALL
    assert reply.headers["X-Ignored-Parameters"] == "tools"
    assert "weather" not in demo_encoder.decode(engine.asked[0][0].ids)


MAY = {"messages": HELLO, "tools": TOOLS}
NOW_CALL = '{"name": "now", "arguments": {}}'


def both(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    """The plain reply's only choice, which a stream's chunks have to join to."""
    reply = client.post(PATH, json=body).json()
    [choice] = reply["choices"]
    chunks = events(client.post(PATH, json={**body, "stream": True}).text)
    assert all(ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in chunks)
    assert of_stream(PATH, chunks) == of_reply(PATH, reply)
    return dict(choice)


@pytest.mark.parametrize("choice", ["auto", None])
def test_a_model_that_need_not_call_may_answer_in_text(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder, choice: str | None
) -> None:
    reply = client.post(PATH, json={**MAY, "tool_choice": choice, "parallel_tool_calls": True})
    assert reply.json()["choices"][0]["message"]["content"] == "北京。"
    assert "X-Ignored-Parameters" not in reply.headers
    text = demo_encoder.decode(engine.asked[0][0].ids)
    assert '{"name": "weather", "description": "某地的天气"' in text
    assert "如果不需要调用函数，就直接回答" in text


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        (CALL, None, ["weather"]),
        (f"{CALL}\n{NOW_CALL}\n{CALL}", None, ["weather", "now", "weather"]),
        (f"我看看。\n{CALL}", "我看看。", ["weather"]),
        (f"一\n\n二\n{NOW_CALL}\n{CALL}", "一\n\n二", ["now", "weather"]),
        (f"\n\n{CALL}", "\n", ["weather"]),
        ("", "", []),
        ("好。\n", "好。\n", []),
        ('{"nam', '{"nam', []),
        ('{"names": 1}', '{"names": 1}', []),
        (f"说：{CALL}", f"说：{CALL}", []),
        ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', []),
        (f'{{"name": 1}}\n{NOW_CALL}', '{"name": 1}', ["now"]),
    ],
)
def test_calls_are_told_from_text_however_it_is_cut(
    client: TestClient, engine: FakeEngine, text: str, content: str | None, names: list[str]
) -> None:
    for cuts in [(), *((cut,) for cut in range(1, len(text))), tuple(range(1, len(text)))]:
        engine.script = script(text, *cuts)
        choice = both(client, MAY)
        assert choice["message"]["content"] == content
        calls = choice["message"].get("tool_calls", [])
        assert [call["function"]["name"] for call in calls] == names
        arguments = {"weather": ARGUMENTS, "now": "{}"}
        assert [call["function"]["arguments"] for call in calls] == [arguments[n] for n in names]
        assert choice["finish_reason"] == ("tool_calls" if names else "stop")
        assert len({call["id"] for call in calls}) == len(names)


@pytest.mark.parametrize(
    ("text", "content", "arguments"),
    [
        (f"{NOW_CALL}\n{CALL[:-4]}", None, ["{}", '{"city": "杭州']),
        (f"{NOW_CALL}\n{CALL[:20]}", None, ["{}"]),
        (f"好\n{CALL[:20]}", "好", []),
        ("好\n{", "好\n{", []),
    ],
)
def test_what_is_cut_off_among_calls_keeps_its_reason(
    client: TestClient, engine: FakeEngine, text: str, content: str | None, arguments: list[str]
) -> None:
    engine.script = script(text, reason="length")
    choice = both(client, MAY)
    calls = choice["message"].get("tool_calls", [])
    assert [call["function"]["arguments"] for call in calls] == arguments
    assert choice["message"]["content"] == content
    assert choice["finish_reason"] == (
        "tool_calls" if text.endswith(CALL[:20]) and arguments else "length"
    )


def test_what_a_call_has_no_use_for_is_named(client: TestClient, engine: FakeEngine) -> None:
    """Agents send stop strings with every request."""
    engine.script = script(CALL)
    fields: dict[str, Any] = {
        "stop": ["Observation:"],
        "stop_token_ids": [7],
        "include_stop_str_in_output": True,
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "json_object"},
    }
    reply = client.post(PATH, json={**ASK, **fields})
    assert reply.headers["X-Ignored-Parameters"] == ", ".join(fields)
    decoding = engine.asked[0][1]
    assert (decoding.stop, decoding.stop_token_ids, decoding.alternatives) == ((), (), None)
    assert decoding.constraint is None
    [choice] = reply.json()["choices"]
    assert (choice["logprobs"], choice["finish_reason"]) == (None, "tool_calls")


def test_a_reply_that_may_call_has_the_log_probabilities_of_its_text(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    def token_deltas(text: str) -> list[Delta]:
        begin = len(demo_encoder.encode(["\n"]))
        ids = demo_encoder.encode([f"\n{text}"])[begin:]
        pieces = [demo_encoder.token_bytes(token_id) for token_id in ids]
        assert b"".join(pieces).decode() == text
        deltas = [
            Delta(0, piece.decode(), (token_id,), logprobs=[TokenLogprob(token_id, -0.5)])
            for piece, token_id in zip(pieces, ids, strict=True)
        ]
        return [*deltas, Delta(0, "", (2,), "stop", logprobs=[TokenLogprob(2, -0.1)])]

    for text, content in ((f"a b\n{NOW_CALL}", "a b"), (NOW_CALL, ""), ("a b", "a b")):
        engine.script = token_deltas(text)
        body = {**MAY, "logprobs": True, "stop": ["。"]}
        [choice] = client.post(PATH, json=body).json()["choices"]
        spelt = [token["bytes"] for token in choice["logprobs"]["content"]]
        assert bytes(byte for token in spelt for byte in token).decode().rstrip("\n") == content
        assert engine.asked[-1][1].stop == ["。"]


OLDER: dict[str, Any] = {"messages": HELLO, "functions": [tool["function"] for tool in TOOLS]}


@pytest.mark.parametrize(
    ("choice", "described", "is_required"),
    [
        (None, ["weather", "now"], False),
        ("auto", ["weather", "now"], False),
        ({"name": "weather"}, ["weather"], True),
    ],
    ids=str,
)
def test_functions_in_the_older_form_are_called_in_that_form(
    client: TestClient, engine: FakeEngine, choice: Any, described: list[str], is_required: bool
) -> None:
    engine.script = script(CALL, 20, 41)
    body = {**OLDER, "function_call": choice}
    reply = client.post(PATH, json=body)
    assert "X-Ignored-Parameters" not in reply.headers
    message = ChatCompletion.model_validate(reply.json(), strict=True).choices[0].message
    assert message.function_call is not None
    assert (message.function_call.name, message.function_call.arguments) == ("weather", ARGUMENTS)
    assert message.tool_calls is None
    assert reply.json()["choices"][0]["finish_reason"] == "function_call"
    calls = engine.asked[0][1].calls
    assert calls is not None
    assert [function["name"] for function in calls.functions] == described
    assert (calls.is_required, calls.is_single) == (is_required, True)
    chunks = events(client.post(PATH, json={**body, "stream": True}).text)
    pieces = [
        chunk["choices"][0]["delta"]["function_call"]
        for chunk in chunks
        if "function_call" in chunk["choices"][0]["delta"]
    ]
    assert [piece["name"] for piece in pieces if "name" in piece] == ["weather"]
    assert "".join(piece["arguments"] for piece in pieces) == ARGUMENTS
    assert chunks[-1]["choices"][0]["finish_reason"] == "function_call"


def test_no_functions_are_none(client: TestClient, engine: FakeEngine) -> None:
    none: list[dict[str, Any]] = [{"functions": []}, {"tools": []}]
    for fields in (*none, {**OLDER, "function_call": "none"}):
        reply = client.post(PATH, json={"messages": HELLO, **fields})
        assert reply.json()["choices"][0]["message"]["content"] == "北京。"
        assert engine.asked[-1][1].calls is None
        named = reply.headers.get("X-Ignored-Parameters")
        assert named == ("functions" if "function_call" in fields else None)


def test_the_older_form_is_passed_over_beside_the_newer(
    client: TestClient, engine: FakeEngine
) -> None:
    engine.script = script(CALL)
    reply = client.post(PATH, json={**OLDER, **ASK})
    assert reply.headers["X-Ignored-Parameters"] == "functions"
    assert reply.json()["choices"][0]["finish_reason"] == "tool_calls"


def test_results_are_shown_with_their_functions_in_the_order_of_the_calls(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}},
        {"id": "b", "type": "function", "function": {"name": "now", "arguments": {}}},
    ]
    results = [
        {"role": "tool", "tool_call_id": "b", "content": "8:00"},
        {"role": "tool", "tool_call_id": "a", "content": "晴"},
        {"role": "tool", "tool_call_id": "?", "content": "什么"},
    ]
    asked = {"role": "assistant", "content": "好", "tool_calls": calls}
    client.post(PATH, json={"messages": [*HELLO, asked, *results, *HELLO]})
    assert demo_encoder.decode(engine.asked[-1][0].ids).endswith(
        f"你好 [/INST] 好\n{CALL}\n{NOW_CALL}</s><s>[INST] 函数 weather 的结果：晴\n"
        "函数 now 的结果：8:00\n什么\n你好 [/INST]"
    )


def test_speakers_are_named_where_a_role_has_several(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    one = {"role": "user", "content": "甲", "name": "小王"}
    other = {"role": "user", "content": "乙", "name": "writer"}
    answer = {"role": "assistant", "content": "丙", "name": "bot"}
    reply = client.post(PATH, json={"messages": [one, answer, other]})
    assert reply.headers["X-Ignored-Parameters"].count("name") == 1
    text = demo_encoder.decode(engine.asked[-1][0].ids)
    assert text.endswith("小王: 甲 [/INST] 丙</s><s>[INST] writer: 乙 [/INST]")
    reply = client.post(PATH, json={"messages": [one, answer, one]})
    assert reply.headers["X-Ignored-Parameters"].count("name") == 3
    assert "小王" not in demo_encoder.decode(engine.asked[-1][0].ids)


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
        ({"num_beams": 2}, "tools"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ({"tool_choice": "auto", "num_beams": 2}, "tools"),
        ({"tool_choice": "auto", "ignore_eos": True}, "tools"),
        ({"tools": None, "tool_choice": None, "function_call": {"name": "now"}}, "function_call"),
        ({"tools": None, "function_call": 1}, "function_call"),
        ({"tools": None, "functions": [{"name": "a b"}]}, "functions[0].name"),
        ({"ignore_eos": True}, "tools"),
        ({"min_tokens": 1}, "tools"),
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
        (allowed("auto", "weather"), ["weather"]),
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
    assert reply.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert "X-Ignored-Parameters" not in reply.headers


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


def test_the_default_of_sampling_penalises_no_name_that_is_copied(
    client: TestClient, engine: FakeEngine
) -> None:
    """A call repeats what the prompt has, so only a penalty that was asked for counts."""
    for fields, penalty in (
        (MAY, 1.0),
        (ASK, 1.0),
        ({**MAY, "repetition_penalty": 1.2}, 1.2),
        ({**MAY, "tool_choice": "none"}, 1.1),
        ({"messages": HELLO}, 1.1),
    ):
        client.post(PATH, json=fields)
        assert engine.asked[-1][1].repetition_penalty == penalty
