"""A load generator that costs little CPU time: it counts events and notes when they arrive, and parses nothing else.

`vllm bench serve` parses every event, which takes about a core at 32 streams; on a small machine the server needs that
core. Here an event costs the client a few microseconds.
"""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast
from urllib.parse import urlsplit

END_OF_CHUNKS = b"\r\n0\r\n\r\n"
EVENT = b"data: "
SPACE = re.compile(rb'"content": ?" "')
"""The first token of many answers is the space between the prompt and the text. vLLM makes an event of it, this server
makes none: the text begins with the event after it."""
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
TIMEOUT = 600


@dataclass(frozen=True)
class Load:
    """Concurrent connections, the requests that each sends one after the other, and the exact tokens of each reply."""

    name: str
    connections: int
    tokens: int
    requests: int = 1
    is_streamed: bool = True
    path: str = CHAT

    @property
    def all_requests(self) -> int:
        return self.connections * self.requests

    @property
    def all_tokens(self) -> int:
        return self.all_requests * self.tokens

    def body(self, question: str, model: str) -> bytes:
        """The body of a request, the same for every server: greedy, with nothing left to a server's defaults."""
        messages = [{"role": "user", "content": question}]
        fields = {"model": model, "messages": messages, "max_tokens": self.tokens}
        if self.path == RESPONSES:
            fields = {"model": model, "input": messages, "max_output_tokens": self.tokens}
        sampling = {
            "temperature": 0,
            "top_p": 1,
            "top_k": -1,
            "repetition_penalty": 1,
            "min_tokens": self.tokens,
        }
        stream = (
            {"stream": True, "stream_options": {"include_usage": True}} if self.is_streamed else {}
        )
        return json.dumps({**fields, **sampling, **stream}).encode()


@dataclass
class Timings:
    """What the clients of one load have measured, in seconds."""

    seconds: float = 0.0
    cpu: float = 0.0
    """CPU time of the API process, or of the engine's without HTTP."""
    first_texts: list[float] = field(default_factory=list)
    """Of each request: from sending it to the first text of its stream, or to the end of a plain reply."""
    gaps: list[float] = field(default_factory=list)
    """Between consecutive arrivals of events in one stream, from its first text on."""


class Connection(asyncio.Protocol):
    """An HTTP/1.1 connection that sends one request after the other."""

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._transport: asyncio.Transport | None = None
        self._ended: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def ask(self, request: bytes, tokens: int) -> None:
        assert self._transport is not None
        self._ended = asyncio.get_running_loop().create_future()
        self._received, self._head, self._events, self._length = 0, b"", 0, 0
        self._usage = re.compile(rb'"(?:completion|output)_tokens": ?%d\b' % tokens)
        self._tail, self._has_usage = b"", False
        self._asked = self._arrived = time.perf_counter()
        self._transport.write(request)
        await self._ended
        if not self._has_usage:
            raise SystemExit(f"a reply has not its {tokens} tokens: {self._head[:400]!r}")

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._received += len(data)
        if not self._length and b"\r\n\r\n" not in self._head:
            self._head += data
            self._read_head()
        joined = self._tail + data
        self._has_usage = self._has_usage or self._usage.search(joined) is not None
        self._tail = joined[-40:]
        if self._length < 0:
            spaces = len(SPACE.findall(data)) if self._events < 2 else 0
            self._count_events(data.count(EVENT) - spaces, now)
            is_over = joined.endswith(END_OF_CHUNKS)
        else:
            is_over = 0 < self._length == self._received
        if is_over and self._ended is not None:
            if self._length > 0:
                self._timings.first_texts.append(now - self._asked)
            self._ended.set_result(None)

    def _read_head(self) -> None:
        """Set `_length` to the length of head and body, or to -1 for a body in chunks."""
        head, end, _ = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the server answered {self._head[:400]!r}")
        length = LENGTH.search(head)
        self._length = len(head) + 4 + int(length[1]) if length else -1

    def _count_events(self, events: int, now: float) -> None:
        if not events:
            return
        if self._events < 2 <= self._events + events:  # the first event is the role alone
            self._timings.first_texts.append(now - self._asked)
        elif self._events >= 2:
            self._timings.gaps.append(now - self._arrived)
        self._events += events
        self._arrived = now

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(exc or ConnectionError("the server closed the connection"))

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


def to_request(url: str, path: str, body: bytes) -> bytes:
    host = urlsplit(url).netloc
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n".encode()
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


async def run(url: str, load: Load, questions: Sequence[str], model: str) -> Timings:
    """Put a load on a server; raises SystemExit for a reply that is not a 200 or has not all its tokens."""
    timings = Timings()
    loop, address = asyncio.get_running_loop(), urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    made = [
        await loop.create_connection(lambda: Connection(timings), address.hostname, address.port)
        for _ in range(load.connections)
    ]
    requests = [to_request(url, load.path, load.body(question, model)) for question in questions]

    async def ask_all(number: int, connection: Connection) -> None:
        for turn in range(load.requests):
            await connection.ask(
                requests[(number * load.requests + turn) % len(requests)], load.tokens
            )
        connection.close()

    began = time.perf_counter()
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(
            *(ask_all(number, connection) for number, (_, connection) in enumerate(made))
        )
    return replace(timings, seconds=time.perf_counter() - began)
