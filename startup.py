"""What the terminal shows while the server starts, and the banner when it answers."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from protocol import CompletionRequest
from settings import Settings

SHOWN_DEFAULTS = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens")
SECONDS_BETWEEN_LINES = 10


QUIET = {"PYTHONWARNINGS": "ignore::FutureWarning", "TORCH_CPP_LOG_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
"""Environment of the engine's processes that keeps their libraries' chatter out of the terminal."""


def quieten_vllm() -> None:
    """vLLM warns while it is imported, before it has configured its log as asked; this holds until then."""
    logging.getLogger("vllm").setLevel(logging.ERROR)


def show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(step: str) -> Iterator[None]:
    """Show a step and how long it takes: a running clock on a terminal, a line now and then elsewhere."""
    began, done = time.monotonic(), threading.Event()
    on_terminal = sys.stderr.isatty()

    def tick() -> None:
        while not done.wait(1 if on_terminal else SECONDS_BETWEEN_LINES):
            line = f"{step} … {time.monotonic() - began:.0f} s"
            print(f"\r{line}" if on_terminal else line, end="" if on_terminal else "\n", file=sys.stderr, flush=True)

    if not on_terminal:
        show(f"{step} …")
    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    try:
        yield
    finally:
        done.set()
        clock.join()
        start_of_line = "\r" if on_terminal else ""
        show(f"{start_of_line}{step}: {time.monotonic() - began:.0f} s  ")


def banner(settings: Settings, template_name: str, max_model_len: int) -> str:
    """What is served, where, and a line to try it with."""
    fields = CompletionRequest.model_fields
    defaults = {name: fields[name].default for name in SHOWN_DEFAULTS} | settings.override_generation_config
    name = settings.model_names[0]
    return f"""
  Ready at   {settings.url}  (docs: {settings.url}/docs)
  model      {name}{" (the embedded demo model)" if settings.is_demo else f"  from {settings.model}"}
  template   {template_name}, context {max_model_len} tokens
  sampling   {", ".join(f"{field} {value}" for field, value in defaults.items())}
  try        curl {settings.url}/v1/completions -H "Content-Type: application/json" \\
               -d '{{"model": "{name}", "prompt": "告诉我中国的首都在哪里"}}'
"""
