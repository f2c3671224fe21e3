"""The open connection: server-sent events out, and what happens when the client leaves.

Knows nothing about what is sent. A client that leaves is seen at once, by waiting for its disconnect message beside
the work: a framework's response object alone would find out at the next write, and a plain reply never.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from errors import APIError
from generation import Drain, end
from server.error_responses import to_api_error, to_response
from server.request_record import request_record

Result = TypeVar("Result")
Events = Callable[[Callable[[bytes], Drain | None]], Awaitable[None]]
"""Writes them all, by a function that returns what to await if the client is slow."""

COMMENT = b": keep-alive\n\n"
"""A line that every reader of events passes over (HTML living standard, 9.2.6)."""
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def while_connected(receive: Receive, work: Awaitable[Result], seconds: float) -> Result:
    """The result of `work`; raises ClientDisconnect if the client leaves, APIError (504) if it takes too long.

    Either cancels the calling task, which is there for `work` alone. With 0 `seconds` it may take any time.
    """
    worker = asyncio.current_task()
    assert worker is not None
    late = APIError(504, f"The request took more than {seconds:g} seconds.", code="request_timeout")
    reasons: list[Exception] = []

    def end(reason: Exception) -> None:
        if not reasons and worker.cancel():
            reasons.append(reason)

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        end(ClientDisconnect())

    listener = asyncio.ensure_future(listen())
    timer = asyncio.get_running_loop().call_later(seconds, end, late) if seconds else None
    try:
        return await work
    except asyncio.CancelledError:
        if not reasons or worker.uncancel():  # the server itself ends the request
            raise
        raise reasons[0] from None
    finally:
        if timer is not None:
            timer.cancel()
        listener.cancel()


@dataclass(frozen=True, slots=True)
class EventSpelling:
    """How an API spells what a stream has besides its events."""

    failure: Callable[[APIError], bytes]
    """The event of a failure after the first byte."""
    end: bytes
    """What ends every stream."""


class EventStream(Response):
    """A `text/event-stream` of events that come as bytes; a failure after the first byte is an event too.

    Events are written at once where the server can write so: it says so by a `write_now` in the scope. A write costs
    more than all that goes before it.

    A stream that is silent for `keep_alive` seconds sends a comment, which clients pass over, before a proxy on the
    way takes it for dead. With the first comment its head is sent: a failure is an event from then on.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: Events,
        spelling: EventSpelling,
        headers: Mapping[str, str],
        seconds: float,
        keep_alive: float,
    ) -> None:
        super().__init__(headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._events, self._spelling = events, spelling
        self._seconds, self._keep_alive = seconds, keep_alive
        self._written_at = time.monotonic()
        self._has_begun = False
        self._waiting = b""
        self._in_turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self._write_now: Callable[[bytes], bool] | None = scope.get("write_now")
        try:
            async with self._kept_alive():
                await while_connected(receive, self._events(self._write), self._seconds)
        except ClientDisconnect:
            return
        except Exception as failure:  # noqa: BLE001 - answered by its status, or if that is sent as an event
            error = to_api_error(failure, request_record(scope).id)
            if not self._has_begun:
                await to_response(error)(scope, receive, send)
                return
            self._waiting += self._spelling.failure(error)
        await self._flush(self._spelling.end)

    def _write(self, events: bytes) -> Drain | None:
        """Send events; returns what to await before the next ones, if they wait for the client."""
        if self._write_now is None or self._waiting or not self._has_begun:
            self._waiting += events
            return self._flush
        self._written_at = time.monotonic()
        return None if self._write_now(events) else self._flush

    @asynccontextmanager
    async def _kept_alive(self) -> AsyncIterator[None]:
        if not self._keep_alive:
            yield
            return
        comments = asyncio.create_task(self._comment())
        try:
            yield
        finally:
            await end([comments])

    async def _comment(self) -> None:
        """Send a comment whenever nothing has been sent for so long, unless something waits for a slow client."""
        while True:
            silence = time.monotonic() - self._written_at
            if silence < self._keep_alive:
                await asyncio.sleep(self._keep_alive - silence)
                continue
            if self._waiting or self._in_turn.locked():
                self._written_at = time.monotonic()  # as good as: it comes when the client has read
            else:
                self._waiting = COMMENT
                await self._flush()

    async def _flush(self, end: bytes = b"") -> None:
        """Send what waits, when the client has read enough; with `end` it is the end."""
        async with self._in_turn:
            if not self._has_begun:
                await self._send(
                    {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                )
                self._has_begun = True
            events = self._waiting
            await self._send(
                {"type": "http.response.body", "body": events + end, "more_body": not end}
            )
            self._waiting = self._waiting[len(events) :]
            self._written_at = time.monotonic()
