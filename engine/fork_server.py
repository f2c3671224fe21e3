"""The engine's processes as forks of one that has imported vLLM, on a CPU.

vLLM spawns its processes, and each imports vLLM again, one after the other. Here the server's process, once it has
imported vLLM, leaves a copy of itself behind as the fork server of Python's multiprocessing, and the engine's processes
are forked from that: they have vLLM from their first moment, and share the memory that none of them writes.

A fork is safe in a process of one thread alone, since it copies locks that others may hold; `start` looks. No event
loop runs yet, and nothing has been computed, so that OpenMP has no threads either. It is for vLLM's CPU build: on a GPU
all stays as it is, for what CUDA's driver knows of a process does not survive a fork, and vLLM asks the driver for
devices while it is imported. Where something is missing, and under Ray, whose processes have threads, vLLM spawns.
"""

import atexit
import contextlib
import gc
import inspect
import os
import signal
import socket
import stat
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from multiprocessing import context, get_context, resource_tracker
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any, NoReturn

from engine import process
from settings import Settings, StartError, print_stderr

METHOD, OTHERWISE = "forkserver", "spawn"
MODULES = (
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
)
"""What the engine's processes import besides; where vLLM has renamed one of these, they import it themselves."""
MAIN_PARAMETERS = {"listener_fd", "alive_r", "preload", "main_path", "sys_path"}
"""The parameters of Python's fork server, of 3.11 to 3.13."""
LATE_VARIABLES = (
    *("VLLM_", "AITER_", "NCCL_", "RAY_"),
    *("LOCAL_WORLD_SIZE", "NUMEXPR_MAX_THREADS", "CPU_VISIBLE_MEMORY_NODES"),
)
"""How variables begin that vLLM sets after its import and reads when it needs them."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "GOMP_CPU_AFFINITY")
"""Variables that vLLM sets for a worker, and OpenMP reads when it is loaded: `_place_threads` does what they say."""
PRELOADED = "LD_PRELOAD"
THREADS = Path("/proc/self/task")
"""Linux's folder with the threads of this process."""
THREAD_SECONDS = 0.5
"""How long a thread that has been joined may take until the system has it no more."""

_environment: dict[str, str] = {}
"""The environment that the fork server was forked with; empty without one."""


def set_variables(settings: Settings, vllm_arguments: Sequence[str]) -> None:
    """Set what spawned processes would be given later and what torch reads at its import; to be called before that."""
    os.environ.setdefault("TORCHINDUCTOR_CPP_DYNAMIC_THREADS", "1")  # as `vllm/platforms/cpu.py`
    if settings.is_demo and "--no-enforce-eager" not in vllm_arguments:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # as `engine/arguments.py`
    # Its pool would be threads at the fork; what the engine computes, it computes with torch.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def start() -> None:
    """Fork the fork server from this process, which has imported vLLM, and let vLLM use it, where that is safe.

    It ends when this process and all that were forked from it have ended.
    """
    from engine.vllm_contract import missing_for_forks  # noqa: PLC0415 - imports vLLM

    client = _client()
    if client is None or not _has_one_thread():
        return
    listener = socket.socket(socket.AF_UNIX)
    try:
        if missing := missing_for_forks():
            raise StartError(missing)
        listener.bind(str(Path(get_temp_dir(), "forks")))  # may be too long a path
    except (OSError, StartError) as failure:
        listener.close()
        print_stderr(f"The engine's processes are spawned, which takes longer: {failure}.")
        return
    listener.listen()
    resource_tracker.ensure_running()
    _use(client)
    _environment.update(os.environ)
    gc.freeze()  # else the first collection of each process would write to all that is shared
    # Else a library warns at exit of each of its objects that was not freed.
    atexit.register(gc.unfreeze)
    client._forkserver_address = listener.getsockname()
    asked, client._forkserver_alive_fd = os.pipe()
    if os.fork() == 0:
        os.close(client._forkserver_alive_fd)
        _serve(listener, asked)
    os.close(asked)
    listener.close()


