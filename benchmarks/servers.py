"""Starts this server and vLLM's own, with the same model and engine flags, on free ports of this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "demo_model"
ENGINE_FLAGS = ("--enforce-eager", "--kv-cache-memory-bytes", str(2**30))
NAME = "chinese-llama-alpaca-2"
START_SECONDS = 300
OURS = ("openai_api_server_vllm.py",)
PEER = ("-m", "vllm.entrypoints.openai.api_server")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads, in nanoseconds' precision: clock_getcpuclockid(3), Linux."""
    return time.clock_gettime(~pid << 3 | 2)


@contextmanager
def server(command: Sequence[str], model: Path = MODEL, flags: Sequence[str] = ENGINE_FLAGS) -> Iterator[str]:
    """The URL of a server process that is ready."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    arguments = ["--model", str(model), "--served-model-name", NAME, "--host", "localhost", "--port", str(port), *flags]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1"}
    process = subprocess.Popen(
        [sys.executable, *command, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    url = f"http://localhost:{port}"
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with {process.returncode}")
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"{url} did not get ready in {START_SECONDS} s")
