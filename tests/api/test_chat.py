"""`POST /v1/chat/completions` over HTTP, on a fake engine."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from starlette.types import Message, Receive, Scope, Send

from api.app import build_app
from generation import Delta
from prompt_template import PromptTemplate
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import ALPACA_2
from settings import Settings
from tests.support.fake_engine import SCRIPTS, FakeEngine
from tests.support.replies import events

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "你好"}]


def test_a_conversation_is_answered(client: TestClient) -> None:
    reply = client.post(PATH, json={"model": "chinese-llama-alpaca-2", "messages": HELLO})
    body = ChatCompletion.model_validate(reply.json())
    assert re.fullmatch(r"chatcmpl-\w{22}", body.id)
    assert body.choices[0].message.content == "北京。"
    assert reply.json()["choices"][0]["message"] == {
        "role": "assistant",
        "content": "北京。",
        "refusal": None,
    }
    assert reply.json()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_joined_stream_equals_the_plain_reply(
    client: TestClient, engine: FakeEngine, name: str
) -> None:
    engine.script = SCRIPTS[name]
    fields = {"messages": HELLO, "n": 1 + (name == "two choices")}
    plain = client.post(PATH, json=fields).json()
    reply = client.post(
        PATH, json={**fields, "stream": True, "stream_options": {"include_usage": True}}
    )
    chunks = events(reply.text)
    usage = chunks.pop()
    assert (usage["choices"], usage["usage"]) == ([], plain["usage"])
    for choice in plain["choices"]:
        deltas = [
            chunk["choices"][0]
            for chunk in chunks
            if chunk["choices"][0]["index"] == choice["index"]
        ]
        assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
        assert deltas[-1]["delta"] == {}
        assert [delta["finish_reason"] for delta in deltas] == [None] * (len(deltas) - 1) + [
            choice["finish_reason"]
        ]
        texts = [delta["delta"]["content"] for delta in deltas[1:-1]]
        assert all(texts)
        assert "".join(texts) == choice["message"]["content"]
    assert (
        len(
            {
                (chunk["id"], chunk["created"], chunk["model"], chunk["object"])
                for chunk in [*chunks, usage]
            }
        )
        == 1
    )


def test_each_frame_is_the_json_of_the_model(client: TestClient, engine: FakeEngine) -> None:
    from protocol import ChatChunk

    engine.script = SCRIPTS["emoji and quotes"]
    reply = client.post(PATH, json={"messages": HELLO, "stream": True})
    for frame in reply.text.split("\n\n")[:-2]:
        payload = frame.removeprefix("data: ")
        assert payload == ChatChunk.model_validate_json(payload).model_dump_json()
        ChatCompletionChunk.model_validate_json(payload)


def test_a_stream_is_not_buffered_or_cached(client: TestClient) -> None:
    headers = client.post(PATH, json={"messages": HELLO, "stream": True}).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in headers


@pytest.mark.parametrize(
    "messages",
    [
        "你好",
        [{"role": "user", "content": [{"type": "text", "text": "你好"}]}],
        [{"role": "user", "content": "你好", "name": "张三"}],
        [{"role": "user", "content": ["你好"]}],
    ],
)
def test_messages_as_they_come(
    client: TestClient,
    engine: FakeEngine,
    demo_encoder: SentencePieceEncoder,
    messages: list[dict[str, Any]] | str,
) -> None:
    assert client.post(PATH, json={"messages": messages}).status_code == 200
    assert demo_encoder.decode(engine.asked[0][0].ids).endswith("<</SYS>>\n\n你好 [/INST]")


def test_all_roles_are_read(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "天气", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "简短。"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "杭州"}, {"type": "text", "text": "天气？"}],
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "晴"},
        {"role": "assistant"},
        {"role": "user", "content": ""},
    ]
    assert client.post(PATH, json={"messages": messages}).status_code == 200
    text = demo_encoder.decode(engine.asked[0][0].ids)
    assert text.startswith("<s>[INST] <<SYS>>\n简短。\n<</SYS>>\n\n杭州\n天气？ [/INST] {")
    assert '[/INST] {"name": "天气", "arguments": {}}</s>' in text
    assert text.endswith("</s><s>[INST] 函数 天气 的结果：晴 [/INST] </s><s>[INST]  [/INST]")


def test_text_parts_of_the_responses_api_are_text(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    kinds = {"user": "input_text", "assistant": "output_text"}
    told = [("user", "杭州"), ("assistant", "西湖"), ("user", "在哪里？")]
    messages = [
        {"role": role, "content": [{"type": kinds[role], "text": text, "annotations": []}]}
        for role, text in told
    ]
    reply = client.post(PATH, json={"messages": messages})
    assert (reply.status_code, "X-Ignored-Parameters" in reply.headers) == (200, False)
    text = demo_encoder.decode(engine.asked[0][0].ids)
    assert text.endswith("杭州 [/INST] 西湖</s><s>[INST] 在哪里？ [/INST]")


def test_nothing_of_a_message_is_dropped_silently(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    messages = [
        {"role": "user", "content": "甲", "name": "张三"},
        {"role": "assistant", "content": None, "function_call": {"name": "天气"}, "audio": None},
        {"role": "function", "name": "天气", "content": "晴"},
        {"role": "assistant", "content": None, "refusal": "不行"},
        {"role": "user", "content": "", "contnet": "乙"},
    ]
    reply = client.post(PATH, json={"messages": messages})
    assert reply.headers["X-Ignored-Parameters"] == "messages[4].contnet"
    text = demo_encoder.decode(engine.asked[0][0].ids)
    assert text.endswith(
        '张三: 甲 [/INST] {"name": "天气", "arguments": {}}</s>'
        "<s>[INST] 函数 天气 的结果：晴 [/INST] 不行</s><s>[INST]  [/INST]"
    )


def test_an_empty_answer_at_the_end_is_none(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    client.post(PATH, json={"messages": [*HELLO, {"role": "assistant", "content": ""}]})
    client.post(PATH, json={"messages": HELLO})
    assert engine.asked[0][0].ids == engine.asked[1][0].ids


def test_what_comes_at_once_is_sent_at_once(
    serve: Callable[..., TestClient], engine: FakeEngine
) -> None:
    """One write for the role and the first text, one for each text, one for the end and the usage, and [DONE]."""
    app = serve().app
    written = []

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        async def count(message: Message) -> None:
            written.append(message)
            await send(message)

        await app(scope, receive, count)

    fields = {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    TestClient(counted).post(PATH, json=fields)
    bodies = [message["body"] for message in written if message["type"] == "http.response.body"]
    assert [body.count(b"data: ") for body in bodies] == [2, 1, 2, 1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{}, {"logprobs": True}, {"n": 2}], ids=str)
def test_token_ids_are_returned_beside_the_answer(
    client: TestClient, engine: FakeEngine, stream: bool, fields: dict[str, Any]
) -> None:
    script = [
        Delta(0, "", (9,)),
        Delta(0, "北京", (5, 6)),
        Delta(0, "", (7,)),
        Delta(0, "", (2,), "stop"),
    ]
    engine.script = [
        replace(delta, index=index) for index in range(fields.get("n", 1)) for delta in script
    ]
    body = {"messages": HELLO, "return_token_ids": True, "stream": stream, **fields}
    reply = client.post(PATH, json=body)
    pieces = events(reply.text) if stream else [reply.json()]
    assert [piece["prompt_token_ids"] for piece in pieces if "prompt_token_ids" in piece] == [
        engine.asked[0][0].ids
    ]
    assert "prompt_token_ids" in pieces[0]
    choices = [choice for piece in pieces for choice in piece["choices"]]
    for index in range(fields.get("n", 1)):
        told = [choice.get("token_ids", []) for choice in choices if choice["index"] == index]
        assert [token_id for token_ids in told for token_id in token_ids] == [9, 5, 6, 7, 2]
    if stream:
        assert [choice["token_ids"] for choice in choices if choice["delta"].get("content")] == [
            [9, 5, 6]
        ] * fields.get("n", 1)


def test_fields_for_a_jinja_template_are_refused_where_there_is_one(
    engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    fields = {"messages": HELLO, "chat_template_kwargs": {"enable_thinking": False}}
    for is_jinja, status in ((True, 400), (False, 200)):
        template = PromptTemplate(replace(ALPACA_2, is_jinja=is_jinja), demo_encoder)
        reply = TestClient(build_app(engine, template, Settings())).post(PATH, json=fields)
        assert reply.status_code == status
