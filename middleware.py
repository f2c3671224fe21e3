"""Plain ASGI around the app: requests made canonical before they are routed, and what other origins may do."""

import re

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from errors import APIError

OFFER = re.compile(rb"(?i)(?<=\r\n)upgrade(?=:[ \t]*h2c[ \t]*\r\n)")


class CanonicalPaths:
    """Slashes too many are left out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": re.sub("/{2,}", "/", scope["path"]).rstrip("/") or "/"}
        await self.app(scope, receive, send)


class Http1Connection(HttpToolsProtocol):
    """uvicorn's, deaf to offers of HTTP/2: its parser takes what follows one for another protocol, not for the body.

    Such offers come from `curl --http2` and from Java's own client. Streams may write by `write_now`, which passes no
    middleware: none looks at a body.
    """

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["write_now"] = self.write_now  # type: ignore[typeddict-unknown-key]

    def write_now(self, body: bytes) -> bool:
        """Write a chunk of the reply whose head is sent; False if the client does not read so fast."""
        if not self.transport.is_closing():
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return not self.flow.write_paused

    def data_received(self, data: bytes) -> None:
        super().data_received(OFFER.sub(b"ignored", data, count=1))


class CrossOrigin(CORSMiddleware):
    """Starlette's, with its refusals in the one shape of errors."""

    def preflight_response(self, request_headers: Headers) -> Response:
        allowed = super().preflight_response(request_headers)
        if allowed.status_code < 400:
            return allowed
        kept = {name: value for name, value in allowed.headers.items() if not name.startswith("content-")}
        refusal = "This origin, method or header is not allowed."
        return APIError(allowed.status_code, refusal, headers=kept).to_response()
