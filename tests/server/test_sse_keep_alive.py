"""Silent streams say that they live, so that no proxy takes them for dead; nothing else about a stream changes."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from starlette.types import Message, Scope

from api.events import OPENAI_STREAM, to_event
from errors import APIError
from generation import Delta, Sink, Source
from prompts.encoder import SentencePieceEncoder
from server.event_stream import COMMENT, EventStream
from tests.support.app_on_fake_engine import listening
from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.direct_writes import scope_with
from tests.support.fake_engine import FakeEngine
from tests.support.polling import wait_for
from tests.support.replies import events
from tests.support.wire import posted

ASKS = {
    "completion": (COMPLETIONS, {"prompt": "a"}),
    "chat": (CHAT, {"messages": "a"}),
    "choices": (COMPLETIONS, {"prompt": "a", "n": 2}),
    "batch": (COMPLETIONS, {"prompt": ["a", "b"]}),
    "best of": (COMPLETIONS, {"prompt": "a", "best_of": 4}),
    "beams": (CHAT, {"messages": "a", "num_beams": 4}),
    "structured": (CHAT, {"messages": "a", "response_format": {"type": "json_object"}}),
}
OLD = (*ASKS["chat"], "1.0")
SPOKEN = (Delta(0, "北京", (5, 6)), Delta(0, "。", (7,)), Delta(0, "", (2,), "stop"))
HEARTBEAT = COMMENT.decode()


Kept = Callable[..., tuple[FakeEngine, str]]


def as_events(payloads: Source[bytes]) -> Source[bytes]:
    """What writes JSON payloads, some at a time, as what writes events."""

    async def events(write: Sink[bytes]) -> None:
        await payloads(lambda pieces: write([*map(to_event, pieces)]))

    return events


@pytest.fixture(scope="module")
def kept(demo_encoder: SentencePieceEncoder) -> Iterator[Kept]:
    """A server that lets a stream be silent for 0.1 seconds: its engine, which speaks as told from then on, its URL."""
    engine = FakeEngine()

    def speaking(script: list[Delta | Exception], delay: float) -> tuple[FakeEngine, str]:
        engine.script, engine.delay = script, delay
        return engine, url

    with listening(engine, demo_encoder, sse_keep_alive=0.1) as url:
        yield speaking


def script(choices: int = 1, *after: Exception) -> list[Delta | Exception]:
    return [*(replace(delta, index=index) for index in range(choices) for delta in SPOKEN), *after]


@contextmanager
def asked(
    url: str, path: str, content: dict[str, Any], version: str = "1.1"
) -> Iterator[socket.socket]:
    """A connection that has asked for a stream."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        sent = posted(path, {**content, "stream": True}, "Connection: close")
        connection.sendall(sent.replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
        yield connection


def pieces(connection: socket.socket) -> list[tuple[float, bytes]]:
    """What comes, and when, up to the end."""
    began, heard = time.monotonic(), []
    while piece := connection.recv(65536):
        heard.append((time.monotonic() - began, piece))
    return heard


@pytest.mark.parametrize(
    ("path", "content", "version"), [*((*ask, "1.1") for ask in ASKS.values()), OLD], ids=str
)
def test_a_silent_stream_is_kept_alive_from_its_head_on(
    kept: Kept, path: str, content: dict[str, Any], version: str
) -> None:
    _, url = kept(script(content.get("n", 1)), 0.2)
    with asked(url, path, content, version) as connection:
        said = b"".join(piece for _, piece in pieces(connection))
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"text/event-stream" in head
    before, *_, last = body.split(b"data: ")
    assert COMMENT in before, "before the first token"
    assert COMMENT not in last, "after [DONE]"
    assert body.count(COMMENT) >= 3


def test_no_silence_is_much_longer_than_asked_for(kept: Kept) -> None:
    _, url = kept(script(), 1)
    with asked(url, CHAT, {"messages": "a"}) as connection:
        times = [0.0, *(at for at, _ in pieces(connection))]
    assert times[1] > 0.05
    assert max(later - sooner for sooner, later in pairwise(times)) < 0.5


@pytest.mark.parametrize(("path", "content"), ASKS.values(), ids=ASKS)
def test_the_comments_are_all_that_a_stream_has_more(
    serve: Callable[..., TestClient], engine: FakeEngine, path: str, content: dict[str, Any]
) -> None:
    """Through TestClient, which writes nothing at once."""
    engine.script = script(content.get("n", 1))
    ask = {**content, "stream": True, "stream_options": {"include_usage": True}}
    plain = client_events(serve(sse_keep_alive=0).post(path, json=ask))
    engine.delay = 0.15
    reply = serve(sse_keep_alive=0.05).post(
        path, json=ask, headers={"Origin": "http://a.example", "X-Request-Id": "x"}
    )
    assert reply.text.startswith(HEARTBEAT)
    assert reply.text.count(HEARTBEAT) >= 3
    assert (reply.headers["access-control-allow-origin"], reply.headers["x-request-id"]) == (
        "*",
        "x",
    )
    assert client_events(reply) == plain


def client_events(reply: httpx.Response) -> list[dict[str, Any]]:
    """The events without what differs between two replies."""
    assert reply.status_code == 200
    payloads = events(reply.text.replace(HEARTBEAT, ""))
    return [
        {name: value for name, value in payload.items() if name not in ("id", "created")}
        for payload in payloads
    ]


@pytest.mark.parametrize("delay", [0.02, 0.2])
def test_no_comment_comes_while_something_else_does_or_where_they_are_off(
    demo_encoder: SentencePieceEncoder, delay: float
) -> None:
    engine = FakeEngine([Delta(0, "字", (5,))] * 8 + [Delta(0, "", (2,), "stop")], delay=delay)
    with listening(engine, demo_encoder, sse_keep_alive=0.15 if delay < 0.1 else 0) as url:
        assert (
            HEARTBEAT not in httpx.post(f"{url}{CHAT}", json={"messages": "a", "stream": True}).text
        )


FULL = APIError(503, "Full.", code="server_overloaded", headers={"Retry-After": "1"})


@pytest.mark.parametrize(("path", "content"), ASKS.values(), ids=ASKS)
@pytest.mark.parametrize(
    ("failure", "status", "code"), [(FULL, 503, FULL.code), (RuntimeError(), 500, None)]
)
def test_a_failure_keeps_its_status_until_the_first_comment(
    kept: Kept,
    path: str,
    content: dict[str, Any],
    failure: Exception,
    status: int,
    code: str | None,
) -> None:
    _, url = kept([failure], 0)
    reply = httpx.post(f"{url}{path}", json={**content, "stream": True})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert reply.headers["content-type"] == "application/json"
    kept([failure], 0.25)
    reply = httpx.post(f"{url}{path}", json={**content, "stream": True})
    assert reply.status_code == 200
    assert reply.text.startswith(HEARTBEAT)
    [failed] = events(reply.text.replace(HEARTBEAT, ""))
    assert failed["error"]["code"] == code
    refused = httpx.post(f"{url}{path}", json={**content, "stream": True, "n": 0})
    assert refused.status_code == 400


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_takes_too_long_is_an_event_after_the_first_comment(
    demo_encoder: SentencePieceEncoder, stream: bool
) -> None:
    with listening(
        FakeEngine(delay=5), demo_encoder, sse_keep_alive=0.1, request_timeout=0.35
    ) as url:
        reply = httpx.post(f"{url}{CHAT}", json={"messages": "a", "stream": stream})
    assert reply.status_code == (200 if stream else 504)
    [failed] = events(reply.text.replace(HEARTBEAT, "")) if stream else [reply.json()]
    assert failed["error"]["code"] == "request_timeout"


@pytest.mark.parametrize(
    ("path", "content", "version"), [*((*ask, "1.1") for ask in ASKS.values()), OLD], ids=str
)
@pytest.mark.parametrize("hears_comments", [True, False])
def test_a_client_that_leaves_a_silent_stream_frees_the_engine(
    kept: Kept,
    path: str,
    content: dict[str, Any],
    version: str,
    hears_comments: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine, url = kept([Delta(0, "", (5,))] * 100, 60)
    with asked(url, path, content, version) as connection:
        assert wait_for(lambda: engine.running, 5)
        if hears_comments:
            assert COMMENT in connection.recv(65536) + connection.recv(65536)
    assert wait_for(lambda: engine.running == 0, 1)
    assert not caplog.records


def test_a_client_that_reads_slowly_gets_no_comments(demo_encoder: SentencePieceEncoder) -> None:
    """Its connection is full of events, and stays as it is."""
    large = [Delta(0, "字" * 500_000, (5,)) for _ in range(20)]
    engine = FakeEngine([*large, Delta(0, "", (2,), "stop")])
    with (
        listening(engine, demo_encoder, sse_keep_alive=0.02) as url,
        asked(url, COMPLETIONS, {"prompt": "a"}) as connection,
    ):
        time.sleep(1)
        said = b"".join(piece for _, piece in pieces(connection))
    assert said.count("字".encode()) == 20 * 500_000
    assert said.count(COMMENT) < 20


class Peer:
    """An ASGI server that sends nothing while there is no room."""

    def __init__(self, is_direct: bool) -> None:
        self.is_direct = is_direct
        self.sent: list[bytes] = []
        self.room = asyncio.Event()
        self.room.set()
        self.waits = 0

    @property
    def scope(self) -> Scope:
        return scope_with(self.write_now if self.is_direct else None)

    def write_now(self, body: bytes) -> bool:
        self.sent.append(body)
        return self.room.is_set()

    async def receive(self) -> Message:
        return await asyncio.Future[Message]()

    async def send(self, message: Message) -> None:
        self.waits += 1
        await self.room.wait()
        self.waits -= 1
        self.sent.append(message.get("body", b""))


@pytest.mark.parametrize("is_direct", [True, False])
@pytest.mark.parametrize("silent", [True, False])
def test_at_most_one_comment_waits_for_a_slow_client_and_none_outlives_the_stream(
    is_direct: bool, silent: bool
) -> None:
    async def payloads(write: Sink[bytes]) -> None:
        peer.room.clear()
        if not silent and (drain := write([b"1"])):
            draining = asyncio.ensure_future(drain())
        await asyncio.sleep(0.2)
        assert peer.waits == 1
        peer.room.set()
        if not silent:
            await draining
        await asyncio.sleep(0.005)
        if drain := write([b"2"]):
            await drain()

    async def stream() -> None:
        await EventStream(as_events(payloads), OPENAI_STREAM, {}, 600, 0.02)(
            peer.scope, peer.receive, peer.send
        )
        await asyncio.sleep(0)  # in which cancelled tasks end
        assert asyncio.all_tasks() == {asyncio.current_task()}
        said = b"".join(peer.sent)
        assert said.count(COMMENT) == silent, "one, which was on its way"
        assert (
            said.replace(COMMENT, b"")
            == b"data: 1\n\n" * (not silent) + b"data: 2\n\ndata: [DONE]\n\n"
        )

    peer = Peer(is_direct)
    asyncio.run(stream())


def test_a_server_that_fails_to_send_a_comment_harms_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As other servers than uvicorn do once the client has left."""

    async def payloads(write: Sink[bytes]) -> None:
        await asyncio.sleep(0.1)

    async def stream() -> None:
        peer = Peer(is_direct=False)

        async def send(message: Message) -> None:
            peer.waits += 1
            if message.get("body") == COMMENT:
                raise OSError("the client has left")

        await EventStream(as_events(payloads), OPENAI_STREAM, {}, 600, 0.02)(
            peer.scope, peer.receive, send
        )
        assert peer.waits == 3

    asyncio.run(stream())
    assert not caplog.records


def test_the_official_client_passes_over_comments(demo_encoder: SentencePieceEncoder) -> None:
    with listening(FakeEngine(delay=0.2), demo_encoder, sse_keep_alive=0.05) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        chunks = [
            *client.chat.completions.create(
                model="chinese-llama-alpaca-2",
                messages=[{"role": "user", "content": "a"}],
                stream=True,
            )
        ]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "北京。"
        client.close()


def test_a_reader_of_lines_sees_a_comment_as_one(demo_encoder: SentencePieceEncoder) -> None:
    with (
        listening(FakeEngine(delay=0.2), demo_encoder, sse_keep_alive=0.05) as url,
        httpx.stream("POST", f"{url}{CHAT}", json={"messages": "a", "stream": True}) as reply,
    ):
        lines = [*reply.iter_lines()]
    assert set(lines[1::2]) == {""}
    assert all(line.startswith((":", "data: ")) for line in lines[::2])
    assert json.loads(
        next(line for line in lines if line.startswith("data: ")).removeprefix("data: ")
    )
