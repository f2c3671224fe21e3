"""What the terminal shows while the server starts, and the banner when it answers."""

import atexit
import gc
import io
import logging
import os
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.util import get_temp_dir
from pathlib import Path

from protocol import CompletionRequest, to_defaults
from settings import Settings, reason

SHOWN_DEFAULTS = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens")
SECONDS_BETWEEN_LINES = 10


ENVIRONMENT = {
    # A fork would copy the event loop and whatever lock a thread holds; `vllm serve` spawns too.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # The second comes after all else, where a start fails and a process has not freed what it shares.
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore:resource_tracker:UserWarning",
    **{"TORCH_CPP_LOG_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"},
}
"""Of the server and the engine's processes, unless the user says otherwise."""
QUIET = {"TRANSFORMERS_VERBOSITY": "error"}
"""It warns of each key of a config that it does not know, as yarn's "finetuned", whenever a process reads it."""
FAILING_LOGS = (
    *("vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor"),
    *("vllm.v1.engine.async_llm", "vllm.transformers_utils.repo_utils"),
)
"""vLLM's loggers that tell why a start fails, in its processes and here."""
LAST_WORDS = ("EngineCore failed to start.", "EngineCore encountered a fatal error.")
REASONS = {"self.org_vocab_size": "the embedding in the weights has not as many rows as config.json's vocab_size says"}
"""What vLLM only says by a line of its code."""

WAITING_LINES = 10_000
SECONDS_BETWEEN_WRITES = 0.1

GARBAGE_THRESHOLDS = (100_000, 50, 100)
"""How rarely garbage is looked for, in the words of `gc`: with Python's own, from 700 on, a fifth of a start."""


def environment(settings: Settings) -> dict[str, str]:
    """The variables of ENVIRONMENT, and of QUIET unless a log is wanted."""
    return ENVIRONMENT if settings.shows_log else {**ENVIRONMENT, **QUIET}


def quieten_vllm() -> None:
    """vLLM warns while it is imported, before it has configured its log as asked; this holds until then."""
    logging.getLogger("vllm").setLevel(logging.ERROR)


def lighten_engine_processes() -> None:
    """Each of the engine's processes imports the main file first: let it be this one, without the web server."""
    sys.modules["__main__"].__file__ = __file__


def causes_file() -> Path:
    """Where the engine's processes write why they cannot start, while it exists: it ends with the start.

    multiprocessing hands its directory on, to the processes of its processes too.
    """
    return Path(get_temp_dir(), "causes")


def cause(failure: BaseException) -> str:
    """Why the engine has not started: what the first of its processes wrote, or else what vLLM raised here."""
    file = causes_file()
    causes = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    known = causes[0] if causes else reason(failure)
    if "root cause" in known:  # which stands nowhere: a process was killed
        known = "one of its processes has ended without a word, as happens where memory runs out"
    return next((said for line, said in REASONS.items() if line in known), known)


def hide_failing_starts() -> None:
    """What vLLM logs of a start that fails is told by the server, in one sentence, unless the log is wanted."""
    for name in FAILING_LOGS:
        logging.getLogger(name).addFilter(keep_cause)


def keep_cause(record: logging.LogRecord) -> bool:
    """Whether vLLM may log this; a failure in one of its processes goes to the server."""
    if not (causes := causes_file()).exists():
        return True
    if record.exc_info and (failure := record.exc_info[1]):
        with causes.open("a", encoding="utf-8") as file:
            file.write(f"{reason(failure)}\n")
    if logging.getLogger("vllm").isEnabledFor(logging.INFO):
        return True
    if record.msg in LAST_WORDS:
        sys.stderr = io.StringIO()  # the process ends by this failure, and multiprocessing would show it again
    return False


def show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show_soon(settings: Settings) -> Callable[[str], None] | None:
    """Shows a line, without waiting: a thread writes those of a moment together. None if only errors are wanted.

    A terminal that has stopped stops no request: lines wait for it, and the oldest are lost when too many do.
    """
    if settings.log_level == "error":
        return None
    waiting: deque[str] = deque(maxlen=WAITING_LINES)
    has_ended = threading.Event()

    def write() -> None:
        while not has_ended.wait(SECONDS_BETWEEN_WRITES) or waiting:
            if lines := [waiting.popleft() for _ in range(len(waiting))]:
                with suppress(OSError):  # of a full disk, say: these lines are lost, and the next may not be
                    show("\n".join(lines))

    def end() -> None:
        has_ended.set()
        writer.join(1)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    atexit.register(end)
    return waiting.append


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


def banner(settings: Settings, template_name: str, encoder: str, max_model_len: int) -> str:
    """What is served, where, and a line to try it with."""
    fields = CompletionRequest.model_fields
    defaults = {name: fields[name].default for name in SHOWN_DEFAULTS}
    defaults |= to_defaults(settings.override_generation_config)
    name = settings.model_names[0]
    key = ' -H "Authorization: Bearer $KEY"' if settings.api_key else ""
    curl, where = "curl", settings.url
    if settings.uds is not None:
        curl, where = f"curl --unix-socket {shlex.quote(settings.uds)}", f"{settings.url} on {settings.uds}"
    template = "none: chat needs --prompt-template" if template_name == "none" else template_name
    warning = "  warning    no --api-key is set: whoever reaches this address may ask\n" if settings.is_open else ""
    return f"""
  Ready at   {where}  (docs: {settings.url}/docs)
  model      {name}{" (the embedded demo model)" if settings.is_demo else f"  from {settings.model}"}
  template   {template}, context {max_model_len} tokens
  encoder    {encoder}
  sampling   {", ".join(f"{field} {value}" for field, value in defaults.items())}
  try        {curl} {settings.url}/v1/completions -H "Content-Type: application/json"{key} \\
               -d '{{"model": "{name}", "prompt": "告诉我中国的首都在哪里"}}'
{warning}"""


def end_with_parent() -> None:
    """However the server ends, the engine's processes do not go on without it, with all the memory they hold."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__mp_main__":
    end_with_parent()
    os.setpgrp()  # Ctrl-C is for the server alone, which lets running requests end
    quieten_vllm()
    hide_failing_starts()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
