"""Beam searches over HTTP: streamed before they are over, and always the same."""

import json
import time
from typing import Any

import httpx
import pytest
from openai import OpenAI

from protocol import ChatChunk, Completion
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


@pytest.mark.parametrize(
    "fields",
    [
        {"num_beams": 4},
        {"num_beams": 4, "n": 3, "max_tokens": 64, "ignore_eos": True},
        {"num_beams": 16, "n": 16, "max_tokens": 12},
        {"num_beams": 3, "n": 2, "stop": ["；缺", "。"]},
        {"num_beams": 4, "stop": "，", "include_stop_str_in_output": True, "logprobs": 2},
        {"num_beams": 2, "stop_token_ids": [438], "length_penalty": 2, "return_token_ids": True},
        {"use_beam_search": True, "max_tokens": 30},
    ],
    ids=json.dumps,
)
def test_the_beams_of_a_running_search_are_shown(
    http: httpx.Client, fields: dict[str, Any]
) -> None:
    body = {"prompt": COMPARISON, "max_tokens": 80, **fields}
    plain = http.post("/v1/completions", json=body).json()
    options = {"include_usage": True, "include_beams": True}
    began = time.monotonic()
    reply = http.post("/v1/completions", json={**body, "stream": True, "stream_options": options})
    took = time.monotonic() - began
    found = [Completion.model_validate(event) for event in events(reply.text)]
    assert "X-Ignored-Parameters" not in reply.headers
    shown = [chunk.beams for chunk in found if chunk.beams is not None]
    assert 1 <= len(shown) <= 2 + 7 * took
    assert all(chunk.choices == [] for chunk in found if chunk.beams is not None)
    width = fields.get("num_beams", 1)
    for beams in shown:
        live = [beam for beam in beams if beam.finish_reason is None]
        finished = beams[len(live) :]
        assert max(len(live), len(finished)) <= width
        for kind in (live, finished):
            assert kind == sorted(kind, key=lambda beam: beam.score, reverse=True)
        assert None not in {beam.finish_reason for beam in finished}
    results = [(choice["text"], choice["finish_reason"]) for choice in plain["choices"]]
    finished = [beam for beam in shown[-1] if beam.finish_reason is not None]
    assert [(beam.text, beam.finish_reason) for beam in finished[: len(results)]] == results
    texts = [""] * len(results)
    for choice in (choice for chunk in found for choice in chunk.choices):
        texts[choice.index] += choice.text
    assert texts == [text for text, _ in results]
    assert found[-1].model_dump()["usage"] == plain["usage"]


def test_beams_of_a_chat_are_shown_long_before_it_is_answered(http: httpx.Client) -> None:
    body = {"messages": STORIES, "num_beams": 4, "max_tokens": 200, "ignore_eos": True}
    options = {"stream": True, "stream_options": {"include_beams": True}}
    began, shown, ended = time.monotonic(), [], []
    with http.stream("POST", "/v1/chat/completions", json={**body, **options}) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                chunk = ChatChunk.model_validate_json(line.removeprefix("data: "))
                if chunk.beams is not None:
                    shown.append((time.monotonic() - began, chunk.beams))
                ended += [choice for choice in chunk.choices if choice.finish_reason]
    took = time.monotonic() - began
    assert len(ended) == 1
    assert 5 <= len(shown) <= 2 + 7 * took
    assert shown[0][0] < 0.5 * took
    lengths = [max(len(beam.text) for beam in beams) for _, beams in shown]
    assert lengths[0] < lengths[len(lengths) // 2] < lengths[-1]
