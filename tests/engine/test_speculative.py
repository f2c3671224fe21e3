"""Drafts (`--speculative-config`) on a CPU: greedy answers are the same, sampled ones are refused, nothing dies."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from settings import DEMO_MODEL
from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.held_out import QUESTIONS
from tests.support.replies import error
from tests.support.server_process import Server

pytestmark = pytest.mark.engine

CONFIGS = {
    "n-grams": {
        "method": "ngram",
        "num_speculative_tokens": 3,
        "prompt_lookup_max": 3,
        "prompt_lookup_min": 1,
    },
    "a draft model": {"model": str(DEMO_MODEL), "num_speculative_tokens": 3},
}
ASKED = [question["messages"] for question in QUESTIONS[::25]]
REPEATS = "北京是中国的首都。北京是中国的首都。北京是"
"""What n-grams find drafts in."""
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"repetition_penalty": 1.0},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.5},
    "choices": {"n": 3},
    "log-probabilities": {"logprobs": 3},
    "stop": {"stop": "国"},
    "least": {"min_tokens": 40},
    "bad words": {"bad_words": ["首都"]},
    "allowed ids": {"allowed_token_ids": list(range(300, 900))},
    "expression": {"structured_outputs": {"regex": "[a-z]{8}[0-9]{4}"}},
    "object": {"response_format": {"type": "json_object"}},
    "beams": {"num_beams": 3, "n": 2},
    "prompt": {"echo": True, "logprobs": 1, "max_tokens": 8},
}


@pytest.fixture(scope="module", params=CONFIGS)
def drafting(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    server = Server("--port", "0", "--speculative-config", json.dumps(CONFIGS[request.param]))
    server.wait_for_banner()
    with closing(httpx.Client(base_url=server.url, timeout=120)) as client:
        yield client
    assert server.stop() == 0


def answers(http: httpx.Client) -> list[str]:
    body = {"temperature": 0, "repetition_penalty": 1.0, "max_tokens": 80}
    replies = [http.post(CHAT, json={**body, "messages": messages}) for messages in ASKED]
    assert {reply.status_code for reply in replies} == {200}
    return [reply.json()["choices"][0]["message"]["content"] for reply in replies]


def test_greedy_answers_are_those_without_drafts(
    drafting: httpx.Client, http: httpx.Client
) -> None:
    assert answers(drafting) == answers(http)


@pytest.mark.parametrize("kind", KINDS)
def test_every_greedy_kind_is_answered_as_without_drafts(
    drafting: httpx.Client, http: httpx.Client, kind: str
) -> None:
    body = {"prompt": REPEATS, "raw": True, "temperature": 0, "max_tokens": 48, **KINDS[kind]}
    texts = []
    for client in (drafting, http):
        reply = client.post(COMPLETIONS, json=body)
        assert reply.status_code == 200, reply.text
        texts.append([choice["text"] for choice in reply.json()["choices"]])
    assert texts[0] == texts[1]


def test_sampled_ones_are_refused_and_nothing_dies(drafting: httpx.Client) -> None:
    for fields in ({}, {"top_k": 0}, {"n": 2}, {"best_of": 2}):
        refused = drafting.post(CHAT, json={"messages": "你好", "temperature": 1, **fields})
        assert error(refused, 400).param == "temperature"
    biased = drafting.post(CHAT, json={"messages": "a", "temperature": 0, "logit_bias": {"5": 1}})
    assert error(biased, 400).param == "logit_bias"
    assert drafting.get("/health").status_code == 200
    assert answers(drafting)[0]
