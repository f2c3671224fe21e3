"""Measures what a front before two servers costs beside none, without vLLM: HAProxy, Ray Serve, and others.

python benchmarks/fronts.py [--rounds N] [--front NAME COMMAND]

Two servers on the fake engine of `hot_path.py` answer 32 streams. Of each front the CPU time of its processes and of
the servers' is added up, and divided by that of the servers asked directly, half of the streams each, which are
measured before each of its rounds. `--front` adds another one, whose command has `{one}` and `{two}` for the servers'
URLs and `{port}` for its own. Ray Serve has two replicas in place of the servers; it opens ports to other machines.
"""

import argparse
import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import psutil
import uvloop
from hot_path import QUESTION, ReadyEngine, served
from load import Load, run
from servers import NAME, ROOT, cpu_seconds

sys.path.insert(0, str(ROOT))

import cluster
from generation import Engine
from settings import Settings
from tests.support.fronts import haproxy

LOAD = Load("a token of a stream", 32, 256)
READY_SECONDS = 90
OWN_PROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}
"""Ray Serve as it is without variables: a proxy in Python, and the app in a thread of its own."""
REPLICA_PORTS = (30000, 30001)
"""Where Ray lets its first two replicas listen."""
SERVING = ("haproxy", "ray::ServeReplica", "ray::ProxyActor")
"""Names of the processes of Ray Serve that a request passes."""


@dataclass(frozen=True)
class Way:
    """One way from a client to two servers."""

    name: str
    urls: Sequence[str]
    """What clients ask: the front, or the servers."""
    processes: Callable[[], list[psutil.Process]]
    """All that work for a request."""


Server = tuple[str, int]
"""Its URL, and its process id."""


class ReadyReplica(cluster.Replica):
    """A replica on the fake engine."""

    def make_engine(self, settings: Settings) -> Engine:
        return ReadyEngine()  # type: ignore[return-value]


def cpu(processes: Sequence[psutil.Process]) -> float:
    """CPU time (user and system) of processes so far, in seconds."""
    return sum(cpu_seconds(each.pid) for each in processes if each.is_running())


def cost(way: Way) -> float:
    """Seconds of CPU for a token, of all processes of a way."""
    share = Load(LOAD.name, LOAD.connections // len(way.urls), LOAD.tokens)

    async def ask() -> None:
        await asyncio.gather(*(run(url, share, [QUESTION], NAME) for url in way.urls))

    processes = way.processes()
    began = cpu(processes)
    uvloop.run(ask())
    return (cpu(processes) - began) / LOAD.all_tokens


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def of(servers: Sequence[Server]) -> list[psutil.Process]:
    """The servers' processes."""
    return [psutil.Process(pid) for _, pid in servers]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def wait_for(url: str) -> None:
    """Wait until there is an answer; raises SystemExit."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/v1/models", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{url} did not get ready in {READY_SECONDS} s")


@contextmanager
def started(command: Sequence[str], url: str, **variables: str) -> Iterator[int]:
    """Start a front and wait for it; gives its process id."""
    front = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **variables},
        cwd=ROOT,
    )
    try:
        wait_for(url)
        yield front.pid
    finally:
        front.send_signal(signal.SIGTERM)
        try:
            front.wait(60)
        except subprocess.TimeoutExpired:
            front.kill()


@contextmanager
def configured(servers: Sequence[Server]) -> Iterator[list[Way]]:
    """HAProxy by `cluster/haproxy.cfg`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        haproxy([url for url, _ in servers], Path(folder)) as (url, _),
    ):
        wait_for(url)
        fronts = [each for each in tree(os.getpid()) if each.name() == "haproxy"]
        yield [Way("HAProxy", [url], lambda: fronts + of(servers))]


@contextmanager
def commanded(name: str, command: str, servers: Sequence[Server]) -> Iterator[list[Way]]:
    """A front that a command line starts."""
    port = free_port()
    places = {"one": servers[0][0], "two": servers[1][0], "port": str(port)}
    url = f"http://127.0.0.1:{port}"
    with started(shlex.split(command.format(**places)), url) as pid:
        yield [Way(name, [url], lambda: tree(pid) + of(servers))]


@contextmanager
def ray_serve(name: str, **variables: str) -> Iterator[list[Way]]:
    """Ray Serve with two replicas, and the replicas asked at their own ports, where they have some."""
    port = free_port()
    command = [sys.executable, __file__, "--serve-replicas", str(port)]
    url = f"http://127.0.0.1:{port}"
    with started(command, url, PYTHONPATH=str(Path(__file__).parent), **variables) as pid:

        def serving() -> list[psutil.Process]:
            return [
                each for each in tree(pid) if each.name().startswith(SERVING) or is_serving(each)
            ]

        ways = [Way(name, [url], serving)]
        if not variables:
            ports = [f"http://127.0.0.1:{each}" for each in REPLICA_PORTS]
            ways.append(Way(f"{name}, its replicas asked", ports, serving))
        yield ways


def is_serving(process: psutil.Process) -> bool:
    """By the command line, since names of processes are cut."""
    return process.is_running() and any(name in " ".join(process.cmdline()) for name in SERVING)


def serve_replicas(port: str) -> int:
    """Run the command of several replicas, on the fake engine."""
    import fronts

    sys.argv[1:] = ["--replicas", "2", "--port", port, "--log-level", "error"]
    sys.argv += ["--served-model-name", NAME]
    return cluster.main(fronts.ReadyReplica)


def compare(ways: Sequence[Way], direct: Way, rounds: int) -> None:
    """Print the costs of ways, each as a multiple of the servers asked directly."""
    for way in ways:
        pairs = [(cost(direct), cost(way)) for _ in range(rounds + 1)][1:]
        without, behind = (median(column) * 1e6 for column in zip(*pairs, strict=True))
        ratio = median(there / here for here, there in pairs)
        print(f"| {way.name} | {without:.1f} | {behind:.1f} | {ratio:.2f} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--front", action="append", nargs=2, default=[], metavar=("NAME", "COMMAND")
    )
    parser.add_argument("--serve-replicas", metavar="PORT", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve_replicas:
        return serve_replicas(asked.serve_replicas)
    print("| front | servers alone, µs a token | with it, µs | ratio |\n|---|---|---|---|")
    with served() as one, served() as two:
        servers = (one, two)
        direct = Way("directly", [url for url, _ in servers], lambda: of(servers))
        fronts = [
            configured(servers),
            *(commanded(name, command, servers) for name, command in asked.front),
            ray_serve("Ray Serve, HAProxy"),
            ray_serve("Ray Serve, its own proxy", **OWN_PROXY),
        ]
        for front in fronts:
            with front as ways:
                compare(ways, direct, asked.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
