"""`POST /v1/responses` over HTTP, on a fake engine: what a body means, and the whole reply."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openai.types.responses import Response

from api.responses_protocol import ResponsesReply
from errors import APIError
from generation import Delta
from prompts.encoder import SentencePieceEncoder
from tests.support.bodies import CHAT, RESPONSES
from tests.support.fake_engine import FakeEngine
from tests.support.replies import error, typed_events

ASK: dict[str, Any] = {"input": "你好"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "name": "weather", "description": "某地的天气", "parameters": SCHEMA}
NAMED = {"type": "function", "name": "weather"}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "某地的天气", "parameters": SCHEMA},
}
FORMAT = {"type": "json_schema", "name": "answer", "schema": SCHEMA}
CALL = {
    "type": "function_call",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"city": "杭州"}',
}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "晴"}
CHAT_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "杭州"}'},
}


def said(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": text}


def respond(client: TestClient, **fields: Any) -> Response:
    """The reply to a body, by the strict types of OpenAI's client."""
    reply = client.post(RESPONSES, json={**ASK, **fields})
    assert reply.status_code == 200, reply.text
    assert reply.json() == ResponsesReply.model_validate(reply.json()).model_dump(
        mode="json", by_alias=True
    )
    return Response.model_validate(reply.json(), strict=True)


def test_an_answer_is_one_message(client: TestClient) -> None:
    response = respond(client)
    assert (response.output_text, response.status) == ("北京。", "completed")
    [message] = response.output
    assert message.type == "message"
    assert (message.role, message.status) == ("assistant", "completed")
    assert (response.id[:5], message.id[:4]) == ("resp_", "msg_")
    assert response.error is None
    assert response.incomplete_details is None
    assert response.completed_at is not None
    usage = response.usage
    assert usage is not None
    assert usage.output_tokens == 4
    assert usage.total_tokens == usage.input_tokens + 4
    assert usage.input_tokens_details.cached_tokens == 0
    assert usage.output_tokens_details.reasoning_tokens == 0


def test_a_cut_answer_is_incomplete(client: TestClient, engine: FakeEngine) -> None:
    engine.script = [Delta(0, "北", (5,)), Delta(0, "京", (6,), "length")]
    response = respond(client, max_output_tokens=2)
    assert (response.output_text, response.status) == ("北京", "incomplete")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.completed_at is None
    assert response.output[0].type == "message"
    assert response.output[0].status == "incomplete"


def test_what_was_asked_for_is_given_back(client: TestClient) -> None:
    sent = {
        "instructions": "简短",
        "max_output_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.7,
        "tools": [TOOL],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "truncation": "auto",
        "metadata": {"run": "7"},
        "text": {"format": FORMAT, "verbosity": "low"},
        "top_logprobs": 2,
    }
    response = respond(client, **sent)
    given_back = response.model_dump(include={*sent}, by_alias=True, exclude_unset=True)
    assert given_back == {**sent, "tools": [{**TOOL, "strict": True}]}
    assert respond(client).model_dump(include={"temperature", "top_p", "metadata"}) == {
        "temperature": 0.2,
        "top_p": 0.9,
        "metadata": {},
    }


