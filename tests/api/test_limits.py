"""What a request may ask for at most: one above is refused fast, and before any work is done for it."""

import asyncio
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from fastapi.testclient import TestClient

from prompts.encoder import SentencePieceEncoder
from server.offload import PausingThread
from tests.support.bodies import ASK, CHAT, COMPLETIONS, RESPONSES, TALK
from tests.support.fake_engine import FakeEngine
from tests.support.replies import error

TOOL = {"type": "function", "function": {"name": "f"}}
FLAT_TOOL, SAY = {"type": "function", "name": "f"}, {"input": "a"}
LIMITS = [
    (COMPLETIONS, ASK, "n", 128, 129),
    (COMPLETIONS, ASK, "best_of", 128, 129),
    (COMPLETIONS, ASK, "num_beams", 16, 17),
    (COMPLETIONS, {**ASK, "use_beam_search": True}, "n", 16, 17),
    (COMPLETIONS, ASK, "logprobs", 20, 21),
    (CHAT, {**TALK, "logprobs": True}, "top_logprobs", 20, 21),
    (COMPLETIONS, ASK, "stop", ["a"] * 16, ["a"] * 17),
    (COMPLETIONS, ASK, "stop", "a" * 1024, "a" * 1025),
    (COMPLETIONS, ASK, "stop_token_ids", [1] * 1024, [1] * 1025),
    (COMPLETIONS, ASK, "bad_words", ["a"] * 64, ["a"] * 65),
    (CHAT, TALK, "bad_words", ["a" * 1024], ["a" * 1025]),
    (COMPLETIONS, ASK, "allowed_token_ids", [1] * 65_536, [1] * 65_537),
    (COMPLETIONS, ASK, "truncate_prompt_tokens", 10**6 - 1, 10**6),
    (COMPLETIONS, ASK, "logit_bias", dict.fromkeys(range(1024), 1), dict.fromkeys(range(1025), 1)),
    (
        COMPLETIONS,
        {**ASK, "stream": True},
        "stream_options",
        dict.fromkeys(map(str, range(1024))),
        dict.fromkeys(map(str, range(1025))),
    ),
    (COMPLETIONS, {}, "prompt", ["a"] * 2048, ["a"] * 2049),
    (COMPLETIONS, {}, "prompt", [[5]] * 2048, [[5]] * 2049),
    (CHAT, {}, "messages", *([{"role": "user", "content": None}] * many for many in (4096, 4097))),
    (
        CHAT,
        {},
        "messages",
        *([{"role": "assistant", "tool_calls": [1] * many}] for many in (128, 129)),
    ),
    (CHAT, TALK, "tools", [TOOL] * 128, [TOOL] * 129),
    (RESPONSES, {}, "input", *([{"role": "user", "content": "a"}] * many for many in (4095, 4096))),
    (RESPONSES, SAY, "tools", [FLAT_TOOL] * 128, [FLAT_TOOL] * 129),
    (RESPONSES, SAY, "include", ["a"] * 64, ["a"] * 65),
    (RESPONSES, SAY, "top_logprobs", 20, 21),
    (RESPONSES, SAY, "metadata", *(dict.fromkeys(map(str, range(many)), "a") for many in (16, 17))),
    (RESPONSES, SAY, "metadata", {"a" * 64: "a" * 512}, {"a" * 65: "a"}),
    (COMPLETIONS, ASK, "structured_outputs", {"choice": ["a"] * 1000}, {"choice": ["a"] * 1001}),
    (COMPLETIONS, ASK, "structured_outputs", {"choice": ["a" * 1024]}, {"choice": ["a" * 1025]}),
    (COMPLETIONS, ASK, "structured_outputs", {"regex": "a" * 16384}, {"regex": "a" * 16385}),
    (COMPLETIONS, ASK, "structured_outputs", {"grammar": "a" * 16384}, {"grammar": "a" * 16385}),
    (
        COMPLETIONS,
        ASK,
        "structured_outputs",
        {"json": {"a": "a" * 65527}},
        {"json": {"a": "a" * 65528}},
    ),
]


@pytest.mark.parametrize(
    ("path", "body", "field", "most", "too_much"), LIMITS, ids=lambda value: str(value)[:20]
)
def test_one_above_a_limit_is_a_400(
    serve: Callable[..., TestClient],
    engine: FakeEngine,
    path: str,
    body: dict[str, Any],
    field: str,
    most: object,
    too_much: object,
) -> None:
    engine.max_model_len, engine.room = 10**6, 10**6
    client = serve()
    began = time.process_time()
    refused = error(client.post(path, json={**body, field: too_much}), 400)
    assert time.process_time() - began < 0.5
    assert refused.param is not None
    assert refused.param.startswith(field)
    assert not engine.asked
    assert client.post(path, json={**body, field: most}).status_code == 200


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize(
    "field", ["prompt", "metadata", "unknown", "logit_bias", "stop", "response_format"]
)
def test_what_is_nested_deeply_is_a_400(client: TestClient, field: str, opening: str) -> None:
    content = f'{{"prompt": "a", "{field}": {opening * 100_000}'
    assert "JSON" in error(client.post(COMPLETIONS, content=content), 400).message


