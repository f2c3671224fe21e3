"""The end of each request: its line in the log, and what it adds to the metrics.

Prompts and replies are in the log only with `--log-requests` (`logged_texts.py`).
"""

import re
import secrets
import time
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any

import shortuuid
from pydantic_core import to_json
from shortuuid.main import int_to_string
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.metrics import Metrics
from server.request_record import STATE_KEY, RequestRecord

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that disconnects before its reply; it is sent to nobody."""
REQUEST_ID = re.compile(r"[ -~]{1,128}")
"""A client's `X-Request-Id` that is used: printable ASCII, of no unreasonable length."""
ALPHABET = list(shortuuid.get_alphabet())

Log = Callable[[str], None]
"""Takes a line of the log, and returns before it is written."""


class AccessLog:
    """Gives each request its id and its record, and counts and logs it when its reply has ended.

    The id is the client's `X-Request-Id` or a new one, and is in the reply's headers. `log_format` is `text` or `json`;
    without a `log`, requests are counted only.
    """

    def __init__(self, app: ASGIApp, log: Log | None, log_format: str, metrics: Metrics) -> None:
        self.app = app
        self._log = log
        self._is_json = log_format == "json"
        self._metrics = metrics
        self._in_flight = 0
        metrics.in_flight.set_function(lambda: self._in_flight)
        # What `labels` looks up anew at each call.
        self._requests = cache(metrics.requests.labels)
        self._duration = cache(metrics.duration.labels)
        self._prompt_tokens = cache(metrics.prompt_tokens.labels)
        self._generated_tokens = cache(metrics.generated_tokens.labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        status = CLIENT_CLOSED_REQUEST
        record = _new_record(scope)
        scope.setdefault("state", {})[STATE_KEY] = record

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.id.encode())]
            await send(message)

        self._in_flight += 1
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            self._in_flight -= 1
            self._count(scope["method"], record, status, began)
            if self._log is not None:
                self._log(self._to_line(_to_fields(scope["method"], record, status, began)))

    def _count(self, method: str, record: RequestRecord, status: int, began: float) -> None:
        self._requests(method, record.path, status).inc()
        self._duration(record.path).observe(time.monotonic() - began)
        generation = record.generation
        if generation is not None:
            self._prompt_tokens(generation.model).inc(generation.prompt_tokens)
            self._generated_tokens(generation.model).inc(generation.tokens)
            if generation.began is not None:
                self._metrics.first_token.observe(generation.began - began)

    def _to_line(self, fields: dict[str, Any]) -> str:
        if self._is_json:
            return to_json({"time": round(time.time(), 3), **fields}).decode()
        # Lists of texts are written by `repr`: on one line, and without a terminal's control characters.
        spelt = " ".join(f"{name}={value}" for name, value in fields.items())
        return f"{datetime.now().isoformat(' ', 'milliseconds')} {spelt}"


def _new_record(scope: Scope) -> RequestRecord:
    sent = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    serial = int_to_string(secrets.randbits(128), ALPHABET, padding=22)
    return RequestRecord(sent if REQUEST_ID.fullmatch(sent) else serial, serial)


def _to_fields(method: str, record: RequestRecord, status: int, began: float) -> dict[str, Any]:
    """What a line of the log says, in its order; times are in seconds."""
    fields: dict[str, Any] = {"id": record.id, "method": method}
    fields |= {"path": record.path, "status": status}
    generation = record.generation
    if generation is not None:
        fields["model"] = generation.model
        fields["prompt_tokens"] = generation.prompt_tokens
        fields["generated_tokens"] = generation.tokens
        if generation.began is not None:
            fields["first_token_s"] = round(generation.began - began, 3)
        fields["finish_reason"] = ",".join(dict.fromkeys(generation.finish_reasons)) or None
        fields |= record.texts
    if record.ignored:
        fields["ignored"] = record.ignored.replace(", ", ",")
    fields["total_s"] = round(time.monotonic() - began, 3)
    return fields
