"""The engine's processes: what they and the server are prepared with, and what they tell of a start that fails.

It is the main module of each of them, which imports it first: so it imports neither vLLM nor the web framework. Whoever
hosts the engine calls `prepare_process` before vLLM is imported.
"""

import gc
import io
import logging
import os
import sys
import threading
import time
from multiprocessing.util import get_temp_dir
from pathlib import Path

from settings import Settings, describe_exception

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
REASONS = {
    "self.org_vocab_size": "the embedding in the weights has not as many rows as config.json's vocab_size says"
}
"""What vLLM only says by a line of its code."""

GARBAGE_THRESHOLDS = (100_000, 50, 100)
"""How rarely garbage is looked for, in the words of `gc`: with Python's own, from 700 on, a fifth of a start."""


def prepare_process(settings: Settings) -> None:
    """Prepare this process to import vLLM and to start the engine's processes."""
    for name, value in environment(settings).items():
        os.environ.setdefault(name, value)
    quieten_vllm()
    hide_failing_starts()
    lighten_engine_processes()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


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
    known = causes[0] if causes else describe_exception(failure)
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
            file.write(f"{describe_exception(failure)}\n")
    if logging.getLogger("vllm").isEnabledFor(logging.INFO):
        return True
    if record.msg in LAST_WORDS:
        # The process ends by this failure, and multiprocessing would show it again.
        sys.stderr = io.StringIO()
    return False


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