@pytest.mark.parametrize(
    ("choice", "given_back"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none", "x": 1}, "none"),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [NAMED]},
            {"type": "allowed_tools", "mode": "auto", "tools": [NAMED]},
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_choice_of_tools_is_given_back(client: TestClient, choice: Any, given_back: Any) -> None:
    tool = {**TOOL, "nobody": [1], "knows": {"a": [None]}, "": 1e300}
    reply = client.post(RESPONSES, json={**ASK, "tools": [tool], "tool_choice": choice}).json()
    assert reply["tool_choice"] == given_back
    assert reply["tools"] == [{**TOOL, "strict": True}]


CONVERSATIONS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "a string": ({"input": "你好"}, [{"role": "user", "content": "你好"}]),
    "instructions": (
        {"input": "你好", "instructions": "简短"},
        [{"role": "system", "content": "简短"}, {"role": "user", "content": "你好"}],
    ),
    "no instructions": (
        {"input": "你好", "instructions": ""},
        [{"role": "system", "content": ""}, {"role": "user", "content": "你好"}],
    ),
    "easy messages": (
        {"input": [{"role": "developer", "content": "短"}, {"role": "user", "content": "你好"}]},
        [{"role": "system", "content": "短"}, {"role": "user", "content": "你好"}],
    ),
    "parts": (
        {
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "你"}]},
                {
                    "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                    "content": [
                        {"type": "output_text", "text": "好", "annotations": [], "logprobs": []},
                        {"type": "refusal", "refusal": "不"},
                    ],
                },
                {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            ]
        },
        [
            {"role": "user", "content": "你"},
            {"role": "assistant", "content": "好\n不"},
            {"role": "user", "content": "a\nb"},
        ],
    ),
    "a call and its output": (
        {"input": [{"role": "user", "content": "天气"}, CALL, OUTPUT]},
        [
            {"role": "user", "content": "天气"},
            {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "晴"},
        ],
    ),
    "calls after text, reasoning between": (
        {
            "input": [
                {"role": "user", "content": "天气"},
                {"type": "reasoning", "id": "rs_1", "content": [{"type": "reasoning_text", "text": "x"}]},
                {"role": "assistant", "content": "我看看"},
                {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "x"},
                {**CALL, "id": "fc_1", "status": "completed"},
                {**CALL, "call_id": "call_2"},
                {**OUTPUT, "output": [{"type": "input_text", "text": "晴"}]},
                {**OUTPUT, "call_id": "call_2", "output": "雨"},
                {"role": "user", "content": "谢谢"},
            ]
        },
        [
            {"role": "user", "content": "天气"},
            {"role": "assistant", "content": "我看看", "tool_calls": [CHAT_CALL, {**CHAT_CALL, "id": "call_2"}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "晴"},
            {"role": "tool", "tool_call_id": "call_2", "content": "雨"},
            {"role": "user", "content": "谢谢"},
        ],
    ),
    "an answer that is continued": (
        {"input": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你"}]},
        [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你"}],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "messages"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_the_prompt_is_that_of_a_chat(
    client: TestClient, engine: FakeEngine, sent: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    reply = client.post(RESPONSES, json=sent)
    assert reply.status_code == 200, reply.text
    assert "X-Ignored-Parameters" not in reply.headers
    assert client.post(CHAT, json={"messages": messages}).status_code == 200
    [mine, chats] = [prompt.ids for prompt, _, _ in engine.asked]
    assert mine == chats


SAME_DECODINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "a limit": ({"max_output_tokens": 9}, {"max_tokens": 9}),
    "the smaller limit": ({"max_output_tokens": 9, "max_tokens": 5}, {"max_tokens": 5}),
    "beams": ({"num_beams": 3, "length_penalty": 0.5}, {"num_beams": 3, "length_penalty": 0.5}),
    "sampling": (
        {"temperature": 1.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 4, "best_of": 2},
        {"temperature": 1.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 4, "best_of": 2},
    ),
    "penalties": (
        {"repetition_penalty": 1.3, "presence_penalty": 0.1, "frequency_penalty": 0.2, "stop": "a"},
        {"repetition_penalty": 1.3, "presence_penalty": 0.1, "frequency_penalty": 0.2, "stop": "a"},
    ),
    "tokens": (
        {"logit_bias": {"5": 1}, "stop_token_ids": [7], "min_tokens": 2, "ignore_eos": True, "bad_words": ["a"]},
        {"logit_bias": {"5": 1}, "stop_token_ids": [7], "min_tokens": 2, "ignore_eos": True, "bad_words": ["a"]},
    ),
    "a choice of texts": ({"structured_outputs": {"choice": ["a"]}}, {"structured_outputs": {"choice": ["a"]}}),
    "a schema": (
        {"text": {"format": FORMAT}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
    ),
    "an object": ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
    "text": ({"text": {"format": {"type": "text"}}}, {"response_format": {"type": "text"}}),
    "log-probabilities": (
        {"include": ["reasoning.encrypted_content", "message.output_text.logprobs"], "top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 3},
    ),
    "a call": ({"tools": [TOOL], "tool_choice": "required"}, {"tools": [CHAT_TOOL], "tool_choice": "required"}),
    "a named call": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}},
        {"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    "an allowed call": (
        {
            "tools": [{**TOOL, "name": "now"}, TOOL],
            "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [NAMED]},
        },
        {"tools": [CHAT_TOOL], "tool_choice": "required"},
    ),
    "no calls": ({"tools": [TOOL], "tool_choice": "none"}, {"tools": [CHAT_TOOL], "tool_choice": "none"}),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "chat"), SAME_DECODINGS.values(), ids=SAME_DECODINGS)
@pytest.mark.parametrize("stream", [False, True])
def test_it_is_decoded_as_a_chat_is(
    client: TestClient, engine: FakeEngine, sent: dict[str, Any], chat: dict[str, Any], stream: bool
) -> None:
    mine = client.post(RESPONSES, json={**ASK, **sent, "stream": stream})
    assert mine.status_code == 200, mine.text
    assert client.post(CHAT, json={"messages": "你好", **chat, "stream": stream}).status_code == 200
    [(prompt, decoding, _), (chats_prompt, chats_decoding, _)] = engine.asked
    assert (prompt.ids, decoding) == (chats_prompt.ids, chats_decoding)


def test_defaults_of_the_server_hold(serve: Callable[..., TestClient], engine: FakeEngine) -> None:
    client = serve(override_generation_config={"temperature": 0.0, "max_new_tokens": 7})
    assert respond(client).temperature == 0
    assert respond(client, temperature=1).temperature == 1
    assert [decoding.max_tokens for _, decoding, _ in engine.asked] == [7, 7]
    shown = client.get("/openapi.json").json()["components"]["schemas"]
    assert shown["ResponsesRequest"]["properties"]["temperature"]["default"] == 0


def test_fields_without_effect_are_named(client: TestClient) -> None:
    """Those of OpenAI's API that change nothing here are accepted silently."""
    accepted = {
        "store": True,
        "reasoning": {"effort": "low"},
        "user": "a",
        "prompt_cache_key": "b",
        "prompt_cache_retention": "24h",
        "safety_identifier": "c",
        "service_tier": "auto",
        "stream_options": {"include_obfuscation": False},
        "include": ["reasoning.encrypted_content"],
        "max_tool_calls": 3,
        "background": False,
        "previous_response_id": None,
        "n": 1,
    }
    assert "X-Ignored-Parameters" not in client.post(RESPONSES, json={**ASK, **accepted}).headers
    ignored = {
        "nobody": 1,
        "text": {"format": {"type": "text", "x": 1}},
        "input": [{"role": "user", "content": "a", "y": 1}],
        "return_token_ids": True,
        "top_logprobs": 2,
        "length_penalty": 2.0,
    }
    for stream in (False, True):
        named = client.post(RESPONSES, json={**ignored, "stream": stream}).headers
        assert sorted(named["X-Ignored-Parameters"].replace("%5B0%5D", "[0]").split(", ")) == [
            "input[0].y",
            "length_penalty",
            "nobody",
            "return_token_ids",
            "text.format.x",
            "top_logprobs",
        ]


STATELESS = "keeps no responses"
WRONG: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "no input": ({"input": None}, "input", "required"),
    "empty input": ({"input": []}, "input", ""),
    "a number": ({"input": 1}, "input", ""),
    "an item that is text": ({"input": ["a"]}, "input[0]", ""),
    "a reference": (
        {"input": [said("a"), {"type": "item_reference", "id": "x"}]}, "input[1].type", STATELESS,
    ),
    "another item": ({"input": [{"type": "computer_call"}]}, "input[0].type", "computer_call"),
    "an item of no type": ({"input": [{"type": ["a"]}]}, "input[0].type", "not supported"),
    "no role": ({"input": [{"type": "message", "content": "a"}]}, "input[0].role", "required"),
    "an unknown role": ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role", ""),
    "no content": ({"input": [{"role": "user"}]}, "input[0].content", "required"),
    "an image": (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image"}]}]},
        "input[0].content[1]", "input_image",
    ),
    "a file": ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]", "input_file"),
    "a screenshot": (
        {"input": [{**OUTPUT, "output": [{"type": "input_image"}]}]}, "input[0].output[0]", "input_image",
    ),
    "a call without arguments": (
        {"input": [{"type": "function_call", "call_id": "a", "name": "b"}]}, "input[0].arguments", "required",
    ),
    "an output of no call": (
        {"input": [{"type": "function_call_output", "output": "a"}]}, "input[0].call_id", "required",
    ),
    "a response before": ({"previous_response_id": "resp_1"}, "previous_response_id", STATELESS),
    "a conversation": ({"conversation": "conv_1"}, "conversation", STATELESS),
    "in the background": ({"background": True}, "background", STATELESS),
    "a stored prompt": ({"prompt": {"id": "pmpt_1"}}, "prompt", "keeps no prompts"),
    "messages": ({"messages": []}, "messages", "'input'"),
    "a chat's format": ({"response_format": {"type": "text"}}, "response_format", "'text'"),
    "a built-in tool": ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type", "only functions"),
    "a custom tool": ({"tools": [{"type": "custom", "name": "a"}]}, "tools[0].type", "only functions"),
    "a chat's tool": ({"tools": [CHAT_TOOL]}, "tools[0].name", "required"),
    "a wrong name": ({"tools": [{**TOOL, "name": "a b"}]}, "tools[0].name", ""),
    "a choice of a built-in tool": ({"tool_choice": {"type": "web_search"}}, "tool_choice.type", ""),
    "a choice without a name": ({"tool_choice": {"type": "function"}}, "tool_choice", "'name'"),
    "a choice of none": ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice", "'tools'"),
    "an unknown function": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice", "not among",
    ),
    "a call of nothing": ({"tool_choice": "required"}, "tool_choice", "not among"),
    "a format without schema": ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format", "'schema'"),
    "an unknown format": ({"text": {"format": {"type": "xml"}}}, "text.format.type", ""),
    "a schema and a choice": (
        {"text": {"format": FORMAT}, "structured_outputs": {"choice": ["a"]}}, "structured_outputs", "'text.format'",
    ),
    "a format with beams": ({"text": {"format": FORMAT}, "num_beams": 2}, "text.format", "'text.format'"),
    "more tokens than at most": ({"min_tokens": 9, "max_output_tokens": 5}, "min_tokens", "'max_output_tokens'"),
    "too many tokens": ({"max_output_tokens": -1}, "max_output_tokens", ""),
    "two answers": ({"n": 2}, "n", ""),
    "numbers as metadata": ({"metadata": {"a": 1}}, "metadata", "strings"),
    "long metadata": ({"metadata": {"a": "b" * 513}}, "metadata", "512"),
    "many metadata": ({"metadata": dict.fromkeys(map(str, range(17)), "a")}, "metadata", ""),
    "wrong truncation": ({"truncation": "left"}, "truncation", ""),
    "too hot": ({"temperature": 3}, "temperature", ""),
    "another server's field": ({"grammar": "a"}, "grammar", "'structured_outputs'"),
    "another server's limit": ({"n_predict": 3}, "n_predict", "'max_output_tokens'"),
    "a field of a chat": ({"logprobs": "many"}, "include", ""),
    "too long": ({"input": "字" * 9000}, "input", "maximum context length"),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "param", "words"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_a_400_that_names_the_clients_own_field(
    client: TestClient,
    engine: FakeEngine,
    sent: dict[str, Any],
    param: str | None,
    words: str,
    stream: bool,
) -> None:
    failure = error(client.post(RESPONSES, json={**ASK, **sent, "stream": stream}), 400)
    assert failure.param == param
    assert words in failure.message
    assert not engine.asked


