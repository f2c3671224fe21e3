"""What is known of a request while it runs, for those that it passes through and for its line in the log."""

from dataclasses import dataclass, field

from starlette.types import Scope

from generation import Generation

KEY = "record"
"""In the scope's state."""


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request."""

    id: str
    """As it was sent in `X-Request-Id`, or `serial`."""
    serial: str
    """Unique, and part of a reply's id."""
    path: str = "other"
    """That of its route, once one is found."""
    body_bytes: int = 0
    is_body_late: bool = False
    """Nothing more of its body is waited for."""
    generation: Generation | None = None
    texts: dict[str, list[str]] = field(default_factory=dict)
    """What `--log-requests` shows of prompts and replies."""


def request_record(scope: Scope) -> RequestRecord:
    """The record of the request of this scope."""
    record: RequestRecord = scope["state"][KEY]
    return record
