"""Open connections on real sockets, with a fake engine: who leaves is noticed, who waits is served."""

import asyncio
import gc
import http.client
import json
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest

from generation import Decoding, Delta, Deltas, Prompt
from prompts.encoder import SentencePieceEncoder
from server.connection import Http1Connection
from tests.support.app_on_fake_engine import listening
from tests.support.fake_engine import FakeEngine
from tests.support.polling import wait_for
from tests.support.server_process import Server

ENDLESS = [Delta(0, "字", (5,)) for _ in range(10_000)]
ASKS: dict[str, dict[str, Any]] = {
    "stream": {"prompt": ["a"], "stream": True},
    "plain": {"prompt": ["a"]},
    "batch": {"prompt": ["a", "b", "c"], "stream": True},
    "plain batch": {"prompt": ["a", "b", "c"]},
}


class SlowEngine(FakeEngine):
    """Speaks slowly, and in a plain reply waits all that time before its one delta."""

    async def _speak(self, prompt: Prompt, decoding: Decoding) -> Deltas:
        self.running += 1
        try:
            for delta in ENDLESS:
                await asyncio.sleep(0.01)
                if decoding.stream:
                    yield Delta(delta.index, delta.text, delta.token_ids)
        finally:
            self.running -= 1


@pytest.fixture
def slow(demo_encoder: SentencePieceEncoder) -> Iterator[tuple[SlowEngine, str]]:
    engine = SlowEngine()
    with listening(engine, demo_encoder) as url:
        yield engine, url


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_client_that_leaves_frees_the_engine(
    slow: tuple[SlowEngine, str], ask: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine, url = slow
    body = json.dumps(ask).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as connection:
        connection.sendall(head + body)
        assert wait_for(lambda: engine.running == len(ask["prompt"]), 5)
        time.sleep(0.1)
    assert wait_for(lambda: engine.running == 0, 1)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("ask", ["stream", "plain"])
def test_a_client_that_leaves_after_a_long_body_frees_the_engine(
    slow: tuple[SlowEngine, str], ask: str
) -> None:
    """A long body that comes at once, after its head, makes uvicorn pause its reading."""
    engine, url = slow
    body = json.dumps(ASKS[ask]).encode().ljust(200_000)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as connection:
        connection.sendall(head)
        time.sleep(0.05)
        connection.sendall(body)
        assert wait_for(lambda: engine.running == 1, 5)
        time.sleep(0.1)
    assert wait_for(lambda: engine.running == 0, 1)


def test_a_client_that_leaves_in_mid_body_is_no_failure(
    slow: tuple[SlowEngine, str], caplog: pytest.LogCaptureFixture
) -> None:
    engine, url = slow
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as connection:
        connection.sendall(
            b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"prompt": "a'
        )
        time.sleep(0.1)
    assert httpx.get(f"{url}/health").status_code == 200
    time.sleep(0.1)
    assert engine.running == 0
    assert not caplog.records


def test_a_reader_that_pauses_stops_the_engine_and_loses_nothing(
    slow: tuple[SlowEngine, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, url = slow
    said: list[str] = []

    async def speak_much(prompt: Prompt, decoding: Decoding) -> Deltas:
        for number in range(2000):
            said.append(f"{number} " * 2000)
            yield Delta(0, said[-1], (5,))
        yield Delta(0, "", (2,), "stop")

    monkeypatch.setattr(engine, "_speak", speak_much)
    with httpx.stream("POST", f"{url}/v1/completions", json=ASKS["stream"], timeout=60) as reply:
        time.sleep(0.5)
        half = len(said)
        time.sleep(0.5)
        assert len(said) == half < 2000, "the engine goes on without a reader"
        assert httpx.get(f"{url}/health").status_code == 200
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert events.pop() == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == "".join(said)
    assert len(said) == 2000


@pytest.mark.engine
def test_what_waits_for_a_slow_reader_is_merged_and_whole(server: Server) -> None:
    """The engine goes on, and what it makes is merged; log-probabilities of the likeliest tokens fill all buffers."""
    ask: dict[str, Any] = {
        "prompt": "讲一个很长的故事",
        "max_tokens": 1500,
        "min_tokens": 1500,
        "temperature": 0,
        "logprobs": 20,
    }
    whole = httpx.post(f"{server.url}/v1/completions", json=ask, timeout=60).json()["choices"][0]
    ask |= {"n": 12, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", httpx.URL(server.url).port, timeout=60)
    connection.sock = socket.socket()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sock.connect(("127.0.0.1", connection.port))
    connection.request("POST", "/v1/completions", json.dumps(ask))
    reply = connection.getresponse()
    time.sleep(5)
    *events, done, _ = reply.read().decode().split("\n\n")
    assert done == "data: [DONE]"
    heard = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    for number in range(ask["n"]):
        choices = [choice for choice in heard if choice["index"] == number]
        assert "".join(choice["text"] for choice in choices) == whole["text"]
        logs = [choice["logprobs"] for choice in choices if choice["logprobs"]]
        assert max(len(log["tokens"]) for log in logs) > 100, "nothing was merged"
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [item for log in logs for item in log[name]] == whole["logprobs"][name]


def test_a_closed_connection_leaves_nothing_to_collect(
    demo_encoder: SentencePieceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Http1Connection]] = []
    connection_made = Http1Connection.connection_made

    def remember(self: Http1Connection, transport: asyncio.Transport) -> None:
        made.append(weakref.ref(self))
        connection_made(self, transport)

    monkeypatch.setattr(Http1Connection, "connection_made", remember)
    gc.disable()
    try:
        with listening(FakeEngine(), demo_encoder) as url:
            for ask in (ASKS["stream"], ASKS["plain"], ASKS["stream"]):
                assert httpx.post(f"{url}/v1/completions", json=ask).status_code == 200
                assert httpx.get(f"{url}/health").status_code == 200
            port = httpx.URL(url).port
            for head in (b"Host: x\r\nA: %b" % (b"a" * 70_000), b"A: no host", b"no header"):
                with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\n%b\r\n\r\n" % head)
                    assert connection.recv(100).startswith(b"HTTP/1.1 4")
            assert wait_for(lambda: not any(connection() for connection in made), 2)
        assert len(made) == 9
    finally:
        gc.enable()


@pytest.mark.parametrize("ask", ["stream", "plain"])
def test_a_client_that_leaves_with_a_second_request_waiting_frees_the_engine(
    slow: tuple[SlowEngine, str], ask: str
) -> None:
    engine, url = slow
    body = json.dumps(ASKS[ask]).encode()
    asks = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
        * 2
    )
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as connection:
        connection.sendall(asks)
        assert wait_for(lambda: engine.running == 1, 5)
        time.sleep(0.1)
    assert wait_for(lambda: engine.running == 0, 1)
    time.sleep(0.1)
    assert engine.running == 0


def test_a_stream_arrives_as_it_is_spoken(slow: tuple[SlowEngine, str]) -> None:
    _, url = slow
    with httpx.stream("POST", f"{url}/v1/completions", json=ASKS["stream"]) as reply:
        arrivals = [
            time.monotonic() for _, line in zip(range(20), reply.iter_lines(), strict=False) if line
        ]
    assert arrivals[-1] - arrivals[0] > 0.05


LONG = {
    "one character": ("/v1/completions", {"prompt": "汉" * 350_000}),
    "sentences": ("/v1/chat/completions", {"messages": "请介绍一下北京的历史和文化，" * 25_000}),
    "one word": ("/v1/chat/completions", {"messages": "a" * 700_000}),
    "conversation": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "你好" * 40}] * 4096},
    ),
    "ids": ("/v1/completions", {"prompt": [5] * 250_000, "echo": True}),
    "spelling": (
        "/tokenize",
        {"prompt": "请介绍一下北京的历史和文化，" * 25_000, "return_token_strs": True},
    ),
}


