"""What the terminal shows while the server starts, and the banner when it answers."""

import shlex
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from protocol import CompletionRequest
from settings import Settings

SHOWN_DEFAULTS = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens")
SECONDS_BETWEEN_LINES = 10


class Progress:
    """A step under way: a running clock on a terminal, a line now and then elsewhere, until `end`."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._began, self._ended = time.monotonic(), threading.Event()
        self._on_terminal = sys.stderr.isatty()
        self._clock = threading.Thread(target=self._tick, daemon=True)
        self._show("…")
        self._clock.start()

    def _tick(self) -> None:
        while not self._ended.wait(1 if self._on_terminal else SECONDS_BETWEEN_LINES):
            self._show(f"… {time.monotonic() - self._began:.0f} s")

    def _show(self, state: str, end: str = "") -> None:
        before, after = ("\r", end) if self._on_terminal else ("", "\n")
        print(f"{before}{self._step} {state}", end=after, file=sys.stderr, flush=True)

    def end(self) -> None:
        self._ended.set()
        self._clock.join()
        self._show(f"took {time.monotonic() - self._began:.0f} s", end="\n")


def banner(
    settings: Settings,
    template_name: str,
    encoder: str,
    max_model_len: int,
    defaults: Mapping[str, Any],
) -> str:
    """What is served, where, and a line to try it with; `defaults` are the server's own of sampling fields."""
    fields = CompletionRequest.model_fields
    shown = {name: fields[name].default for name in SHOWN_DEFAULTS} | dict(defaults)
    name = settings.model_names[0]
    key = ' -H "Authorization: Bearer $KEY"' if settings.api_key else ""
    curl, where = "curl", settings.url
    if settings.uds is not None:
        curl, where = (
            f"curl --unix-socket {shlex.quote(settings.uds)}",
            f"{settings.url} on {settings.uds}",
        )
    template = "none: chat needs --prompt-template" if template_name == "none" else template_name
    warning = (
        "  warning    no --api-key is set: whoever reaches this address may ask\n"
        if settings.is_open
        else ""
    )
    return f"""
  Ready at   {where}  (docs: {settings.url}/docs)
  model      {name}{" (the embedded demo model)" if settings.is_demo else f"  from {settings.model}"}
  template   {template}, context {max_model_len} tokens
  encoder    {encoder}
  sampling   {", ".join(f"{field} {value}" for field, value in shown.items())}
  try        {curl} {settings.url}/v1/completions -H "Content-Type: application/json"{key} \\
               -d '{{"model": "{name}", "prompt": "告诉我中国的首都在哪里"}}'
{warning}"""
