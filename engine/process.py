"""Prepares the processes of the server and of vLLM's engine, and collects why a start fails in one of the latter.

The command calls `prepare_process` before it imports vLLM. The engine's processes are spawned and import this file as
their main module, before anything else: so it imports neither vLLM nor the web framework.
"""

import gc
import io
import logging
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing.util import get_temp_dir
from pathlib import Path

from settings import Settings, describe_exception

ENVIRONMENT = {
    # A fork would copy the event loop and the locks that threads hold; `vllm serve` spawns too.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # The second warning is the last line of a start that fails: a process has not freed its shared memory.
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore:resource_tracker:UserWarning",
    **{"TORCH_CPP_LOG_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"},
}
"""Variables of the server and the engine's processes, where the user has not set them."""
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "LLGUIDANCE_LOG_LEVEL": "0"}
"""Further ones, unless the log is wanted: transformers warns of each key of config.json that it does not know.

llguidance's warnings have parts of a client's grammar.
"""
FAILING_LOGS = (
    *("vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor"),
    *("vllm.v1.engine.async_llm", "vllm.transformers_utils.repo_utils"),
)
"""vLLM's loggers that report why a start fails, in its processes and in the server's."""
FINAL_MESSAGES = ("EngineCore failed to start.", "EngineCore encountered a fatal error.")
"""What vLLM logs last in a process of the engine that ends by an exception."""
KNOWN_FAILURES = {
    "self.org_vocab_size": "the embedding in the weights has not as many rows as config.json's vocab_size says"
}
"""Sentences for failures that vLLM reports as an assertion, by a part of its text."""

GARBAGE_THRESHOLDS = (100_000, 50, 100)
"""For `gc.set_threshold`: with Python's own, which begin with 700, the garbage collector takes a fifth of a start."""


def prepare_process(settings: Settings) -> None:
    """Prepare the server's process to import vLLM and to spawn the engine's processes."""
    for name, value in environment(settings).items():
        os.environ.setdefault(name, value)
    quieten_libraries()
    hide_failing_starts()
    set_main_file()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def environment(settings: Settings) -> dict[str, str]:
    """The variables of ENVIRONMENT, and those of QUIET unless the log is wanted."""
    return ENVIRONMENT if settings.shows_log else {**ENVIRONMENT, **QUIET}


def quieten_libraries() -> None:
    """Hide what is logged while vLLM is imported, before it sets the level that the flags ask for.

    Besides vLLM's warnings that is one of torch's: that Triton is not installed, as where there is no GPU.
    """
    for name in ("vllm", "torch._library.triton"):
        logging.getLogger(name).setLevel(logging.ERROR)


def set_main_file() -> None:
    """Let spawned processes import this file as their main module, not the command with the web framework."""
    sys.modules["__main__"].__file__ = __file__


def causes_file() -> Path:
    """The file to which the engine's processes add why they fail; it exists only during the start.

    It is in the temporary directory of multiprocessing, which all descendants of this process are given.
    """
    return Path(get_temp_dir(), "causes")


def cause(failure: BaseException) -> str:
    """Why the engine has not started: the first line of the file of causes, or else the exception that vLLM raised."""
    file = causes_file()
    causes = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    told = causes[0] if causes else describe_exception(failure)
    if "root cause" in told:
        # vLLM refers to a cause that no process has written down: it was killed.
        told = "one of its processes has ended without a word, as happens where memory runs out"
    return next((text for part, text in KNOWN_FAILURES.items() if part in told), told)


def hide_failing_starts() -> None:
    """Keep a failing start out of vLLM's log, unless the log is wanted: the server reports it in one sentence."""
    for name in FAILING_LOGS:
        logging.getLogger(name).addFilter(keep_cause)


def keep_cause(record: logging.LogRecord) -> bool:
    """Whether vLLM may log this (a `logging` filter); during the start, an exception is added to the file of causes."""
    if not (causes := causes_file()).exists():
        return True
    if record.exc_info and (failure := record.exc_info[1]):
        with causes.open("a", encoding="utf-8") as file:
            file.write(f"{describe_exception(failure)}\n")
    if logging.getLogger("vllm").isEnabledFor(logging.INFO):
        return True
    if record.msg in FINAL_MESSAGES:
        # The process now ends by the exception, whose traceback multiprocessing would print.
        sys.stderr = io.StringIO()
    return False


def end_with_parent() -> None:
    """End this process with the one that started it, even by SIGKILL: it would keep the memory of the model.

    The fork server, which is the parent in the system's eyes, lives as long as one of its children.
    """

    def watch() -> None:
        while (parent := multiprocessing.parent_process()) is None:
            time.sleep(0.01)  # this module is imported just before that is known
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def prepare_engine_process() -> None:
    """Prepare a process of the engine, before vLLM is imported where that is not done."""
    end_with_parent()
    os.setpgrp()  # Ctrl-C then reaches the server alone, which lets running requests end
    if "vllm" not in sys.modules:  # it sets its level at its import
        quieten_libraries()
    hide_failing_starts()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


if __name__ == "__mp_main__":
    prepare_engine_process()
