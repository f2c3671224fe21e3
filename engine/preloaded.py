"""What the fork server imports before the engine's processes are forked from it; see `engine/fork_server.py`."""

import atexit
import gc
import os
import threading
from importlib import import_module

os.setpgrp()  # Ctrl-C then reaches the server alone

from engine import fork_server, process  # noqa: E402 - after that

MODULES = (
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
)
"""What the engine's processes import of vLLM; what is not here, or has another name, each imports for itself."""


def preload() -> None:
    """Import vLLM, and leave it in a state in which a fork shares its memory."""
    gc.set_threshold(*process.GARBAGE_THRESHOLDS)
    process.quieten_vllm()
    for name in MODULES:
        import_module(name)
    fork_server.share()
    gc.freeze()  # else the first collection of each child would write to all of it
    atexit.register(
        gc.unfreeze
    )  # else a library warns at exit of each of its objects that was not freed


def end_with_parent(loaded: threading.Event) -> None:
    """End this process when the server's ends, until all is loaded: from then on Python's fork server sees to it."""
    parent = os.getppid()
    while not loaded.wait(0.1):
        if os.getppid() != parent:
            os._exit(1)


loaded = threading.Event()
watch = threading.Thread(target=end_with_parent, args=(loaded,))
watch.start()
try:
    preload()
finally:
    loaded.set()
    watch.join()  # no thread is alive at a fork
