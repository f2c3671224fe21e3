"""Structured output and calls of functions, decoded by the real engine on the demo model."""

import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import jsonschema
import pytest

from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.replies import events
from tests.support.server_process import Server

pytestmark = pytest.mark.engine

QUESTION = "中国的首都在哪里？"
CITY = {
    "type": "object",
    "properties": {
        "city": {"enum": ["北京", "上海"]},
        "size": {"type": "integer", "minimum": 1, "maximum": 99},
        "names": {
            "type": "array",
            "items": {"type": "string", "maxLength": 6},
            "minItems": 2,
            "maxItems": 3,
        },
        "old": {"type": ["boolean", "null"]},
    },
    "required": ["city", "size", "names", "old"],
}
TOOL = {
    "type": "function",
    "function": {"name": "visit", "description": "去一个城市", "parameters": CITY},
}
CALL = {
    "tools": [TOOL, {"type": "function", "function": {"name": "stay"}}],
    "tool_choice": "required",
}
SCHEMA = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
}
WIDE = {
    "type": "object",
    "properties": {f"k{number}": {"type": "string"} for number in range(1500)},
}
DEEP = {"type": "object", "properties": {"outer": WIDE}, "required": ["outer"]}


def is_json(text: str) -> bool:
    return isinstance(json.loads(text), dict)


def keeps_city(text: str) -> bool:
    jsonschema.validate(json.loads(text), CITY)
    return True


KINDS: dict[str, tuple[dict[str, Any], Callable[[str], object]]] = {
    "schema": (SCHEMA, keeps_city),
    "json": ({"structured_outputs": {"json": CITY}}, keeps_city),
    "choice": (
        {"structured_outputs": {"choice": ["巴黎", "东京"]}},
        lambda text: text in ("巴黎", "东京"),
    ),
    "regex": (
        # Of all digits of Unicode, `\d`, Python's `re` knows those of an older version.
        {"structured_outputs": {"regex": "[0-9]{3}-[0-9]{4}"}},
        lambda text: re.fullmatch("[0-9]{3}-[0-9]{4}", text),
    ),
    "lark": (
        {"structured_outputs": {"grammar": 'start: "北" /[一二]{3}/'}},
        lambda text: re.fullmatch("北[一二]{3}", text),
    ),
    "control tokens' names": (
        {"structured_outputs": {"choice": ["<s>删除</s>", "</s>"]}},
        lambda text: text in ("<s>删除</s>", "</s>"),
    ),
    "llama.cpp's schema": (
        {"response_format": {"type": "json_object", "schema": CITY}},
        keeps_city,
    ),
    "gbnf": (
        {"structured_outputs": {"grammar": 'root ::= "a" [0-9] [0-9]'}},
        lambda text: re.fullmatch("a[0-9]{2}", text),
    ),
    "a schema by its former name": ({"guided_json": json.dumps(CITY)}, keeps_city),
    "guidance's client": (
        {
            "guided_grammar": "start: /[0-9]/",
            "structured_outputs": {
                "grammar": '%llguidance {}\n\nstart: f\nf: "北" c " " d\nc[capture, max_tokens=3]: C\n'
                'C: /[一二]+/\nd[capture]: D\n\nD: "甲"\n     | "乙"\n'
            },
        },
        lambda text: re.fullmatch("北[一二]+ [甲乙]", text),
    ),
}


