"""What is known of each request when it is over: its id, a line in the log, and the numbers of `/metrics`.

The text is never known here, unless `--log-requests` asks for it.
"""

import re
import time
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any

import shortuuid
from prometheus_client import Counter, Gauge, Histogram
from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from encoder import Encoder
from generation import Delta, Generation, changed

CLIENT_LEFT = 499
A_GIVEN_ID = re.compile(r"[ -~]{1,128}")
SHOWN_TEXTS, SHOWN_CHARACTERS = 4, 1000
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)

REQUESTS = Counter("http_requests", "Requests that are over", ["method", "path", "status"])
IN_FLIGHT = Gauge("http_requests_in_flight", "Requests that are not over")
DURATION = Histogram(
    "http_request_duration_seconds", "From a request's head to the end of its reply", ["path"], buckets=SECONDS
)
FIRST_TOKEN = Histogram("time_to_first_token_seconds", "From a request's head to its first text", buckets=SECONDS)
ENGINE_REQUESTS = Gauge("engine_requests_unfinished", "Requests in the engine, running or waiting, by choice or beam")
TASKS = Gauge("asyncio_tasks", "Tasks of the event loop")
PROMPT_TOKENS = Counter("prompt_tokens", "Tokens of answered prompts")
GENERATED_TOKENS = Counter("generated_tokens", "Tokens generated, also of replies that nobody waited for")

_requests, _duration = cache(REQUESTS.labels), cache(DURATION.labels)

Log = Callable[[str], None]
"""Takes lines, without waiting."""


class Journal:
    """Takes or makes the id of each request, and notes how it ended; without a `log`, in the numbers alone."""

    def __init__(self, app: ASGIApp, log: Log | None, log_format: str) -> None:
        self.app = app
        self._log = log
        self._is_json = log_format == "json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        serial = shortuuid.uuid()
        request_id = given if A_GIVEN_ID.fullmatch(given) else serial
        began, status = time.monotonic(), CLIENT_LEFT
        state = scope.setdefault("state", {})
        state["request_id"], state["serial"] = request_id, serial

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with IN_FLIGHT.track_inprogress():
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                self._note(scope, state, status, began)

    def _note(self, scope: Scope, state: dict[str, Any], status: int, began: float) -> None:
        seconds = time.monotonic() - began
        path = state.get("path", "other")
        _requests(scope["method"], path, status).inc()
        _duration(path).observe(seconds)
        line: dict[str, Any] = {"id": state["request_id"], "method": scope["method"], "path": path, "status": status}
        generation: Generation | None = state.get("generation")
        if generation is not None:
            PROMPT_TOKENS.inc(generation.prompt_tokens)
            GENERATED_TOKENS.inc(generation.tokens)
            line |= {"prompt_tokens": generation.prompt_tokens, "generated_tokens": generation.tokens}
            if generation.began is not None:
                FIRST_TOKEN.observe(generation.began - began)
                line["first_token_s"] = round(generation.began - began, 3)
            line["finish_reason"] = ",".join(dict.fromkeys(generation.finish_reasons)) or None
            line |= state.get("texts", {})
        line["total_s"] = round(seconds, 3)
        if self._log is not None:
            self._log(self._spell(line))

    def _spell(self, line: dict[str, Any]) -> str:
        if self._is_json:
            return to_json({"time": round(time.time(), 3), **line}).decode()
        # What `repr` makes of a text is one line, and moves no cursor.
        fields = " ".join(f"{name}={value}" for name, value in line.items())
        return f"{datetime.now().isoformat(' ', 'milliseconds')} {fields}"


def keep_texts(generation: Generation, encoder: Encoder) -> dict[str, list[str]]:
    """What the model reads and, as it comes, what it answers: of the first prompts and choices, the beginning."""
    prompts = [prompt.ids[:SHOWN_CHARACTERS] for prompt in generation.prompts[:SHOWN_TEXTS]]
    replies = [""] * min(generation.choices, SHOWN_TEXTS)

    def keep(delta: Delta) -> Delta:
        if delta.index < len(replies):
            replies[delta.index] = (replies[delta.index] + delta.text)[:SHOWN_CHARACTERS]
        return delta

    generation.source = changed(generation.source, keep)
    shown = [b"".join(encoder.spell(ids)).decode(errors="replace")[:SHOWN_CHARACTERS] for ids in prompts]
    return {"prompts": shown, "replies": replies}
