"""A process that has imported vLLM, from which the engine's processes are forked, on a CPU.

vLLM spawns its processes, and each imports vLLM again, one after the other. Python's fork server imports it once, while
this process does, and its children have it from their first moment; the pages of memory that they do not write are
shared. This module imports neither vLLM nor torch until they are needed.

It is for vLLM's CPU build alone. There a fork is safe: the fork server has one thread, no event loop, and no OpenMP
pool, since nothing has been computed in it. On a GPU all stays as it is: a CUDA driver that is initialised, as by
vLLM's look for devices, does not survive a fork, and the worker's import is a small part of such a start.
"""

import glob
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import context, resource_tracker
from pathlib import Path
from typing import Any

from settings import Settings

METHOD, OTHERWISE = "forkserver", "spawn"
PRELOADED = "engine.preloaded"
"""The module that the fork server imports."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "GOMP_CPU_AFFINITY")
"""Variables that vLLM sets for a worker, which an OpenMP library that is loaded does not read again."""
LATE_VARIABLES = ("VLLM_", "AITER_", "NCCL_", "RAY_", "LOCAL_WORLD_SIZE", *THREAD_VARIABLES)
"""How variables begin that vLLM sets after its import and reads when it needs them: a fork is given these."""
SERVER_PARTS = ("_forkserver_address", "_forkserver_alive_fd", "ensure_running")
"""What a forked process needs of its fork server to start others by it."""

_environment: dict[str, str] = {}
"""The environment that vLLM was imported with in the fork server."""


def start(settings: Settings, vllm_arguments: Sequence[str]) -> None:
    """Start the fork server, which imports vLLM; it ends when this process and all that were forked have ended.

    To be called before this process imports vLLM.
    """
    if METHOD not in multiprocessing.get_all_start_methods():
        return
    if any(argument.startswith("--numa-bind") for argument in vllm_arguments):
        return  # vLLM then starts another program in place of Python
    from multiprocessing import forkserver  # noqa: PLC0415 - not on every system

    for name, value in cpu_variables(settings, vllm_arguments).items():
        os.environ.setdefault(name, value)
    _environment.update(os.environ)
    multiprocessing.get_context(METHOD).set_forkserver_preload([PRELOADED])
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # A pool of OpenBLAS would be threads at the fork, and what the engine computes it computes with torch.
    with _variables({"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}):
        forkserver.ensure_running()


def cpu_variables(settings: Settings, vllm_arguments: Sequence[str]) -> dict[str, str]:
    """What vLLM and `engine/arguments.py` set for the engine's processes once vLLM is imported, on a CPU.

    torch reads these when it is loaded, so the fork server has to have them before (vLLM's: `vllm/platforms/cpu.py`).
    """
    variables = {
        "NUMEXPR_MAX_THREADS": str(len(os.sched_getaffinity(0))),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "VLLM_DISABLE_SHARED_EXPERTS_STREAM": "1",
        "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1",
    }
    if settings.is_demo and "--no-enforce-eager" not in vllm_arguments:
        variables["TORCHDYNAMO_DISABLE"] = "1"
    if preloaded := os.pathsep.join(_libraries()):
        variables["LD_PRELOAD"] = preloaded
    return variables


def _libraries() -> Iterator[str]:
    """vLLM's memory allocator and torch's OpenMP, in vLLM's order."""
    vllm, torch = (_folder(package) for package in ("vllm", "torch"))
    places = [
        (vllm, ("libs/libtcmalloc_minimal*.so*", "libs/libtcmalloc.so*")),
        (torch, ("../torch.libs/libgomp*.so*", "lib/libgomp*.so*")),
    ]
    for folder, patterns in places:
        found = [path for pattern in patterns for path in glob.glob(f"{folder}/{pattern}")]
        yield from (os.path.normpath(path) for path in found[:1])


def _folder(package: str) -> Path:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else Path()


@contextmanager
def _variables(variables: Mapping[str, str]) -> Iterator[None]:
    """The environment with these variables, for the time of the block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        _replace_environment(before)


def _replace_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def start_method() -> str:
    """How to start a process of the engine now: spawned, if it needs another environment than vLLM was imported in."""
    now = os.environ
    names = now.keys() | _environment.keys()
    changed = [name for name in names if now.get(name) != _environment.get(name)]
    is_alike = all(name.startswith(LATE_VARIABLES) for name in changed)
    return METHOD if _environment and is_alike else OTHERWISE


class ForkedProcess(context.ForkServerProcess):
    """A process that gets the environment of the one that starts it, as a spawned one does."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "environment": dict(os.environ)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over the environment: this runs in the new process, before all that vLLM does there."""
        _replace_environment(state.pop("environment"))
        self.__dict__.update(state)
        if any(os.environ.get(name) != _environment.get(name) for name in THREAD_VARIABLES):
            _place_threads()
        _environment.clear()
        if _keeps_server():
            _environment.update(os.environ)


def _keeps_server() -> bool:
    """Let a forked process start others by the fork server that it comes from: Python's own way starts another one.

    Returns False, so that it spawns them, where Python's fork server has other parts than those of 3.11 to 3.13.
    """
    from multiprocessing import forkserver  # noqa: PLC0415

    server: Any = getattr(forkserver, "_forkserver", None)
    if None in (getattr(server, name, None) for name in SERVER_PARTS):
        return False
    server.ensure_running = resource_tracker.ensure_running
    return True


def share() -> None:
    """In the fork server: let what it forks start processes by it too."""
    _environment.update(os.environ)
    use()


def use() -> None:
    """Let vLLM, which has been imported, start its processes by the fork server where that fits."""
    from vllm import envs  # noqa: PLC0415

    if not _environment:
        return
    _environment.clear()
    _environment.update(os.environ)  # what the import itself has set, it has set in both

    chosen: Any = multiprocessing.get_context(METHOD)
    chosen.Process = ForkedProcess
    envs.environment_variables["VLLM_WORKER_MULTIPROC_METHOD"] = start_method


def _place_threads() -> None:
    """Give torch's threads the number and the processors that a spawned worker's OpenMP reads from the environment."""
    import torch  # noqa: PLC0415

    processors = [int(number) for number in os.environ.get("GOMP_CPU_AFFINITY", "").split()]
    if processors:
        os.sched_setaffinity(0, processors[:1])
    if number := os.environ.get("OMP_NUM_THREADS"):
        before = set(os.listdir("/proc/self/task"))
        torch.set_num_threads(int(number))
        torch.zeros(1 << 20).add_(1)  # starts the threads
        threads = sorted(set(os.listdir("/proc/self/task")) - before, key=int)
        for thread, processor in zip(threads, processors[1:], strict=False):
            os.sched_setaffinity(int(thread), [processor])
