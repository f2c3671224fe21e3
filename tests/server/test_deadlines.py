"""How long is waited: for a head and a body, for the next request, for an answer."""

import json
import time
from typing import Any

import httpx
import pytest

from prompts.encoder import SentencePieceEncoder
from server import connection as http_connection
from tests.support.app_on_fake_engine import listening
from tests.support.bodies import ASK
from tests.support.fake_engine import HUNDRED, FakeEngine
from tests.support.polling import wait_for
from tests.support.replies import error, events
from tests.support.wire import HEAD, exchange, posted


def test_a_body_shorter_than_announced_is_waited_for_and_given_up(
    demo_encoder: SentencePieceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "ARRIVAL_SECONDS", 0.2)
    engine = FakeEngine()
    with listening(engine, demo_encoder) as url:
        heard = exchange(url, HEAD + b'Content-Length: 100\r\n\r\n{"prompt": ')
        assert b" 408 " in heard.split(b"\r\n")[0]
        drop_by_drop = [b" "] * 20
        began = time.monotonic()
        heard = exchange(url, HEAD + b"Content-Length: 100\r\n\r\n", *drop_by_drop)
        assert b" 408 " in heard.split(b"\r\n")[0]
        assert time.monotonic() - began < 3
        assert not engine.asked


def test_a_body_that_is_held_up_by_the_request_before_it_is_not_late(
    demo_encoder: SentencePieceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "ARRIVAL_SECONDS", 0.2)
    engine = FakeEngine(delay=0.3)
    with listening(engine, demo_encoder) as url:
        began = time.monotonic()
        first = posted("/v1/completions", ASK)
        second = posted("/v1/completions", {**ASK, "user": "x" * 4_000_000}, "Connection: close")
        heard = exchange(url, first + second)
        assert heard.count(b"HTTP/1.1 200 ") == 2
        assert time.monotonic() - began > 2 * 0.3


def test_a_connection_is_closed_if_the_rest_of_an_answered_request_does_not_come(
    demo_encoder: SentencePieceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "ARRIVAL_SECONDS", 0.2)
    with listening(FakeEngine(), demo_encoder, api_key=["a key"]) as url:
        began = time.monotonic()
        heard = exchange(url, HEAD + b"Content-Length: 100\r\n\r\n{")
        assert b" 401 " in heard.split(b"\r\n")[0]
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("pieces", [[HEAD], [b"P"], [HEAD + b"X: y"], [HEAD, *[b"X: y\r\n"] * 30]])
def test_a_head_that_does_not_come_is_given_up(
    demo_encoder: SentencePieceEncoder, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]
) -> None:
    monkeypatch.setattr(http_connection, "ARRIVAL_SECONDS", 0.3)
    with listening(FakeEngine(), demo_encoder) as url:
        began = time.monotonic()
        assert b" 408 " in exchange(url, *pieces).split(b"\r\n")[0]
        assert time.monotonic() - began < 3


def test_a_silent_connection_is_closed(demo_encoder: SentencePieceEncoder) -> None:
    with listening(FakeEngine(), demo_encoder, timeout_keep_alive=1) as url:
        for pieces in ([], [b"\r\n"]):
            began = time.monotonic()
            assert exchange(url, *pieces) == b""
            assert 0.5 < time.monotonic() - began < 3


def test_a_request_that_takes_too_long_is_ended(demo_encoder: SentencePieceEncoder) -> None:
    engine = FakeEngine(HUNDRED, delay=2)
    with listening(engine, demo_encoder, request_timeout=0.5) as url:
        refused = error(httpx.post(f"{url}/v1/completions", json=ASK), 504)
        assert (refused.type, refused.code) == ("server_error", "request_timeout")
        assert wait_for(lambda: engine.running == 0, 1)
        engine.delay = 0.05
        *said, last = events(httpx.post(f"{url}/v1/completions", json={**ASK, "stream": True}).text)
        assert 2 < len(said) < 12
        assert last["error"]["code"] == "request_timeout"
        assert wait_for(lambda: engine.running == 0, 1)


@pytest.mark.parametrize("ask", [ASK, {**ASK, "stream": True}], ids=["plain", "streamed"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_without_a_limit_of_time_a_request_takes_as_long_as_it_likes(
    demo_encoder: SentencePieceEncoder, path: str, ask: dict[str, Any]
) -> None:
    with listening(FakeEngine(delay=0.2), demo_encoder, request_timeout=0) as url:
        reply = httpx.post(f"{url}{path}", json={**ask, "messages": "a"})
    assert (reply.status_code, '"stop"' in reply.text, "error" in reply.text) == (200, True, False)


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "/health", None),
        ("POST", "/v1/completions", ASK),
        ("POST", "/v1/completions", {**ASK, "stream": True}),
        ("POST", "/v1/chat/completions", {"messages": 1}),
        ("GET", "/unknown", None),
        ("HEAD", "/health", None),
    ],
)
def test_without_time_for_idle_connections_each_reply_closes_its_own(
    demo_encoder: SentencePieceEncoder, method: str, path: str, content: dict[str, Any] | None
) -> None:
    with listening(FakeEngine(delay=0.05), demo_encoder, timeout_keep_alive=0) as url:
        body = b"" if content is None else json.dumps(content).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        for pieces in ([head + body], [head[:20], head[20:], body], [(head + body) * 2]):
            heard = exchange(url, *pieces).lower()
            assert heard.count(b"http/1.1 ") == heard.count(b"connection: close") == 1
        with httpx.Client(base_url=url) as client:
            for _ in range(3):
                reply = client.request(method, path, json=content)
                assert reply.headers["connection"] == "close"


def test_without_time_for_idle_connections_a_new_one_is_waited_for(
    demo_encoder: SentencePieceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "ARRIVAL_SECONDS", 0.5)
    with listening(FakeEngine(), demo_encoder, timeout_keep_alive=0) as url:
        assert exchange(url, b"", HEAD.replace(b"POST", b"GET"), b"\r\n", pause=0.2)
        began = time.monotonic()
        assert exchange(url) == b""
        assert 0.3 < time.monotonic() - began < 3
