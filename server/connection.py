"""One HTTP/1.1 connection: deadlines for what has to arrive, heads that are refused, and how replies are written.

The head of a request is its request line and its headers.
"""

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from errors import APIError, bad_request
from server.request_record import STATE_KEY

H2C_UPGRADE = re.compile(rb"\r\n(?i:upgrade:[ \t]*h2c)[ \t]*(?=\r\n)")
ARRIVAL_SECONDS = 30
"""How long a request's head may take to arrive, and how long its body may take after that."""
MAX_HEAD_BYTES = 64 * 1024
VERSIONS_BEFORE_1_1 = ("0.9", "1.0")
"""Without chunked transfer coding, `100 Continue` and a `Host` that is required."""
HOST = re.compile(rb"[\w.~!$&'()*+,;=:%\[\]-]*")
"""The characters of a host and a port (RFC 3986, section 3.2)."""
OWS = b" \t"
"""The optional whitespace around a header's value (RFC 9110, section 5.6.3)."""


class Http1Connection(HttpToolsProtocol):
    """uvicorn's connection with deadlines, a limit on heads, stricter checks of them, and errors as JSON.

    - A head or body that does not arrive in time is answered with 408, and an idle connection is closed.
    - HTTP/1.0 gets replies without chunked transfer coding.
    - An upgrade to HTTP/2 (h2c), which `curl --http2` and Java's HttpClient offer, is ignored (RFC 9110, section 7.8,
      allows that): httptools would take the body that follows for the other protocol.
    - The ASGI scope has `write_now(body: bytes) -> bool`, which writes a part of a body without middleware and
      coroutines: it raises ClientDisconnect if the client has left, and returns False if the client reads too slowly,
      which is waited for by ASGI's `send`.
    - The scope has `lost`, a future whose callbacks are called when the client has left. It and `write_now` may be used
      in the event loop `connection_loop` alone.
    """

    _is_reading_head = False
    _head_bytes = 0
    _due: float | None = None
    """When, by the loop's clock, what is waited for has to be there."""
    _timer: asyncio.TimerHandle | None = None
    """Rings when that is, or earlier: setting one for each head and each body would cost more."""
    _running: RequestResponseCycle | None = None
    """The request that is being answered; uvicorn's `cycle` is the one that arrived last, which may wait for it."""
    _refusal: APIError | None = None
    """Why this request's head is refused; None: the parser refuses it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._lost: asyncio.Future[None] = self.loop.create_future()
        self._set_timer(self.timeout_keep_alive or ARRIVAL_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Of pipelined requests, uvicorn tells only the last that the client has left.
        if self._running is not None:
            self._running.disconnected = not self._running.response_complete
            self._running.message_event.set()
        self._lost.set_result(None)
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if not self.timeout_keep_alive:
            cycle.keep_alive = False
        if cycle.scope["http_version"] in VERSIONS_BEFORE_1_1:
            app = self._without_http_1_1(cycle, app)
        super()._start_asgi_task(cycle, app)

    def _without_http_1_1(self, cycle: RequestResponseCycle, app: Any) -> Any:
        """The app for a client of HTTP/1.0; nothing of its request's reply has been written."""
        cycle.keep_alive = cycle.waiting_for_100_continue = False
        write = partial(write_now_without_chunks, self.transport, self.flow)
        cycle.scope["write_now"] = write  # type: ignore[typeddict-unknown-key]
        return partial(without_chunks, cycle, app)

    def data_received(self, data: bytes) -> None:
        was_reading_head = self._is_reading_head
        super().data_received(H2C_UPGRADE.sub(b"\r\nIgnored: h2c", data, count=1))
        if was_reading_head and self._is_reading_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(head_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # A method bound to this object would be a cycle of references: closed connections would wait for the collector.
        self.scope["write_now"] = partial(write_now, self.transport, self.flow)  # type: ignore[typeddict-unknown-key]
        self.scope["lost"] = self._lost  # type: ignore[typeddict-unknown-key]
        self.scope["connection_loop"] = self.loop  # type: ignore[typeddict-unknown-key]
        self._is_reading_head = True
        self._head_bytes = 0
        self._set_timer(ARRIVAL_SECONDS)

    def on_headers_complete(self) -> None:
        self._is_reading_head = False
        self._set_timer(ARRIVAL_SECONDS)
        version = self.parser.get_http_version()
        try:
            check_head(version, self.url, self.headers)
        except APIError as refusal:
            self._refusal = refusal
            raise  # the parser stops, and uvicorn calls `send_400_response`
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._set_timer(None)
        super().on_message_complete()
        # uvicorn reads no more after a long piece of a body, and who does not read does not see a client leave.
        if self.cycle is self._running:
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own is plain text
        refusal = self._refusal or bad_request("The request is not valid HTTP.")
        self._refusal = None  # its traceback refers to this connection
        self._refuse(refusal)

    def _set_timer(self, seconds: float | None) -> None:
        """Call `_on_timeout` in so many seconds, or not at all, instead of when it was to be called."""
        self._due = None if seconds is None else self.loop.time() + seconds
        self._let_ring()

    def _let_ring(self) -> None:
        if self._due is None or (self._timer is not None and self._timer.when() <= self._due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._due, self._on_ring)

    def _on_ring(self) -> None:
        self._timer = None
        if self._due is not None and self.loop.time() >= self._due:
            self._on_timeout()
        else:
            self._let_ring()

    def _on_timeout(self) -> None:
        if self._is_reading_head:
            self._refuse(APIError(408, "The head of the request did not arrive in time."))
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        elif self.flow.read_paused:
            # uvicorn does not read the body while an earlier request is being answered.
            self._set_timer(ARRIVAL_SECONDS)
        else:
            # The route, which waits for the body, answers with 408.
            if (record := self.scope["state"].get(STATE_KEY)) is not None:
                record.is_body_late = True
            self.cycle.message_event.set()

    def _refuse(self, failure: APIError) -> None:
        """Close the connection, after an answer unless that would be in the middle of another request's reply."""
        running = self._running
        if running is None or running.response_complete or not running.response_started:
            body = failure.to_json()
            head = f"HTTP/1.1 {failure.status} {HTTPStatus(failure.status).phrase}\r\n"
            head += "Content-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
        if running is not None:
            running.disconnected = True  # so that it writes nothing more
        self.transport.close()


def head_too_large() -> APIError:
    return APIError(431, f"The head of the request is larger than {MAX_HEAD_BYTES} bytes.")


def check_head(version: str, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise APIError for a head that is too large (431), or that servers could read differently (400).

    httptools accepts more than RFC 9112 does: requests with no `Host` or several (section 3.2), and other transfer
    codings than a single `chunked` (section 6.1).
    """
    # Four more bytes for each header: a colon, a space and a line end.
    size = len(url) + sum(len(name) + len(value) + 4 for name, value in headers)
    if size > MAX_HEAD_BYTES:
        raise head_too_large()
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version not in VERSIONS_BEFORE_1_1):
        raise bad_request(f"The request has {len(hosts) or 'no'} 'Host' fields: it must have one.")
    if hosts and not HOST.fullmatch(hosts[0].strip(OWS)):
        raise bad_request("The request's 'Host' is no name or address.")
    codings = [value.strip(OWS).lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or version in VERSIONS_BEFORE_1_1):
        raise bad_request("The request's 'Transfer-Encoding' must be 'chunked', and of HTTP/1.1.")


async def without_chunks(
    cycle: RequestResponseCycle, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Call `app` for a client of HTTP/1.0: a reply without `Content-Length` ends where the connection does."""
    has_length = True

    async def send_without_chunks(message: Message) -> None:
        nonlocal has_length
        if message["type"] == "http.response.start":
            has_length = b"content-length" in dict(message["headers"])
            if not has_length:
                cycle.chunked_encoding = False
        elif not has_length:
            # uvicorn refuses to send more bytes than it expects.
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    await app(scope, receive, send_without_chunks)


def write_now(transport: asyncio.Transport, flow: FlowControl, body: bytes) -> bool:
    """Write a part of a body as a chunk (RFC 9112, section 7.1), once the reply's status and headers are written.

    The part may not be empty: that would end the body. Returns False if the client reads more slowly than is written;
    raises ClientDisconnect.
    """
    if transport.is_closing():
        raise ClientDisconnect
    transport.write(b"%x\r\n%b\r\n" % (len(body), body))
    return not flow.write_paused


def write_now_without_chunks(transport: asyncio.Transport, flow: FlowControl, body: bytes) -> bool:
    """As `write_now`, for a body that ends where the connection does."""
    if transport.is_closing():
        raise ClientDisconnect
    transport.write(body)
    return not flow.write_paused
