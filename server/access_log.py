"""What is known of each request when it is over: its id, a line in the log, and the numbers of `/metrics`.

The text is never known here, unless `--log-requests` asks for it.
"""

import atexit
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Any

import shortuuid
from prometheus_client import Counter, Gauge, Histogram
from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from generation import Delta, Prompt, Source, changed
from server.request_record import KEY, RequestRecord
from settings import Settings, print_to_stderr

CLIENT_LEFT = 499
REQUEST_ID = re.compile(r"[ -~]{1,128}")
SHOWN_TEXTS, SHOWN_CHARACTERS = 4, 1000
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)

REQUESTS = Counter("http_requests", "Requests that are over", ["method", "path", "status"])
IN_FLIGHT = Gauge("http_requests_in_flight", "Requests that are not over")
DURATION = Histogram(
    "http_request_duration_seconds",
    "From a request's head to the end of its reply",
    ["path"],
    buckets=SECONDS,
)
FIRST_TOKEN = Histogram(
    "time_to_first_token_seconds", "From a request's head to its first text", buckets=SECONDS
)
ENGINE_REQUESTS = Gauge(
    "engine_requests_unfinished", "Requests in the engine, running or waiting, by choice or beam"
)
TASKS = Gauge("asyncio_tasks", "Tasks of the event loop")
PROMPT_TOKENS = Counter("prompt_tokens", "Tokens of answered prompts")
GENERATED_TOKENS = Counter(
    "generated_tokens", "Tokens generated, also of replies that nobody waited for"
)

_requests, _duration = cache(REQUESTS.labels), cache(DURATION.labels)

WAITING_LINES = 10_000
SECONDS_BETWEEN_WRITES = 0.1

Log = Callable[[str], None]
"""Takes lines, without waiting."""


def log_writer(settings: Settings) -> Log | None:
    """A function that shows a line without waiting; None if only errors are to be shown.

    A thread writes the lines of a moment together.
    A terminal that has stopped stops no request: lines wait for it, and the oldest are lost when too many do.
    """
    if settings.log_level == "error":
        return None
    waiting: deque[str] = deque(maxlen=WAITING_LINES)
    has_ended = threading.Event()

    def write() -> None:
        while not has_ended.wait(SECONDS_BETWEEN_WRITES) or waiting:
            if lines := [waiting.popleft() for _ in range(len(waiting))]:
                # Of a full disk, say: these lines are lost, and the next may not be.
                with suppress(OSError):
                    print_to_stderr("\n".join(lines))

    def end() -> None:
        has_ended.set()
        writer.join(1)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    atexit.register(end)
    return waiting.append


class AccessLog:
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
        request_id = given if REQUEST_ID.fullmatch(given) else serial
        began, status = time.monotonic(), CLIENT_LEFT
        record = RequestRecord(request_id, serial)
        scope.setdefault("state", {})[KEY] = record

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
                self._note(scope["method"], record, status, began)

    def _note(self, method: str, record: RequestRecord, status: int, began: float) -> None:
        seconds = time.monotonic() - began
        _requests(method, record.path, status).inc()
        _duration(record.path).observe(seconds)
        line: dict[str, Any] = {
            "id": record.id,
            "method": method,
            "path": record.path,
            "status": status,
        }
        generation = record.generation
        if generation is not None:
            PROMPT_TOKENS.inc(generation.prompt_tokens)
            GENERATED_TOKENS.inc(generation.tokens)
            line |= {
                "prompt_tokens": generation.prompt_tokens,
                "generated_tokens": generation.tokens,
            }
            if generation.began is not None:
                FIRST_TOKEN.observe(generation.began - began)
                line["first_token_s"] = round(generation.began - began, 3)
            line["finish_reason"] = ",".join(dict.fromkeys(generation.finish_reasons)) or None
            line |= record.texts
        line["total_s"] = round(seconds, 3)
        if self._log is not None:
            self._log(self._spell(line))

    def _spell(self, line: dict[str, Any]) -> str:
        if self._is_json:
            return to_json({"time": round(time.time(), 3), **line}).decode()
        # What `repr` makes of a text is one line, and moves no cursor.
        fields = " ".join(f"{name}={value}" for name, value in line.items())
        return f"{datetime.now().isoformat(' ', 'milliseconds')} {fields}"


def keep_texts(
    source: Source,
    prompts: Sequence[Prompt],
    n: int,
    spell: Callable[[Sequence[int]], Sequence[bytes]],
) -> tuple[Source, dict[str, list[str]]]:
    """The same source, and what the model reads and, as it comes, answers: the first texts, and their beginnings."""
    replies = [""] * min(len(prompts) * n, SHOWN_TEXTS)

    def keep(delta: Delta) -> Delta:
        if delta.index < len(replies):
            replies[delta.index] = (replies[delta.index] + delta.text)[:SHOWN_CHARACTERS]
        return delta

    first = [prompt.ids[:SHOWN_CHARACTERS] for prompt in prompts[:SHOWN_TEXTS]]
    shown = [b"".join(spell(ids)).decode(errors="replace")[:SHOWN_CHARACTERS] for ids in first]
    return changed(source, keep), {"prompts": shown, "replies": replies}
