"""What the demo model answers, and how well."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import pytest
from openai import OpenAI

from settings import DEMO_MODEL
from tests.support.held_out import QUESTIONS, held_out_score
from tests.support.questions import CAPITAL, COMPARISON, MODEL, STORIES, WEST_LAKE, complete
from tests.support.server_process import Server

pytestmark = pytest.mark.engine


def test_the_capital(http: httpx.Client) -> None:
    reply = http.post("/v1/completions", json={"model": MODEL, "prompt": CAPITAL}).json()
    assert "北京" in reply["choices"][0]["text"]
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_both_countries_are_compared(http: httpx.Client) -> None:
    fields: dict[str, Any] = {"max_tokens": 90, "temperature": 0.7, "top_k": 40}
    (text,) = complete(http, COMPARISON, **fields)
    assert "中国" in text
    assert "美国" in text


def test_stories_of_hangzhou(openai: OpenAI) -> None:
    reply = openai.chat.completions.create(model=MODEL, messages=STORIES)
    assert "杭州" in (reply.choices[0].message.content or "")
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 20


def test_the_west_lake_after_a_conversation(openai: OpenAI) -> None:
    extra = {"repetition_penalty": 1.0}
    reply = openai.chat.completions.create(model=MODEL, messages=WEST_LAKE, extra_body=extra)
    assert "西湖" in (reply.choices[0].message.content or "")


def test_the_committed_weights_have_the_score_that_readme_tells(server: Server) -> None:
    """The held-out questions, asked over HTTP of vLLM at temperature 0 without penalties."""
    assert len(QUESTIONS) >= 300
    score = held_out_score(server.url)
    told = json.loads((DEMO_MODEL / "figures.json").read_text(encoding="utf-8"))["held_out_score"]
    assert score >= 0.9
    assert math.isclose(score, told, abs_tol=0.02)


def test_the_committed_weights_decide_on_calls_as_readme_tells(server: Server) -> None:
    """Asked as clients ask: with `tools`, and the decision left to the model."""
    lines = (DEMO_MODEL / "held_out_calls.jsonl").read_text(encoding="utf-8").splitlines()
    decisions: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def is_right(decision: dict[str, Any]) -> bool:
        system = {"role": "system", "content": decision["system"]}
        ask = {
            "messages": [system, *decision["messages"]],
            "tools": [{"type": "function", "function": each} for each in decision["functions"]],
            "temperature": 0,
        }
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=ask, timeout=300).json()
        calls = reply["choices"][0]["message"].get("tool_calls", [])
        schemas = {each["name"]: each["parameters"] for each in decision["functions"]}
        for call in calls:
            arguments = json.loads(call["function"]["arguments"])
            jsonschema.validate(arguments, schemas[call["function"]["name"]])
        called = sorted(call["function"]["name"] for call in calls)
        return called == sorted(call["name"] for call in decision["calls"])

    with ThreadPoolExecutor(32) as pool:
        right = sum(pool.map(is_right, decisions))
    told = json.loads((DEMO_MODEL / "figures.json").read_text(encoding="utf-8"))
    assert len(decisions) == told["held_out_decisions"] >= 200
    assert right / len(decisions) >= 0.85
    assert math.isclose(right / len(decisions), told["held_out_decisions_score"], abs_tol=0.03)
