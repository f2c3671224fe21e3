"""Around the app: who may ask, how much may arrive, requests made canonical, what pages of other origins may do."""

import hashlib
import re
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import APIError
from server.error_responses import to_response
from server.request_record import request_record

CLOSE = {"Connection": "close"}
NOT_IN_REFUSALS = ("content-", "access-control-allow-private-network")


class CanonicalPaths:
    """Collapses repeated slashes, and takes a path with the prefix of `--root-path` as the one without.

    uvicorn puts the prefix before every path, whether the proxy has taken it away or not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path, root = re.sub("/{2,}", "/", scope["path"]).rstrip("/"), scope.get("root_path", "")
            if root:
                path = _without_prefix(path, root)
                inner = _without_prefix(path, root)
                # Not where the prefix is the beginning of a route itself, such as /v1.
                path = root + (inner if inner != path and _has_route(scope, inner or "/") else path)
            scope = {**scope, "path": path if path != root else f"{root}/"}
        await self.app(scope, receive, send)


def _without_prefix(path: str, root: str) -> str:
    return path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else path


def _has_route(scope: Scope, path: str) -> bool:
    asked = {**scope, "path": path, "root_path": ""}
    return any(route.matches(asked)[0] is not Match.NONE for route in scope["app"].routes)


class Keys:
    """Requires one of the keys, if there are any, as `Authorization: Bearer KEY`, on every path but `/health`."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self._keys = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys and not self._may_pass(scope):
            message = "This server wants a key that it knows, as 'Authorization: Bearer KEY'."
            refusal = APIError(
                401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
            )
            await to_response(refusal)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["method"] == "OPTIONS" or scope["path"] == f"{scope.get('root_path', '')}/health":
            return True
        scheme, _, sent = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        digest = _digest(sent.strip())
        return scheme.lower() == b"bearer" and any(
            secrets.compare_digest(digest, key) for key in self._keys
        )


class BodyLimits:
    """Lets bodies through that are small enough, and there in time; one that is announced too large is refused unread.

    The time is kept by the connection: a timer in each request would cost more.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await to_response(self._too_large())(scope, receive, send)
            return
        arrived, is_whole = 0, False

        async def receive_in_time() -> Message:
            nonlocal arrived, is_whole
            if is_whole:
                return await receive()
            message = await receive()
            if request_record(scope).is_body_late:
                raise APIError(408, "The request body did not arrive in time.", headers=CLOSE)
            arrived += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if arrived > self._max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, receive_in_time, send)

    def _too_large(self) -> APIError:
        return APIError(
            413, f"The request body is larger than {self._max_bytes} bytes.", headers=CLOSE
        )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class CrossOrigin(CORSMiddleware):
    """Starlette's, with its refusals in the one shape of errors, and without the grant of a private network."""

    def preflight_response(self, request_headers: Headers) -> Response:
        allowed = super().preflight_response(request_headers)
        if allowed.status_code < 400:
            return allowed
        kept = {
            name: value
            for name, value in allowed.headers.items()
            if not name.startswith(NOT_IN_REFUSALS)
        }
        refusal = "This origin, method or header is not allowed."
        return to_response(APIError(allowed.status_code, refusal, headers=kept))
