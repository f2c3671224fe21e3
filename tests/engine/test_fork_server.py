"""The engine's processes as forks, on a CPU: where they come from, what they have and have not, and how they end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from quantization import is_cpu_build
from tests.support.paths import ROOT
from tests.support.polling import wait_for
from tests.support.server_process import Server

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not is_cpu_build(), reason="on a GPU vLLM spawns its processes"),
]
END_SECONDS = 10


def started() -> Server:
    server = Server("--port", "0")
    server.wait_for_banner()
    return server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = started()
    yield server
    assert server.stop() == 0


def descendants(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def named(server: Server, title: str) -> psutil.Process:
    """The process of the engine that vLLM has given this title."""
    (found,) = [one for one in descendants(server) if one.cmdline()[:1] == [title]]
    return found


def forks(server: Server) -> list[psutil.Process]:
    """The fork server, and what was forked from it."""
    parent = named(server, "VLLM::EngineCore").parent()
    assert parent is not None
    return [parent, *parent.children()]


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() for one in processes)


def test_engine_and_worker_are_forked_from_one_child_of_the_server(server: Server) -> None:
    fork_server, *forked = forks(server)
    assert fork_server.ppid() == server.process.pid
    assert named(server, "VLLM::Worker") in forked
    assert fork_server.num_threads() == 1


def test_the_forks_share_most_of_their_memory(server: Server) -> None:
    for one in forks(server):
        pages = one.memory_maps()
        assert sum(page.shared_dirty for page in pages) > 100 * 2**20


def test_no_fork_has_the_servers_socket_terminal_or_group(server: Server) -> None:
    port = httpx.URL(server.url).port
    (listening,) = [
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    ]

    def files(pid: int) -> dict[str, str]:
        return {link.name: os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}

    assert f"socket:[{listening}]" in files(server.process.pid).values()
    for one in forks(server):
        assert f"socket:[{listening}]" not in files(one.pid).values()
        assert files(one.pid)["0"] == os.devnull
        assert os.getpgid(one.pid) != os.getpgid(server.process.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_server(number: signal.Signals) -> None:
    server = started()
    processes = descendants(server)
    assert len(processes) >= 4
    server.process.send_signal(number)
    server.process.wait(60)
    assert wait_for(lambda: all_gone(processes), END_SECONDS)


def test_the_death_of_the_fork_server_is_told_as_the_engines_and_leaves_nothing() -> None:
    server = started()
    processes = descendants(server)
    forks(server)[0].kill()
    assert server.process.wait(END_SECONDS) == 1
    server.reader.join(END_SECONDS)
    assert "error: The engine has died.\n" in server.lines
    assert wait_for(lambda: all_gone(processes), END_SECONDS)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two processors")
def test_a_workers_threads_have_the_processors_that_vllm_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{first},{second}")
    server = started()
    try:
        worker = named(server, "VLLM::Worker")
        placed = [os.sched_getaffinity(thread.id) for thread in worker.threads()]
    finally:
        server.process.kill()
        server.process.wait()
    assert {first} in placed
    assert placed.count({second}) == 1


PROBE = """
import glob, json, os, threading
import torch
from engine import fork_server
import engine.vllm_engine
from vllm import envs

def method(**variables):
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        return envs.VLLM_WORKER_MULTIPROC_METHOD
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)

def child(answers):
    answers.put(os.environ.get("VLLM_LATE"))

waits = threading.Event()
other = threading.Thread(target=waits.wait)
other.start()
fork_server.start()
found = {"beside a thread": method()}
waits.set()
other.join()
fork_server.start()
packages = os.path.dirname(os.path.dirname(torch.__file__))
openmp = [*glob.glob(packages + "/torch.libs/libgomp*"), *glob.glob(packages + "/torch/lib/libgomp*")]
os.environ["LD_PRELOAD"] = openmp[0]  # as vLLM does
found["alone"] = method()
found["a late variable"] = method(VLLM_LATE="1")
found["an early variable"] = method(TORCH_LOGS="all")
found["another library"] = method(LD_PRELOAD="/lib/other.so")
found["vLLM's place for threads"] = method(OMP_NUM_THREADS="2")
found["another place for threads"] = method(KMP_AFFINITY="none")

from vllm.utils.system_utils import get_mp_context
context = get_mp_context()
answers = context.Queue()
os.environ["VLLM_LATE"] = "given"
process = context.Process(target=child, args=(answers,))
process.start()
found["in a fork"] = answers.get(timeout=20)
process.join()
found["its end"] = process.exitcode
print(json.dumps(found))
"""


def test_what_a_fork_cannot_have_is_spawned() -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP", "KMP", "TORCH_LOGS", "LD_PRELOAD"))
    }
    environment |= {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "OPENBLAS_NUM_THREADS": "1"}
    probe = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert probe.returncode == 0, probe.stderr
    assert json.loads(probe.stdout.splitlines()[-1]) == {
        "beside a thread": "spawn",
        "alone": "forkserver",
        "a late variable": "forkserver",
        "an early variable": "spawn",
        "another library": "spawn",
        "vLLM's place for threads": "forkserver",
        "another place for threads": "spawn",
        "in a fork": "given",
        "its end": 0,
    }