def test_an_unknown_model_is_not_found(client: TestClient) -> None:
    failure = error(client.post(RESPONSES, json={**ASK, "model": "other"}), 404)
    assert (failure.param, failure.code) == ("model", "model_not_found")


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
@pytest.mark.parametrize("path", ["resp_1", "resp_1/input_items", "resp_1/cancel"])
def test_no_response_is_found(client: TestClient, method: str, path: str) -> None:
    failure = error(client.request(method, f"{RESPONSES}/{path}"), 404)
    assert STATELESS in failure.message


def test_a_failure_before_the_first_token_has_its_status(
    client: TestClient, engine: FakeEngine
) -> None:
    engine.script = [APIError(503, "The engine is busy.", code="server_overloaded")]
    for stream in (False, True):
        error(client.post(RESPONSES, json={**ASK, "stream": stream}), 503)
    engine.room = 0
    for truncation in ("auto", "disabled"):
        error(client.post(RESPONSES, json={**ASK, "truncation": truncation}), 503)


def test_the_id_is_that_of_the_request(client: TestClient, lines: Callable[[], list[str]]) -> None:
    reply = client.post(RESPONSES, json=ASK)
    assert reply.json()["id"] == f"resp_{reply.headers['X-Request-Id']}"
    [line] = lines()
    assert "path=/v1/responses status=200" in line
    assert "finish_reason=stop" in line