@pytest.mark.parametrize("value", ["[],", '{"a":0},', "0,"])
def test_a_body_of_too_many_values_is_refused_unread(client: TestClient, value: str) -> None:
    content = f'{{"prompt": "a", "metadata": [{value * 300_000}0]}}'
    assert "commas" in error(client.post(COMPLETIONS, content=content), 413).message
    assert client.post(COMPLETIONS, json={**ASK, "metadata": "，" * 300_000}).status_code == 200


def test_a_body_of_too_many_fields_is_a_400(client: TestClient) -> None:
    fields = {f"field {at}": at for at in range(1025)}
    assert error(client.post(COMPLETIONS, json=fields), 400).message.endswith(
        "body: there may be at most 1024 fields."
    )


def test_long_bodies_are_read_in_turn_with_as_long_pauses() -> None:
    """The loop, and with it every stream, has these."""
    done = []

    def work(seconds: float) -> None:
        done.append(time.monotonic())
        time.sleep(seconds)
        if not seconds:
            raise LookupError

    async def read() -> None:
        thread = PausingThread()
        pieces = (thread.run(partial(work, seconds)) for seconds in (0.2, 0.1, 0))
        results = await asyncio.gather(*pieces, return_exceptions=True)
        assert [*map(type, results)] == [type(None), type(None), LookupError]

    asyncio.run(read())
    for (before, after), least in zip(pairwise(done), (0.4, 0.2), strict=True):
        assert after - before > least - 0.01


@pytest.mark.parametrize("raw", [True, False])
def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded(
    client: TestClient,
    engine: FakeEngine,
    demo_encoder: SentencePieceEncoder,
    monkeypatch: pytest.MonkeyPatch,
    raw: bool,
) -> None:
    longest = demo_encoder.max_token_characters
    text = "▁Liechtenstein"  # the longest token
    assert len(demo_encoder.encode([text[1:]])) == 1
    assert longest == len(text)
    fits = 100 * [text[1:]]
    engine.max_model_len = 170
    assert client.post(COMPLETIONS, json={"prompt": " ".join(fits), "raw": raw}).status_code == 200
    monkeypatch.setattr(SentencePieceEncoder, "encode", None)
    too_long = "a" * (170 * longest + 1)
    call = {"type": "function", "function": {"name": "f", "arguments": too_long}}
    for path, body in (
        (COMPLETIONS, {"prompt": ["a", too_long], "raw": raw}),
        (CHAT, {"messages": too_long}),
        (CHAT, {"messages": [{"role": "assistant", "refusal": too_long}]}),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [call]}]}),
    ):
        refused = error(client.post(path, json=body), 400)
        assert refused.code == "context_length_exceeded"
        assert refused.message.startswith(
            "This model's maximum context length is 170 tokens. However, your prompt has at least 170 tokens."
        )
        assert refused.param == next(iter(body))


def test_a_full_engine_refuses_before_a_prompt_is_encoded(
    client: TestClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SentencePieceEncoder, "encode", None)
    engine.room = 100
    for path, body in ((COMPLETIONS, {"prompt": ["a"] * 101}), (CHAT, {**TALK, "n": 101})):
        assert error(client.post(path, json=body), 503).code == "server_overloaded"


@pytest.mark.parametrize(("path", "field"), [("/tokenize", "prompt"), ("/tokenize", "messages")])
def test_tokens_of_a_book_are_counted_in_parts(client: TestClient, path: str, field: str) -> None:
    assert client.post(path, json={field: "a" * 1_000_000}).status_code == 200
    assert "1048576 bytes" in error(client.post(path, json={field: "a" * 1_048_576}), 413).message


def test_tokens_of_a_book_are_read_in_parts(client: TestClient) -> None:
    assert (
        len(
            client.post("/detokenize", content=f'{{"tokens": [{"500," * 200_000}500]}}').json()[
                "prompt"
            ]
        )
        > 200_000
    )
    content = f'{{"tokens": [{"1000," * 210_000}1000]}}'
    assert "1048576 bytes" in error(client.post("/detokenize", content=content), 413).message


def test_nothing_is_said_of_a_model_that_is_not_loaded(
    client: TestClient, engine: FakeEngine
) -> None:
    engine.is_ready = False
    for reply in (
        client.get("/v1/models"),
        client.get("/v1/models/a"),
        client.post("/tokenize", json=ASK),
    ):
        assert error(reply, 503).code == "server_loading"


def test_numbers_are_json(client: TestClient) -> None:
    assert error(
        client.post(COMPLETIONS, content=json.dumps({**ASK, "n": 1}).replace("1", "9" * 5000)), 400
    ).message
