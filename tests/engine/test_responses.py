"""`/v1/responses` on the real engine: what a chat answers, whole and streamed, and free when its client leaves."""

import json
import time
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.support.bodies import CHAT, RESPONSES
from tests.support.polling import wait_for
from tests.support.questions import CAPITAL
from tests.support.replies import numbers, typed_events
from tests.support.server_process import Server, connect
from tests.support.wire import posted

pytestmark = pytest.mark.engine

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["北京", "杭州"]}},
    "required": ["city"],
}
ASK = {"input": CAPITAL, "temperature": 0, "max_output_tokens": 60}
KINDS: dict[str, dict[str, Any]] = {
    "text": {},
    "sampled": {"temperature": 1.2, "seed": 3},
    "cut": {"max_output_tokens": 3},
    "nothing": {"max_output_tokens": 0},
    "beams": {"num_beams": 3},
    "a stop": {"stop": "。"},
    "a schema": {"text": {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA}}},
    "a call": {
        "tools": [{"type": "function", "name": "visit", "parameters": SCHEMA}],
        "tool_choice": "required",
    },
    "a call that is cut": {
        "tools": [{"type": "function", "name": "visit", "parameters": SCHEMA}],
        "tool_choice": "required",
        "max_output_tokens": 25,
    },
    "log-probabilities": {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
}


def output(response: dict[str, Any]) -> list[Any]:
    """The items without their ids."""
    return [
        {name: value for name, value in item.items() if name not in ("id", "call_id")}
        for item in response["output"]
    ]


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
def test_a_stream_ends_with_the_plain_reply(http: httpx.Client, fields: dict[str, Any]) -> None:
    plain = http.post(RESPONSES, json={**ASK, **fields})
    assert plain.status_code == 200, plain.text
    events = typed_events(http.post(RESPONSES, json={**ASK, **fields, "stream": True}).text)
    last = events[-1]["response"]
    told = plain.json()
    if "include" in fields:  # their last digits depend on what else is in the batch
        for response in (last, told):
            del response["output"][0]["content"][0]["logprobs"]
    for response in (last, told):  # a prompt that was asked before comes from vLLM's cache
        del response["usage"]["input_tokens_details"]
    assert output(last) == output(told)
    for name in ("status", "usage", "incomplete_details"):
        assert last[name] == told[name]
    deltas = "".join(event["delta"] for event in events if event["type"].endswith(".delta"))
    [item] = last["output"]
    assert deltas == (
        item["content"][0]["text"] if item["type"] == "message" else item["arguments"]
    )


def test_the_answer_is_that_of_a_chat(http: httpx.Client) -> None:
    mine = http.post(RESPONSES, json=ASK).json()
    chat = http.post(CHAT, json={"messages": CAPITAL, "temperature": 0, "max_tokens": 60}).json()
    assert mine["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert [mine["usage"][f"{kind}_tokens"] for kind in ("input", "output", "total")] == [
        *chat["usage"].values()
    ]
    assert "北京" in mine["output"][0]["content"][0]["text"]


@pytest.mark.parametrize("fields", [{}, {"stream": True}], ids=str)
def test_tokens_from_the_cache_are_counted(http: httpx.Client, fields: dict[str, Any]) -> None:
    """vLLM keeps whole blocks of a prompt, of up to 128 tokens."""
    body = {**ASK, "input": f"{fields}{CAPITAL}" + "西湖在杭州。" * 60, "max_output_tokens": 5}

    def cached() -> int:
        reply = http.post(RESPONSES, json={**body, **fields})
        whole = typed_events(reply.text)[-1]["response"] if "stream" in fields else reply.json()
        usage = whole["usage"]
        assert usage["input_tokens_details"]["cached_tokens"] < usage["input_tokens"]
        return int(usage["input_tokens_details"]["cached_tokens"])

    first = cached()
    assert cached() > max(first, 100)


def test_a_call_is_valid_and_its_result_is_read(http: httpx.Client) -> None:
    said = {"role": "user", "content": "我想去杭州看看"}
    [call] = http.post(RESPONSES, json={**KINDS["a call"], "input": [said]}).json()["output"]
    assert set(json.loads(call["arguments"])) == {"city"}
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "西湖"}
    reply = http.post(RESPONSES, json={"input": [said, call, result], "max_output_tokens": 20})
    assert reply.status_code == 200
    assert reply.json()["output"][0]["type"] == "message"


def test_a_conversation_never_becomes_too_long(http: httpx.Client) -> None:
    turns = [{"role": "user", "content": CAPITAL}, {"role": "assistant", "content": "北京。" * 20}]
    said = [*turns * 40, turns[0]]
    assert http.post(RESPONSES, json={**ASK, "input": said}).status_code == 400
    response = http.post(RESPONSES, json={**ASK, "input": said, "truncation": "auto"}).json()
    assert response["error"] is None
    assert response["output"][0]["content"][0]["text"]
    assert response["usage"]["input_tokens"] > 1700


def test_openais_client_reads_what_it_asks_for(openai: OpenAI) -> None:
    response = openai.responses.create(model="chinese-llama-alpaca-2", input=CAPITAL, temperature=0)
    assert "北京" in response.output_text
    with openai.responses.stream(
        model="chinese-llama-alpaca-2", input=CAPITAL, temperature=0
    ) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == response.output_text


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_frees_the_engine(server: Server, http: httpx.Client, stream: bool) -> None:
    def unfinished() -> float:
        return numbers(http)["engine_requests_unfinished"]

    assert wait_for(lambda: unfinished() == 0, 5)
    long = {"max_output_tokens": 1900, "min_tokens": 1900, "stream": stream}
    with connect(server) as connection:
        connection.sendall(posted(RESPONSES, {"input": "讲一个故事", **long}))
        assert wait_for(lambda: unfinished() == 1, 10)
        time.sleep(0.3)
    assert wait_for(lambda: unfinished() == 0, 1)
