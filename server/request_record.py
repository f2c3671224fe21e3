"""What is known of a request while it runs: for those that handle it, and for its line in the log."""

from dataclasses import dataclass, field

from starlette.types import Scope

from generation import Generation

STATE_KEY = "record"
"""Where the record is in the `state` of the request's ASGI scope."""


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request."""

    id: str
    """The client's `X-Request-Id` if that is usable, else `serial`."""
    serial: str
    """A unique id of the server's, also part of the id of a completion."""
    path: str = "other"
    """The path of its route as declared, such as `/v1/models/{model_id:path}`; `other` where there is no route."""
    body_bytes: int = 0
    """The length of its body, decompressed."""
    is_body_late: bool = False
    """The time for its body to arrive is over."""
    generation: Generation | None = None
    """What is generated for it, once it has been accepted."""
    ignored: str = ""
    """The fields of its body that have no effect, as the header of its reply names them."""
    texts: dict[str, list[str]] = field(default_factory=dict)
    """With `--log-requests`: `prompts` and `replies`, cut short."""


def request_record(scope: Scope) -> RequestRecord:
    """The record of the request with this ASGI scope."""
    record: RequestRecord = scope["state"][STATE_KEY]
    return record
