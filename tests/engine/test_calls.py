"""Calls that the demo model decides on, decoded by the real engine: always valid, and in a stream the same."""

import json
from typing import Any

import httpx
import jsonschema
import pytest

from tests.support.bodies import CHAT, RESPONSES
from tests.support.joined import of_reply, of_stream
from tests.support.replies import events, typed_events

pytestmark = pytest.mark.engine

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "查询某地的天气", "parameters": CITY}
SEARCH = {
    "name": "search",
    "description": "在互联网上查找资料",
    "parameters": {
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"enum": [1, 5, 10]}},
        "required": ["query"],
    },
}
TOOLS = [{"type": "function", "function": function} for function in (WEATHER, SEARCH)]
ASKED = "杭州的天气怎么样？"
MAY_CALL: dict[str, Any] = {"messages": ASKED, "tools": TOOLS, "temperature": 0}


def answer(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """The first choice of the plain reply, which the stream of the same request joins to."""
    body = {**MAY_CALL, **fields}
    reply = http.post(CHAT, json=body)
    assert reply.status_code == 200, reply.text
    choice: dict[str, Any] = reply.json()["choices"][0]
    chunks = events(http.post(CHAT, json={**body, "stream": True}).text)
    whole, streamed = of_reply(CHAT, reply.json())[0], of_stream(CHAT, chunks)[0]
    for one in (whole, streamed):  # their last digits depend on what else is in the batch
        del one["logprobs"]
    assert streamed == whole
    return choice


def calls_of(choice: dict[str, Any]) -> list[tuple[str, Any]]:
    """The names and arguments of a choice's calls."""
    called = [call["function"] for call in choice["message"].get("tool_calls", [])]
    return [(call["name"], json.loads(call["arguments"])) for call in called]


def test_the_model_calls_what_a_question_needs(http: httpx.Client) -> None:
    choice = answer(http)
    assert calls_of(choice) == [("get_weather", {"city": "杭州"})]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)


def test_the_model_answers_in_text_where_no_function_helps(http: httpx.Client) -> None:
    choice = answer(http, messages="中国的首都是哪里？")
    assert "北京" in choice["message"]["content"]
    assert (choice["finish_reason"], calls_of(choice)) == ("stop", [])


def test_the_model_answers_by_a_result_that_comes_back(http: httpx.Client) -> None:
    asked = {"role": "user", "content": ASKED}
    message = answer(http)["message"]
    result = {
        "role": "tool",
        "tool_call_id": message["tool_calls"][0]["id"],
        "content": "晴，21 度",
    }
    choice = answer(http, messages=[asked, message, result])
    assert "晴" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


def test_a_response_has_the_same_calls(http: httpx.Client) -> None:
    flat = [{"type": "function", **function} for function in (WEATHER, SEARCH)]
    body = {"input": ASKED, "tools": flat, "temperature": 0}
    [item] = http.post(RESPONSES, json=body).json()["output"]
    assert (item["type"], item["name"]) == ("function_call", "get_weather")
    assert json.loads(item["arguments"]) == {"city": "杭州"}
    last = typed_events(http.post(RESPONSES, json={**body, "stream": True}).text)[-1]["response"]
    [streamed] = last["output"]
    for name in ("name", "arguments", "status"):
        assert streamed[name] == item[name]


@pytest.mark.parametrize("fields", [{}, {"parallel_tool_calls": False}, {"n": 3}], ids=str)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_calls_are_valid_however_wild_the_sampling_is(
    http: httpx.Client, choice: str, fields: dict[str, Any]
) -> None:
    schemas = {function["name"]: function["parameters"] for function in (WEATHER, SEARCH)}
    made = 0
    for seed in range(12):
        body = {**MAY_CALL, "tool_choice": choice, "temperature": 1.7, "top_k": -1, "top_p": 1}
        body |= {"seed": seed, "max_tokens": 200, **fields}
        for one in http.post(CHAT, json=body).json()["choices"]:
            calls = one["message"].get("tool_calls", [])
            if one["finish_reason"] == "length":  # only the last one may be cut off
                calls = calls[:-1]
            for call in calls:
                arguments = json.loads(call["function"]["arguments"])
                jsonschema.validate(arguments, schemas[call["function"]["name"]])
            made += len(calls)
            if "parallel_tool_calls" in fields:
                assert len(calls) <= 1
            if choice == "required":
                assert not one["message"]["content"]
    assert made > 0


@pytest.mark.parametrize("message", [ASKED, "中国的首都是哪里？"])
def test_text_beside_functions_keeps_its_format(http: httpx.Client, message: str) -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string"}},
        "required": ["answer"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    choice = answer(http, messages=message, response_format=wanted)
    if calls_of(choice):
        assert choice["finish_reason"] == "tool_calls"
    else:
        jsonschema.validate(json.loads(choice["message"]["content"]), schema)


def test_stop_strings_end_text_and_no_call(http: httpx.Client) -> None:
    forced = answer(http, tool_choice="required", stop=["杭", '"'])
    assert calls_of(forced)[0][0] in ("get_weather", "search")
    choice = answer(http, messages="中国的首都是哪里？", stop=["京"])
    assert choice["message"]["content"].endswith("北")


def test_log_probabilities_are_of_the_text(http: httpx.Client) -> None:
    for message, has_text in (("中国的首都是哪里？", True), (ASKED, False)):
        choice = answer(http, messages=message, logprobs=True)
        spelt = bytes(
            byte for token in choice["logprobs"]["content"] for byte in token["bytes"]
        ).decode()
        assert spelt == (choice["message"]["content"] or "")
        assert bool(spelt) == has_text