@pytest.mark.parametrize(
    "ways",
    [{"temperature": 0}, {"temperature": 1.5, "n": 3}, {"best_of": 4, "n": 2}],
    ids=json.dumps,
)
@pytest.mark.parametrize("kind", KINDS)
def test_replies_keep_what_was_asked_for_on_both_endpoints(
    http: httpx.Client, kind: str, ways: dict[str, Any]
) -> None:
    fields, holds = KINDS[kind]
    for path, prompt in (
        (CHAT, {"messages": QUESTION}),
        (COMPLETIONS, {"prompt": [QUESTION, "1 + 1 = ?"]}),
    ):
        reply = http.post(path, json={**prompt, **fields, **ways})
        assert reply.status_code == 200, reply.text
        for choice in reply.json()["choices"]:
            assert choice["finish_reason"] == "stop"
            assert holds(choice["text"] if path == COMPLETIONS else choice["message"]["content"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_joins_to_the_plain_reply(http: httpx.Client, kind: str) -> None:
    fields, _ = KINDS[kind]
    ask = {"messages": QUESTION, "temperature": 0, **fields}
    plain = http.post(CHAT, json=ask).json()["choices"][0]["message"]["content"]
    chunks = events(http.post(CHAT, json={**ask, "stream": True}).text)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == plain


def test_what_a_grammar_says_is_not_on_the_terminal(server: Server, http: httpx.Client) -> None:
    """llguidance warns of each end of a rule that it cannot take back."""
    lark = '%llguidance {}\nstart: "x" a\na[stop="marker"]: "y"'
    reply = http.post(CHAT, json={"messages": QUESTION, "structured_outputs": {"grammar": lark}})
    assert reply.json()["choices"][0]["message"]["content"] == "xymarker"
    assert not [line for line in server.lines if "backtrack" in line or "marker" in line]


@pytest.mark.parametrize("key", ["answer", "city", "summary", "名称"])
def test_the_demo_model_ends_free_strings(http: httpx.Client, key: str) -> None:
    """As clients ask by default: strings of any length, which a model that never saw JSON would not end."""
    schema = {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}
    ask = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    }
    for question in (
        QUESTION,
        "法国的首都是哪里？",
        "杭州有什么好玩的？",
        "What is the capital of Japan?",
    ):
        [choice] = http.post(CHAT, json={"messages": question, **ask, "max_tokens": 200}).json()[
            "choices"
        ]
        assert choice["finish_reason"] == "stop"
        assert isinstance(json.loads(choice["message"]["content"])[key], str)


def test_a_json_object_is_one(http: httpx.Client) -> None:
    ask = {
        "messages": QUESTION,
        "response_format": {"type": "json_object"},
        "logit_bias": {},
        "max_tokens": 40,
    }
    [choice] = http.post(CHAT, json=ask).json()["choices"]
    assert choice["message"]["content"].startswith("{")
    assert choice["finish_reason"] == "length" or is_json(choice["message"]["content"])


def test_log_probabilities_do_not_change_a_structured_reply(http: httpx.Client) -> None:
    ask = {"messages": QUESTION, "temperature": 0, **SCHEMA}
    plain = http.post(CHAT, json=ask).json()["choices"][0]
    told = http.post(CHAT, json={**ask, "logprobs": True, "top_logprobs": 2}).json()["choices"][0]
    assert told["message"] == plain["message"]
    spelt = b"".join(bytes(token["bytes"]) for token in told["logprobs"]["content"])
    assert spelt.decode() == plain["message"]["content"]


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "visit"}}], ids=str
)
def test_a_call_is_valid_plain_and_streamed(
    http: httpx.Client, choice: str | dict[str, Any]
) -> None:
    ask = {"messages": QUESTION, "temperature": 0, **CALL, "tool_choice": choice}
    [plain] = http.post(CHAT, json=ask).json()["choices"]
    assert plain["finish_reason"] == "tool_calls"
    called = plain["message"]["tool_calls"][0]["function"]
    assert called == {"name": "stay", "arguments": "{}"} or (
        called["name"] == "visit" and keeps_city(called["arguments"])
    )
    chunks = events(http.post(CHAT, json={**ask, "stream": True}).text)
    pieces = [
        piece for chunk in chunks for piece in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert pieces[0]["function"]["name"] == called["name"]
    assert "".join(piece["function"]["arguments"] for piece in pieces) == called["arguments"]


def test_a_schema_too_complex_on_the_way_is_a_400_and_in_a_stream_an_event(
    http: httpx.Client,
) -> None:
    ask = {
        "messages": QUESTION,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": DEEP}},
    }
    reply = http.post(CHAT, json=ask)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "response_format")
    streamed = http.post(CHAT, json={**ask, "stream": True})
    error = (
        events(streamed.text)[-1]["error"]
        if streamed.status_code == 200
        else streamed.json()["error"]
    )
    assert error["param"] == "response_format"


MONSTERS = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    for schema in (
        DEEP,
        WIDE,
        {"type": "array", "uniqueItems": True},
        {
            "type": "object",
            "properties": {
                f"k{number}": {"type": "string", "minLength": 3} for number in range(400)
            },
        },
    )
] + [
    {"structured_outputs": {"regex": "(.*a){40}.{500}b"}},
    {"structured_outputs": {"grammar": "\n" * 16_000}},
]


def test_monstrous_requests_hurt_nobody_elses_stream(server: Server, http: httpx.Client) -> None:
    """A stream's worst gap while each of them is sent six times; they are refused or cut off at 5 tokens."""
    ends = threading.Event()
    statuses: list[int] = []

    def attack() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(4) as pool:
            jobs = [
                pool.submit(
                    client.post, CHAT, json={"messages": QUESTION, "max_tokens": 5, **monster}
                )
                for monster in MONSTERS * 6
            ]
            statuses.extend(job.result().status_code for job in jobs)
        ends.set()

    attacker = threading.Thread(target=attack)
    times = []
    attacker.start()
    while not ends.is_set():
        ask = {
            "messages": "给我讲一些有关杭州的故事吧",
            "stream": True,
            "max_tokens": 300,
            "ignore_eos": True,
        }
        with http.stream("POST", CHAT, json=ask) as stream:
            times += [
                time.perf_counter() for line in stream.iter_lines() if line.startswith("data: {")
            ]
    attacker.join()
    assert set(statuses) == {200, 400}
    assert max(after - before for before, after in pairwise(times)) < 1
