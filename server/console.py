"""What the terminal shows: each step of the start that takes long, a banner once requests are answered, and the log."""

import atexit
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from protocol import CompletionRequest
from server.access_log import Log
from server.sockets import network_host
from settings import EVERY_ADDRESS, Settings, print_stderr

SHOWN_FIELDS = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens")
"""Sampling fields whose defaults the banner shows."""
LINE_INTERVAL_SECONDS = 10
MAX_WAITING_LINES = 10_000
WRITE_INTERVAL_SECONDS = 0.1


class Progress:
    """Shows, from its creation to `end`, how many seconds a step of the start has taken so far.

    A terminal has one line that changes each second; elsewhere, as in a file, there is a new line each 10 seconds.
    """

    def __init__(self, step: str) -> None:
        self._step = step
        self._began = time.monotonic()
        self._has_ended = threading.Event()
        self._on_terminal = sys.stderr.isatty()
        self._clock = threading.Thread(target=self._show_seconds, daemon=True)
        self._show("…")
        self._clock.start()

    def end(self) -> None:
        """Show how long the step has taken in all."""
        self._has_ended.set()
        self._clock.join()
        self._show(f"took {self._seconds():.0f} s", end="\n")

    def _show_seconds(self) -> None:
        while not self._has_ended.wait(1 if self._on_terminal else LINE_INTERVAL_SECONDS):
            self._show(f"… {self._seconds():.0f} s")

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _show(self, state: str, end: str = "") -> None:
        start = "\r" if self._on_terminal else ""
        end = end if self._on_terminal else "\n"
        print(f"{start}{self._step} {state}", end=end, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Loaded:
    """What the banner tells of a model that has been loaded."""

    template: str
    """The name of its prompt template."""
    encoder: str
    """In words, what encodes its prompts."""
    max_model_len: int
    memory: str
    """In words, what it takes."""
    adapter_templates: Mapping[str, str]
    """The name of each adapter's prompt template, by the adapter's."""


def banner(settings: Settings, loaded: Loaded) -> str:
    """What is served, the base URL that clients are given, a request to try it with, and the page to open."""
    fields, defaults = CompletionRequest.model_fields, settings.override_generation_config
    shown = {name: fields[name].default for name in SHOWN_FIELDS} | dict(defaults)
    name = settings.model_names[0]
    key = ' -H "Authorization: Bearer $KEY"' if settings.api_key else ""
    curl = "curl"
    where = f"{settings.url}/v1"
    if settings.uds is not None:
        curl = f"curl --unix-socket {shlex.quote(settings.uds)}"
        where = f"{settings.url} on {settings.uds}"
    template = loaded.template
    if template == "none":
        template = "none: chat needs --prompt-template"
    warning = ""
    if settings.is_open:
        warning = "  warning    no --api-key is set: whoever reaches this address may ask\n"
    has_page = settings.page and settings.uds is None
    page = f"  open it    {settings.url}/\n" if has_page else ""
    adapters = "".join(
        f"  adapter    {module.name}  from {module.path}, "
        f"template {loaded.adapter_templates[module.name]}\n"
        for module in settings.lora_modules
    )
    origin = " (the embedded demo model)" if settings.is_demo else f"  from {settings.model}"
    sampling = ", ".join(f"{field} {value}" for field, value in shown.items())
    return f"""
  Ready at   {where}  (docs: {settings.url}/docs)
{_network_line(settings)}  model      {name}{origin}
{adapters}  template   {template}, context {loaded.max_model_len} tokens
  encoder    {loaded.encoder}
  memory     {loaded.memory}
  sampling   {sampling}
  try        {curl} {settings.url}/v1/completions -H "Content-Type: application/json"{key} \\
               -d '{{"model": "{name}", "prompt": "告诉我中国的首都在哪里"}}'
{warning}{page}"""


def _network_line(settings: Settings) -> str:
    """The line with the base URL for other machines, where the server listens at every address of this one."""
    host = network_host(settings.host) if settings.host in EVERY_ADDRESS else ""
    if not host or settings.uds is not None:
        return ""
    return f"  network    {replace(settings, host=host).url}/v1\n"


def log_writer(settings: Settings) -> Log | None:
    """Start a thread that writes the log to the terminal; None where `--log-level` is `error`.

    Every 0.1 seconds it writes the lines that have come. A terminal that takes none blocks no request: up to 10,000
    lines wait for it, and each further one replaces the oldest.
    """
    if settings.log_level == "error":
        return None
    waiting: deque[str] = deque(maxlen=MAX_WAITING_LINES)
    has_ended = threading.Event()

    def write() -> None:
        while not has_ended.wait(WRITE_INTERVAL_SECONDS) or waiting:
            if lines := [waiting.popleft() for _ in range(len(waiting))]:
                # The disk may be full: these lines are lost, but the next ones may not be.
                with suppress(OSError):
                    print_stderr("\n".join(lines))

    def end() -> None:
        has_ended.set()
        writer.join(1)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    atexit.register(end)
    return waiting.append
