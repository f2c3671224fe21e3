"""Starts this server and vLLM's own with the same model and engine flags, each on a free port of this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "demo_model"
ENGINE_FLAGS = (
    "--enforce-eager",
    "--kv-cache-memory-bytes",
    str(2**30),
    "--no-enable-chunked-prefill",
    "--max-num-seqs",
    "256",
)
NAME = "chinese-llama-alpaca-2"
TEMPLATE = ROOT / "benchmarks" / "alpaca-2.jinja"
START_SECONDS = 300
OURS = ("openai_api_server_vllm.py",)
PEER = ("-m", "vllm.entrypoints.openai.api_server", "--chat-template", str(TEMPLATE))
ENGINE_ALONE = ("benchmarks/engine_alone.py",)
ENVIRONMENT = {
    **{"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1"},
    # On a CPU the model computes with one thread, so that it leaves the other cores to the servers, as a GPU would.
    **{"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
}
QUESTION = {"model": NAME, "messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}


@dataclass(frozen=True)
class Server:
    """A server that has answered its first request."""

    url: str
    pid: int
    seconds: float
    """From the start of its process to its first answer."""

    @property
    def memory(self) -> int:
        """Resident memory of the API process, in bytes."""
        return psutil.Process(self.pid).memory_info().rss


def cpu_seconds(pid: int) -> float:
    """CPU time (user and system) of a process with all its threads so far, as clock_getcpuclockid(3) tells on Linux."""
    return time.clock_gettime(~pid << 3 | 2)


@contextmanager
def server(command: Sequence[str], flags: Sequence[str] = ENGINE_FLAGS) -> Iterator[Server]:
    """Start a server on the demo model, and wait for its first answer; SIGTERM ends it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    arguments = [
        *to_arguments(flags),
        "--served-model-name",
        NAME,
        "--host",
        "localhost",
        "--port",
        str(port),
    ]
    with process([*command, *arguments], stdout=subprocess.DEVNULL) as started:
        url = f"http://localhost:{port}"
        _wait_for(url, started)
        yield Server(url, started.pid, time.monotonic() - began)


def to_arguments(flags: Sequence[str]) -> list[str]:
    return ["--model", str(MODEL), *flags]


@contextmanager
def process(command: Sequence[str], **pipes: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a process of this Python; SIGTERM ends it, or the end of its stdin if that is a pipe."""
    started = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env={**ENVIRONMENT, **os.environ}, **pipes
    )
    try:
        yield started
    finally:
        if started.stdin is None:
            started.send_signal(signal.SIGTERM)
        else:
            started.stdin.close()
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            started.kill()


def _wait_for(url: str, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with {process.returncode}")
        try:
            if (
                httpx.post(f"{url}/v1/chat/completions", json=QUESTION, timeout=60).status_code
                == 200
            ):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{url} did not get ready in {START_SECONDS} s")
