"""Plain ASGI around the app: requests made canonical before they are routed, and what other origins may do."""

import re

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from errors import APIError


class CanonicalRequests:
    """Slashes too many are left out, and a body is JSON whatever its Content-Type says (curl's -d says a form)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": re.sub("/{2,}", "/", scope["path"]).rstrip("/") or "/"}
        if scope["type"] == "http" and scope["method"] == "POST":
            others = [header for header in scope["headers"] if header[0] != b"content-type"]
            scope = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
        await self.app(scope, receive, send)


class CrossOrigin(CORSMiddleware):
    """Starlette's, with its refusals in the one shape of errors."""

    def preflight_response(self, request_headers: Headers) -> Response:
        allowed = super().preflight_response(request_headers)
        if allowed.status_code < 400:
            return allowed
        kept = {name: value for name, value in allowed.headers.items() if not name.startswith("content-")}
        return APIError(
            allowed.status_code, "This origin, method or header is not allowed.", headers=kept
        ).to_response()
