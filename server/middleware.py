"""ASGI middleware: API keys and canonical paths."""

import hashlib
import re
import secrets
from collections.abc import Collection, Sequence

from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from errors import APIError
from server.error_responses import to_response


class CanonicalPaths:
    """Collapses repeated slashes, removes trailing ones, and accepts paths with and without the `--root-path`.

    A proxy may strip the prefix of `--root-path` from a path, or not. uvicorn puts it before every path (ASGI: the
    scope's `path` includes `root_path`), so where the proxy leaves it in place it is there twice.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            root = scope.get("root_path", "")
            path = re.sub("/{2,}", "/", scope["path"]).rstrip("/")
            if root:
                path = root + _below_root(scope, path, root)
            scope = {**scope, "path": path if path != root else f"{root}/"}
        await self.app(scope, receive, send)


def _below_root(scope: Scope, path: str, root: str) -> str:
    path = _without_prefix(path, root)
    stripped = _without_prefix(path, root)
    # With `--root-path /v1`, the `/v1` of `/v1/models` belongs to the route.
    if stripped != path and _has_route(scope, stripped or "/"):
        return stripped
    return path


def _without_prefix(path: str, prefix: str) -> str:
    return path.removeprefix(prefix) if f"{path}/".startswith(f"{prefix}/") else path


def _has_route(scope: Scope, path: str) -> bool:
    asked = {**scope, "path": path, "root_path": ""}
    return any(route.matches(asked)[0] is not Match.NONE for route in scope["app"].routes)


class APIKeys:
    """Requires one of the keys as `Authorization: Bearer KEY` (RFC 6750), if there are any; else answers with 401.

    `open_paths` need no key, nor do preflight requests, which cannot carry one.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: Collection[str]) -> None:
        self.app = app
        self._open_paths = open_paths
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._digests and not self._may_pass(scope):
            message = "This server wants a key that it knows, as 'Authorization: Bearer KEY'."
            challenge = {"WWW-Authenticate": "Bearer"}
            refusal = APIError(401, message, code="invalid_api_key", headers=challenge)
            await to_response(refusal)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        path = _without_prefix(scope["path"], scope.get("root_path", ""))
        if scope["method"] == "OPTIONS" or path in self._open_paths:
            return True
        scheme, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        sent = _digest(key.strip())
        return scheme.lower() == b"bearer" and any(
            secrets.compare_digest(sent, digest) for digest in self._digests
        )


def _digest(key: bytes) -> bytes:
    """Digests have one length, so that the time of a comparison does not tell that of a key."""
    return hashlib.sha256(key).digest()
