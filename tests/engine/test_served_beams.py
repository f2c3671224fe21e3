"""Beam searches over HTTP: streamed before they are over, and always the same."""

import json
import time
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.support.questions import COMPARISON, MODEL, STORIES, complete
from tests.support.replies import events

pytestmark = pytest.mark.engine


def test_a_beam_search_streams_before_it_is_over(openai: OpenAI) -> None:
    fields: dict[str, Any] = {"model": MODEL, "messages": STORIES, "extra_body": {"num_beams": 4}}
    plain = openai.chat.completions.create(**fields).choices[0].message.content
    began = time.monotonic()
    chunks = [
        (chunk.choices[0].delta.content, time.monotonic() - began)
        for chunk in openai.chat.completions.create(**fields, stream=True)
        if chunk.choices[0].delta.content
    ]
    took = time.monotonic() - began
    assert "".join(text for text, _ in chunks) == plain
    assert len(chunks) > 1
    assert chunks[0][1] < 0.8 * took


@pytest.mark.parametrize(
    "fields",
    [
        {"num_beams": 4, "n": 3},
        {"num_beams": 16, "n": 16, "max_tokens": 12},
        {"num_beams": 3, "max_tokens": 33, "ignore_eos": True},
        {"use_beam_search": True, "best_of": 4, "stop": ["；缺", "。"], "echo": True},
        {"num_beams": 4, "min_tokens": 60, "early_stopping": True, "length_penalty": 2},
        {"num_beams": 2, "repetition_penalty": 1.2, "logit_bias": {"438": -2}},
        {"num_beams": 4, "early_stopping": "never", "stop_token_ids": [438]},
        {"num_beams": 4, "prompt": ["中国的首都", COMPARISON], "n": 2},
        {"num_beams": 4, "stop": "，", "include_stop_str_in_output": True, "logprobs": 2},
    ],
    ids=json.dumps,
)
def test_a_streamed_search_joins_to_the_plain_one(
    http: httpx.Client, fields: dict[str, Any]
) -> None:
    body = {"prompt": COMPARISON, "max_tokens": 80, **fields}
    plain = http.post("/v1/completions", json=body).json()
    stream = events(
        http.post(
            "/v1/completions",
            json={**body, "stream": True, "stream_options": {"include_usage": True}},
        ).text
    )
    assert stream[-1]["usage"] == plain["usage"]
    for choice in plain["choices"]:
        pieces = [
            chunk["choices"][0]
            for chunk in stream[:-1]
            if chunk["choices"][0]["index"] == choice["index"]
        ]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces if piece["finish_reason"]] == [
            choice["finish_reason"]
        ]
        if "logprobs" in fields:
            joined = [
                token
                for piece in pieces
                if piece["logprobs"]
                for token in piece["logprobs"]["tokens"]
            ]
            assert joined == choice["logprobs"]["tokens"]
            assert "".join(token for token in joined if token != "</s>") == choice["text"]
        if "stop" in fields and not fields.get("include_stop_str_in_output"):
            assert not any(
                stop in choice["text"].removeprefix(COMPARISON) for stop in fields["stop"]
            )


def test_a_search_is_deterministic(http: httpx.Client) -> None:
    bodies: list[dict[str, Any]] = [
        {"prompt": COMPARISON, "num_beams": 4, "n": 4, "seed": seed, "temperature": seed / 10}
        for seed in range(5)
    ]
    replies = [complete(http, **body) for body in bodies]
    assert replies == [replies[0]] * 5