def _has_one_thread() -> bool:
    """Whether this process has no thread but this one, also none of a library, once those that end have ended."""
    deadline = time.monotonic() + THREAD_SECONDS
    while len(os.listdir(THREADS)) > 1:
        if threading.active_count() > 1 or time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _client() -> Any:
    """Python's client of a fork server, or None on another system than Linux, or where Python's have other parts."""
    if not THREADS.is_dir():
        return None
    from multiprocessing import forkserver  # noqa: PLC0415 - not on every system

    client = getattr(forkserver, "_forkserver", None)
    fits = set(inspect.signature(forkserver.main).parameters) == MAIN_PARAMETERS
    return client if fits and hasattr(client, "_forkserver_alive_fd") else None


def _use(client: Any) -> None:
    """Let vLLM start its processes by this process's fork server, and those whatever they start."""
    from vllm import envs  # noqa: PLC0415

    from engine.vllm_contract import START_METHOD  # noqa: PLC0415

    # Python's own would start another fork server, in this process and in each that was forked.
    client.ensure_running = resource_tracker.ensure_running
    chosen: Any = get_context(METHOD)
    chosen.Process = ForkedProcess
    envs.environment_variables[START_METHOD] = start_method


def _serve(listener: socket.socket, asked: int) -> NoReturn:
    """Be the fork server, without the server's sockets and signals, until nobody is left who could ask."""
    from multiprocessing import forkserver  # noqa: PLC0415

    status = 1
    try:
        os.setpgrp()  # Ctrl-C then reaches the server alone
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _close_sockets(keep=listener.fileno())
        if not sys.warnoptions:  # else the user has said which warnings are wanted
            warnings.simplefilter("ignore", FutureWarning)
        for name in MODULES:
            with contextlib.suppress(ImportError):
                import_module(name)
        gc.freeze()
        forkserver.main(listener.detach(), asked, None)  # type: ignore[arg-type]
    except SystemExit:
        status = 0
    except BaseException:  # noqa: BLE001 - the server's own code must not go on here
        traceback.print_exc()
    finally:
        os._exit(status)


def _close_sockets(keep: int) -> None:
    """Close all sockets but one: a port would stay taken."""
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the folder itself
            if number != keep and stat.S_ISSOCK(os.fstat(number).st_mode):
                os.close(number)


def start_method() -> str:
    """How to start a process of the engine now: spawned, if its environment asks for what a fork cannot have."""
    now = os.environ
    names = now.keys() | _environment.keys()
    changed = {name for name in names if now.get(name) != _environment.get(name)}
    asked = [name for name in changed if not name.startswith(LATE_VARIABLES)]
    is_forked = set(asked) <= {*THREAD_VARIABLES, PRELOADED} and _has_loaded(now.get(PRELOADED, ""))
    return METHOD if is_forked else OTHERWISE


def _has_loaded(preloaded: str) -> bool:
    """Whether this process has the libraries of LD_PRELOAD loaded, and no OpenMP of the system beside torch's.

    vLLM asks for torch's OpenMP there: its own kernels would otherwise use that of the system, where both exist.
    """
    wanted = {os.path.realpath(path) for path in preloaded.replace(" ", ":").split(":") if path}
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    # Packages that bring an OpenMP of their own keep it to themselves, in a folder "NAME.libs".
    others = {path for path in loaded if "libgomp" in path and ".libs/" not in path}
    return wanted <= loaded and others <= wanted


class ForkedProcess(context.ForkServerProcess):
    """A process that gets the environment of the one that starts it, as a spawned one does."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "environment": dict(os.environ)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        environment = state.pop("environment")
        # One by one: setproctitle, with which vLLM names its processes, looks for the first environment in memory.
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        self.__dict__.update(state)

    def run(self) -> None:
        """Prepare this process, then do what vLLM wants of it."""
        process.prepare_engine_process()
        if any(os.environ.get(name) != _environment.get(name) for name in THREAD_VARIABLES):
            _place_threads()
        super().run()


def _place_threads() -> None:
    """Give torch the number of threads and their processors, which OpenMP would have read from the environment."""
    import torch  # noqa: PLC0415

    processors = [int(number) for number in os.environ.get("GOMP_CPU_AFFINITY", "").split()]
    before = set(os.listdir(THREADS))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.zeros(1 << 20).add_(1)  # starts the threads
    threads = sorted(map(int, set(os.listdir(THREADS)) - before))
    for thread, processor in zip([0, *threads], processors, strict=False):
        os.sched_setaffinity(thread, [processor])
