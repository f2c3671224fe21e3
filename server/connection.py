"""One HTTP/1.1 connection: how fast a request has to arrive, how it is written to, and what is refused unread."""

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
from server.request_record import KEY

H2C_UPGRADE = re.compile(rb"\r\n(?i:upgrade:[ \t]*h2c)[ \t]*(?=\r\n)")
ARRIVAL_SECONDS = 30
"""For a request's head, and for its body."""
MAX_HEAD_BYTES = 64 * 1024
OLD_VERSIONS = ("0.9", "1.0")
"""Of HTTP: they know no chunks, no Transfer-Encoding and no `100 Continue`, and need no Host."""
HOST = re.compile(rb"[\w.~!$&'()*+,;=:%\[\]-]*")
BLANKS = b" \t"
HEAD_TOO_LARGE = APIError(431, f"The head of the request is larger than {MAX_HEAD_BYTES} bytes.")


class Http1Connection(HttpToolsProtocol):
    """uvicorn's, with limits on a request's head, on the time that it may take to arrive, and one shape of errors.

    It answers HTTP/1.0 without chunks, and refuses a head that others could read in another way.

    It ignores upgrades to HTTP/2 (h2c), which `curl --http2` and Java's own client offer: the parser would take what
    follows for another protocol, not for the body. Streams may write by `write_now`, which passes no middleware:
    none looks at a body.
    """

    _is_head = False
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _answered: RequestResponseCycle | None = None
    _fault = bad_request("The request is not valid HTTP.")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(self.timeout_keep_alive or ARRIVAL_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        if self._answered is not None:  # uvicorn tells only the last of pipelined requests
            self._answered.disconnected = not self._answered.response_complete
            self._answered.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        is_old = cycle.scope["http_version"] in OLD_VERSIONS
        if is_old or not self.timeout_keep_alive:
            cycle.keep_alive = False
        if is_old:
            app = partial(without_chunks, cycle, app)
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        was_head = self._is_head
        super().data_received(H2C_UPGRADE.sub(b"\r\nIgnored: h2c", data, count=1))
        if was_head and self._is_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # No bound method, which would keep a closed connection until garbage is looked for.
        self.scope["write_now"] = partial(write_now, self.transport, self.flow)  # type: ignore[typeddict-unknown-key]
        self._is_head, self._head_bytes = True, 0
        self._wait(ARRIVAL_SECONDS)

    def on_headers_complete(self) -> None:
        self._is_head = False
        self._wait(ARRIVAL_SECONDS)
        version = self.parser.get_http_version()
        if (
            len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            > MAX_HEAD_BYTES
        ):
            self._fault = HEAD_TOO_LARGE
            raise self._fault  # to the parser, which ends in `send_400_response`
        if fault := head_fault(version, self.headers):
            self._fault = fault
            raise fault
        if version in OLD_VERSIONS:
            write = partial(write_now_without_chunks, self.transport, self.flow)
            self.scope["write_now"] = write  # type: ignore[typeddict-unknown-key]
            self.expect_100_continue = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._wait(None)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's, which is plain text
        self._refuse(self._fault)

    def _wait(self, seconds: float | None) -> None:
        """Close the connection after so many seconds, unless something else is waited for until then."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if self._is_head:
            self._refuse(APIError(408, "The head of the request did not arrive in time."))
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        elif self.flow.read_paused:  # by us, while a request before it is answered
            self._wait(ARRIVAL_SECONDS)
        else:
            if (record := self.scope["state"].get(KEY)) is not None:
                record.is_body_late = True
            self.cycle.message_event.set()

    def _refuse(self, failure: APIError) -> None:
        """Answer what never becomes a whole request, unless that would end in the middle of a reply; close."""
        running = self._answered
        if running is None or running.response_complete or not running.response_started:
            body = failure.to_json()
            head = f"HTTP/1.1 {failure.status} {HTTPStatus(failure.status).phrase}\r\n"
            head += "Content-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
        if running is not None:
            running.disconnected = True  # it writes nothing more
        self.transport.close()


def head_fault(version: str, headers: Sequence[tuple[bytes, bytes]]) -> APIError | None:
    """What a request's head lacks or says twice, where the parser is content (RFC 9112, sections 3.2 and 6.1)."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version not in OLD_VERSIONS):
        return bad_request(f"The request has {len(hosts) or 'no'} 'Host' fields: it must have one.")
    if hosts and not HOST.fullmatch(hosts[0].strip(BLANKS)):
        return bad_request("The request's 'Host' is no name or address.")
    codings = [
        value.strip(BLANKS).lower() for name, value in headers if name == b"transfer-encoding"
    ]
    if codings and (codings != [b"chunked"] or version in OLD_VERSIONS):
        return bad_request("The request's 'Transfer-Encoding' must be 'chunked', and of HTTP/1.1.")
    return None


async def without_chunks(
    cycle: RequestResponseCycle, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer HTTP/1.0: where a reply's length is not known, it ends with its connection."""
    is_open_ended = False

    async def send_plain(message: Message) -> None:
        nonlocal is_open_ended
        if message["type"] == "http.response.start":
            is_open_ended = b"content-length" not in dict(message["headers"])
            if is_open_ended:
                cycle.chunked_encoding = False
        elif is_open_ended:
            # uvicorn counts what is left.
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    await app(scope, receive, send_plain)


def write_now(transport: asyncio.Transport, flow: FlowControl, body: bytes) -> bool:
    """Write a chunk, which may not be empty, of a reply whose head is sent; False if the client reads more slowly."""
    if transport.is_closing():
        raise ClientDisconnect
    transport.write(b"%x\r\n%b\r\n" % (len(body), body))
    return not flow.write_paused


def write_now_without_chunks(transport: asyncio.Transport, flow: FlowControl, body: bytes) -> bool:
    """The same for a reply that has no chunks."""
    if transport.is_closing():
        raise ClientDisconnect
    transport.write(body)
    return not flow.write_paused