@pytest.mark.engine
@pytest.mark.parametrize(("path", "body"), LONG.values(), ids=LONG)
def test_a_long_prompt_does_not_stall_others(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    """A megabyte is encoded beside the loop: the worst gap of another stream, and /health, stay under 200 ms."""
    url = server.url
    stream = {"prompt": "你好", "max_tokens": 1500, "min_tokens": 1500, "stream": True}
    long = threading.Thread(
        target=httpx.post, args=(f"{url}{path}",), kwargs={"json": body, "timeout": 60}
    )
    arrivals: list[float] = []
    healthy: list[float] = []
    statuses: set[int] = set()

    def ask_health() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            client.get("/health")
            while not healthy or long.is_alive():
                began = time.monotonic()
                statuses.add(client.get("/health").status_code)
                healthy.append(time.monotonic() - began)
                time.sleep(0.005)

    with httpx.stream("POST", f"{url}/v1/completions", json=stream, timeout=60) as reply:
        for line in reply.iter_lines():
            if not line:
                continue
            arrivals.append(time.monotonic())
            if len(arrivals) == 20:
                long.start()
                asking = threading.Thread(target=ask_health)
                asking.start()
            if len(arrivals) > 40 and not long.is_alive():
                break
    asking.join()
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert max(gaps) < 0.2
    assert max(healthy) < 0.2
    assert statuses == {200}


@pytest.mark.parametrize("offer", ["Upgrade: h2c", "upgrade:h2c", "UPGRADE:  h2c "])
def test_an_offer_of_http_2_loses_no_body(slow: tuple[SlowEngine, str], offer: str) -> None:
    """As `curl --http2` and Java's own client make it."""
    _, url = slow
    body = b'{"tokens": [10, 11]}'
    head = f"Connection: Upgrade, HTTP2-Settings\r\n{offer}\r\nHTTP2-Settings: AAMAAABk\r\nConnection: close\r\n"
    request = (
        f"POST /detokenize HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=10) as connection:
        connection.sendall(request)
        assert connection.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"


def test_idle_connections_are_kept(slow: tuple[SlowEngine, str]) -> None:
    _, url = slow
    with httpx.Client(base_url=url) as client:
        ports = {
            client.get("/health").extensions["network_stream"].get_extra_info("client_addr")
            for _ in range(3)
        }
    assert len(ports) == 1
