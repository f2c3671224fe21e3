"""Every failure a client can see: one exception, one JSON shape.

The shape is OpenAI's `{"error": {"message", "type", "param", "code"}}`, at most 1 KB, and says nothing that the
client did not need to know: no stack, no path, no echo of its input.
"""

import logging
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from fastapi import Request, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARACTERS = 240
MAX_PARAM_CHARACTERS = 60


@dataclass(eq=False)
class APIError(Exception):
    """A failure with its HTTP status; raised anywhere, answered in one place."""

    status: int
    message: str
    _: KW_ONLY
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] | None = None

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> bytes:
        """The error body, also the payload of a stream's error event."""
        error = {
            "message": _shortened(self.message, MAX_MESSAGE_CHARACTERS),
            "type": "invalid_request_error" if self.status < 500 else "server_error",
            "param": self.param and _shortened(self.param, MAX_PARAM_CHARACTERS),
            "code": self.code,
        }
        return to_json({"error": error})

    def to_response(self) -> Response:
        return Response(self.to_json(), self.status, self.headers, "application/json")


def bad_request(message: str, param: str | None = None, code: str | None = None) -> APIError:
    """A 400 that names the field at fault."""
    return APIError(400, message, param=param, code=code)


def unavailable(message: str, code: str) -> APIError:
    """A 503: the same request may succeed a second later."""
    return APIError(503, message, code=code, headers={"Retry-After": "1"})


def to_api_error(failure: BaseException) -> APIError:
    """Any exception as the client may see it; the unexpected is logged here and says nothing outside."""
    match failure:
        case APIError():
            return failure
        case ClientDisconnect():
            return bad_request("The request body did not arrive.")
        case HTTPException(status_code=404):
            return APIError(404, "Unknown path.", code="not_found")
        case HTTPException():
            return APIError(failure.status_code, f"{failure.detail}.", headers=failure.headers)
    logger.error("unexpected failure", exc_info=failure)
    return APIError(500, "The server failed unexpectedly; the failure is in its log.")


async def answer_failure(_: Request, failure: Exception) -> Response:
    """For failures outside the routes: unknown paths and wrong methods."""
    return to_api_error(failure).to_response()


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