def texts_of_prompt(engine: FakeEngine, encoder: SentencePieceEncoder) -> str:
    return encoder.decode(engine.asked[-1][0].ids)


def test_the_oldest_turns_are_left_out_of_a_conversation_that_is_too_long(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    engine.max_model_len = 200
    turns = [
        item for at in range(30) for item in (said(f"问题{at}号"), said(f"回答{at}号", "assistant"))
    ]
    sent = {"input": [said("系统的话", "system"), *turns, said("最后")], "instructions": "简短"}
    failure = error(client.post(RESPONSES, json=sent), 400)
    assert (failure.param, failure.code) == ("input", "context_length_exceeded")
    for limit, room in ((10, 10), (400, 50), (None, 50)):
        ask = {**sent, "truncation": "auto", "max_output_tokens": limit}
        assert client.post(RESPONSES, json=ask).json()["truncation"] == "auto"
        text = texts_of_prompt(engine, demo_encoder)
        assert "简短" in text
        assert "系统的话" in text
        assert "最后" in text
        assert "问题0号" not in text
        kept = [at for at in range(30) if f"问题{at}号" in text]
        assert kept == list(range(kept[0], 30))
        used = len(engine.asked[-1][0].ids)
        assert used <= 200 - room
        more = [said("系统的话", "system"), *turns[2 * kept[0] - 2 :], said("最后")]
        engine.max_model_len = 2048
        client.post(RESPONSES, json={**sent, "input": more})
        assert len(engine.asked[-1][0].ids) > 200 - room
        engine.max_model_len = 200


def test_a_conversation_that_fits_is_left_as_it_is(client: TestClient, engine: FakeEngine) -> None:
    sent = {"input": [said("一"), said("二", "assistant"), said("三")], "max_output_tokens": 5}
    for truncation in ("auto", "disabled"):
        client.post(RESPONSES, json={**sent, "truncation": truncation})
    first, second = [prompt.ids for prompt, _, _ in engine.asked]
    assert first == second


def test_no_output_is_left_without_its_call(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    """Also where the output comes after a later question."""
    engine.max_model_len = 120
    sent = [said("旧" * 60), CALL, said("新的问题"), {**OUTPUT, "output": "输出"}, said("最后")]
    reply = client.post(RESPONSES, json={"input": sent, "truncation": "auto"})
    assert reply.status_code == 200, reply.text
    text = texts_of_prompt(engine, demo_encoder)
    assert "旧" not in text
    assert "新的问题" in text
    assert "输出" not in text


@pytest.mark.parametrize(
    "sent", [[said("字" * 9000)], [said("a"), said("b", "assistant"), said("字" * 9000)]]
)
def test_a_last_turn_that_is_too_long_is_a_400(client: TestClient, sent: Any) -> None:
    failure = error(client.post(RESPONSES, json={"input": sent, "truncation": "auto"}), 400)
    assert (failure.param, failure.code) == ("input", "context_length_exceeded")


def test_many_calls_of_one_turn_are_read(client: TestClient, engine: FakeEngine) -> None:
    engine.max_model_len = 100_000
    calls = [{**CALL, "call_id": f"call_{at}"} for at in range(300)]
    assert client.post(RESPONSES, json={"input": [said("a"), *calls]}).status_code == 200


def test_a_call_is_an_item_of_its_own(client: TestClient, engine: FakeEngine) -> None:
    engine.script = [
        Delta(0, '{"name": "weather", "arguments": {"city": "杭州"}}', (5,)),
        Delta(0, "", (2,), "stop"),
    ]
    fields: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required"}
    response = respond(client, **fields)
    [call] = response.output
    assert call.type == "function_call"
    assert (call.name, call.arguments, call.status) == ("weather", '{"city": "杭州"}', "completed")
    assert call.id is not None
    assert (call.id[:3], call.call_id[:5]) == ("fc_", "call_")
    assert response.status == "completed"
    streamed = typed_events(client.post(RESPONSES, json={**ASK, **fields, "stream": True}).text)
    assert streamed[-1]["response"]["output"][0]["arguments"] == call.arguments
    again = [said("天气"), *(item.model_dump() for item in response.output)]
    reply = client.post(RESPONSES, json={"input": [*again, {**OUTPUT, "call_id": call.call_id}]})
    assert reply.status_code == 200
    assert "X-Ignored-Parameters" not in reply.headers
