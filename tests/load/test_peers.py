"""Slow, silent and broken peers by the hundred, on the real engine: others' answers stay right, and memory flat."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.bodies import COMPLETIONS
from tests.support.polling import wait_for
from tests.support.server_process import Server, connect
from tests.support.wire import posted, reset

pytestmark = pytest.mark.engine

CAPITAL = {"prompt": "中国的首都在哪里？", "temperature": 0, "max_tokens": 40}
STORY = {"prompt": "讲一个故事", "stream": True, "max_tokens": 1900, "min_tokens": 1900}
PEERS = 500
MOST_GROWTH = 16
"""MiB by which the server may grow, buffers and what its allocator keeps included."""


def memory(server: Server) -> float:
    """MiB of the API process."""
    return (
        int(
            re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())[0]
        )
        / 1024
    )


@pytest.fixture
def right(http: httpx.Client) -> str:
    text: str = http.post(COMPLETIONS, json=CAPITAL).json()["choices"][0]["text"]
    return text


@contextmanager
def many(server: Server, sent: bytes) -> Iterator[list[socket.socket]]:
    """Peers that have sent so much, and no more."""
    with ExitStack() as stack:
        peers = [stack.enter_context(connect(server)) for _ in range(PEERS)]
        for peer in peers:
            peer.sendall(sent)
        yield peers


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/comple",
        posted(COMPLETIONS, CAPITAL)[:-10],
        posted(COMPLETIONS, "a" * 7_000_000)[: 2**16],
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "a part of a long body", "one request"],
)
def test_idle_connections_cost_little(
    server: Server, http: httpx.Client, right: str, sent: bytes
) -> None:
    """What each has sent, a transport and a parser; the allocator may keep so much once, but not each time."""
    most = PEERS * (len(sent) / 2**20 + 0.06)
    before = memory(server)
    for _ in range(4):
        with many(server, sent):
            for _ in range(3):
                began = time.monotonic()
                assert http.post(COMPLETIONS, json=CAPITAL).json()["choices"][0]["text"] == right
                assert time.monotonic() - began < 3
            assert memory(server) - before < most + MOST_GROWTH
    assert wait_for(lambda: memory(server) - before < most, 5)


def test_readers_that_stop_or_read_a_byte_a_second_grow_nothing(
    server: Server, http: httpx.Client, right: str
) -> None:
    """They get all of it in the end."""
    with ExitStack() as stack:
        readers = [stack.enter_context(connect(server)) for _ in range(24)]
        for seed, reader in enumerate(readers):
            reader.sendall(
                posted(
                    COMPLETIONS,
                    {**STORY, "max_tokens": 1200, "min_tokens": 1200, "seed": seed},
                    "Connection: close",
                )
            )
        assert all(reader.recv(12) == b"HTTP/1.1 200" for reader in readers)
        before = memory(server)
        heard = [b""] * len(readers)
        for _ in range(8):
            assert http.post(COMPLETIONS, json=CAPITAL).json()["choices"][0]["text"] == right
            for at in range(0, len(readers), 2):
                heard[at] += readers[at].recv(1)
            time.sleep(1)
        assert memory(server) - before < MOST_GROWTH
        for at, reader in enumerate(readers):
            heard[at] += b"".join(iter(partial(reader.recv, 2**20), b""))
    for text in heard:
        payloads = re.findall(rb"data: (.*)", text)
        assert payloads[-1] == b"[DONE]"
        assert [json.loads(payload)["choices"][0]["finish_reason"] for payload in payloads[:-1]][
            -1
        ] == "length"


def test_pipelined_requests_are_answered_in_turn(server: Server) -> None:
    """Plain ones, streams and errors; the answers come in the order of the questions."""
    asks = [
        {"prompt": "a", "max_tokens": 2},
        {"prompt": "a", "max_tokens": 3, "stream": True},
        {"prompt": "a", "n": 0},
    ] * 15
    sent = b"".join(
        posted(COMPLETIONS, ask, f"X-Request-Id: {number}") for number, ask in enumerate(asks)
    )
    with connect(server) as connection:
        connection.sendall(
            sent
            + b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: last\r\nConnection: close\r\n\r\n"
        )
        heard = b"".join(iter(lambda: connection.recv(2**20), b""))
    answers = re.findall(rb"HTTP/1.1 (\d+) .*?x-request-id: (\w+)", heard, re.DOTALL)
    expected = [
        (b"400" if "n" in ask else b"200", str(number).encode()) for number, ask in enumerate(asks)
    ]
    assert answers == [*expected, (b"200", b"last")]
    assert heard.count(b"data: [DONE]") == 15


@pytest.mark.parametrize("at", [0.1, 0.9, 1.0])
@pytest.mark.parametrize("stream", [False, True])
def test_resets_leave_nothing_behind(
    server: Server, http: httpx.Client, right: str, at: float, stream: bool
) -> None:
    """In the head, in the body, and while the answer is made."""
    sent = posted(COMPLETIONS, {**STORY, "stream": stream})
    shown = len(server.lines)
    before = 0.0
    for _ in range(2):
        before = memory(server)
        for _ in range(100):
            peer = connect(server)
            peer.sendall(sent[: int(len(sent) * at)])
            reset(peer)
        assert http.post(COMPLETIONS, json=CAPITAL).json()["choices"][0]["text"] == right
    assert memory(server) - before < MOST_GROWTH
    assert wait_for(lambda: "engine_requests_unfinished 0.0" in http.get("/metrics").text, 1)
    assert "Traceback" not in "".join(server.lines[shown:])
