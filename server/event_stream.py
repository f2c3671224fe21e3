"""Replies of a client that is still there: work that ends when it disconnects, and streams of server-sent events.

Bytes are carried here, whatever they say. That a client has left is noticed at once, because it is waited for beside
the work: a stream alone would notice it at its next write, a plain reply never. `Http1Connection` tells it by a future
in the scope; other servers only by a message of ASGI, `http.disconnect`, for which a task has to wait.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from errors import APIError
from generation import Drain, Source, end
from server.error_responses import to_api_error, to_response
from server.request_record import request_record

Result = TypeVar("Result")

COMMENT = b": keep-alive\n\n"
"""A line that clients ignore: it begins with a colon (HTML Living Standard, 9.2.6)."""
NO_LIMIT = 10 * 365 * 24 * 3600
"""Seconds that no request takes."""
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies are to pass each event on at once; nginx reads the second."""


async def while_connected(
    scope: Scope, receive: Receive, work: Awaitable[Result], seconds: float
) -> Result:
    """Await `work` for at most so many seconds, 0 for any time, as long as the client stays connected.

    Cancels `work`, and then raises, when the client disconnects (Starlette's ClientDisconnect) or the time is over
    (APIError, 504). A cancellation of the calling task by others, such as the server's at its end, is passed on.

    As `asyncio.timeout` does it, which alone took 3 % of what a plain request of 16 tokens costs this process: the task
    is cancelled, and that cancellation then no longer counted (`Task.uncancel`).
    """
    task = asyncio.current_task()
    assert task is not None
    reasons: list[Callable[[], Exception]] = []

    def stop(to_reason: Callable[[], Exception], *_: object) -> None:
        if is_working and not reasons:
            reasons.append(to_reason)
            task.cancel()

    is_working, is_told = True, _is_here(scope)
    lost = scope["lost"] if is_told else asyncio.ensure_future(_listen(receive))
    leave = partial(stop, ClientDisconnect)
    lost.add_done_callback(leave)
    late = partial(_too_late, seconds)
    timer = asyncio.get_running_loop().call_later(seconds or NO_LIMIT, stop, late)
    try:
        return await work
    except asyncio.CancelledError:
        if reasons and task.cancelling() == 1:
            raise reasons[0]() from None
        raise
    finally:
        is_working = False  # a callback that is due is called all the same
        if reasons:
            task.uncancel()
        lost.remove_done_callback(leave)
        timer.cancel()
        if not is_told:
            lost.cancel()


def _too_late(seconds: float) -> APIError:
    message = f"The request took more than {seconds:g} seconds."
    return APIError(504, message, code="request_timeout")


async def _listen(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_here(scope: Scope) -> bool:
    """Whether what the scope has of the connection may be used: a server may run the app in a thread of its own."""
    return scope.get("connection_loop") is asyncio.get_running_loop()


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """What an API sends in a stream besides its events."""

    to_failure_event: Callable[[APIError], bytes]
    """The event for a failure that comes when the status has been sent."""
    last_event: bytes
    """The event that ends every stream, or nothing."""


class EventStream(Response):
    """A reply of `text/event-stream`, whose events come as bytes from a source.

    Its status and headers are sent with the first event. A failure before that is answered with a status of its own;
    later, it is an event.

    Whenever nothing has been sent for `keep_alive` seconds (0: never) a comment is sent, so that proxies do not take
    the connection for dead. A first comment is preceded by status and headers, as a first event is.

    Events pass by ASGI's `send` and its coroutines where the scope has no `write_now` for this event loop.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: Source[bytes],
        stream_format: StreamFormat,
        headers: Mapping[str, str],
        seconds: float,
        keep_alive: float,
    ) -> None:
        super().__init__(headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._events, self._format = events, stream_format
        self._seconds, self._keep_alive = seconds, keep_alive
        self._sent_at = time.monotonic()
        self._has_begun = False
        self._waiting = b""
        """Events that have not been sent; `_flush` sends them."""
        self._sending = asyncio.Lock()
        self._comment_timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self._write_now: Callable[[bytes], bool] | None = (
            scope["write_now"] if _is_here(scope) else None
        )
        try:
            await self._send_events(scope, receive)
        except ClientDisconnect:
            return
        except Exception as failure:  # noqa: BLE001 - answered by its status, or if that is sent as an event
            error = to_api_error(failure, request_record(scope).id)
            if not self._has_begun:
                await to_response(error)(scope, receive, send)
                return
            self._waiting += self._format.to_failure_event(error)
        await self._flush(self._format.last_event)

    async def _send_events(self, scope: Scope, receive: Receive) -> None:
        """Send all events, and comments while none come."""
        if self._keep_alive:
            self._send_comment_later(self._keep_alive)
        try:
            await while_connected(scope, receive, self._events(self._write), self._seconds)
        finally:
            if self._comment_timer is not None:
                self._comment_timer.cancel()
            if self._comment is not None:
                await end([self._comment])

    def _write(self, events: Sequence[bytes]) -> Drain | None:
        """Send events, or let them wait if earlier ones do; a sink."""
        together = b"".join(events)
        if self._write_now is None or self._waiting or not self._has_begun:
            self._waiting += together
            return self._flush
        self._sent_at = time.monotonic()
        return None if self._write_now(together) else self._flush

    def _send_comment_later(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._comment_timer = loop.call_later(seconds, self._send_comment_if_silent)

    def _send_comment_if_silent(self) -> None:
        """Send a comment if nothing has been sent for so long.

        While events wait for a slow client no comment joins them: they will themselves show that the stream lives.
        """
        now = time.monotonic()
        if now - self._sent_at >= self._keep_alive:
            if not self._waiting and not self._sending.locked():
                self._waiting = COMMENT
                self._comment = asyncio.create_task(self._flush())
            self._sent_at = now
        self._send_comment_later(self._sent_at + self._keep_alive - now)

    async def _flush(self, last: bytes | None = None) -> None:
        """Send what waits once the client has read enough, with status and headers before; `last` ends the reply."""
        async with self._sending:
            if not self._has_begun:
                await self._send(
                    {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                )
                self._has_begun = True
            events = self._waiting
            body, has_more = events + (last or b""), last is None
            await self._send({"type": "http.response.body", "body": body, "more_body": has_more})
            self._waiting = self._waiting[len(events) :]
            self._sent_at = time.monotonic()
