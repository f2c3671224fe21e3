"""The one exception for everything that fails a request, and its JSON body in OpenAI's shape.

The shape is `{"error": {"message", "type", "param", "code"}}`, at most 1 KB. A message has no traceback, no file path
of the server and no prompt.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from pydantic_core import to_json

MAX_MESSAGE_CHARACTERS = 240
MAX_PARAM_CHARACTERS = 60


@dataclass(eq=False)
class APIError(Exception):
    """A failed request: its HTTP status, and what the client is told.

    `param` is the request field at fault, `code` a word for programs, `headers` are added to the response.
    """

    status: int
    message: str
    _: KW_ONLY
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] | None = None

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> bytes:
        """Return the error body; in a stream that has begun, it is the data of an event."""
        error = {
            "message": _shortened(self.message, MAX_MESSAGE_CHARACTERS),
            "type": "invalid_request_error" if self.status < 500 else "server_error",
            "param": self.param and _shortened(self.param, MAX_PARAM_CHARACTERS),
            "code": self.code,
        }
        return to_json({"error": error})


def bad_request(message: str, param: str | None = None, code: str | None = None) -> APIError:
    """Make the error of an invalid request (400); `param` is the field at fault."""
    return APIError(400, message, param=param, code=code)


def unavailable(message: str, code: str) -> APIError:
    """Make the error of a server that cannot take the request now (503); clients are told to retry after a second."""
    return APIError(503, message, code=code, headers={"Retry-After": "1"})


def engine_died() -> APIError:
    """Make the error of a request that vLLM's engine cannot answer any more (503)."""
    return unavailable("The engine has died.", "engine_dead")


def shown(text: str, limit: int) -> str:
    """Return a client's text as a message may name it: cut, without what moves a cursor or breaks a line."""
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit]
    )
    return escaped if len(escaped) <= limit and len(text) <= limit else f"{escaped[: limit - 1]}…"


def _shortened(text: str, limit: int) -> str:
    """Cut a text to `limit` characters, the last of which is an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
