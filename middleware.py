"""Plain ASGI around the app: requests made canonical before they are routed."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send


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
