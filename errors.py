"""Every failure a client can see: one exception, one JSON shape.

The shape is OpenAI's `{"error": {"message", "type", "param", "code"}}`, at most 1 KB, and says nothing that the
client did not need to know: no stack, no path, no echo of its input.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from pydantic_core import to_json

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


def bad_request(message: str, param: str | None = None, code: str | None = None) -> APIError:
    """A 400 that names the field at fault."""
    return APIError(400, message, param=param, code=code)


def unavailable(message: str, code: str) -> APIError:
    """A 503: the same request may succeed a second later."""
    return APIError(503, message, code=code, headers={"Retry-After": "1"})


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
