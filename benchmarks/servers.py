"""Starts this server and vLLM's own with the same model and engine flags, each on a free port of this machine."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
TOKENIZER = "tokenizer.json"
TO_JSON = """
import sys
from vllm.tokenizers import get_tokenizer
get_tokenizer(sys.argv[1]).backend_tokenizer.save(sys.argv[2])
"""
ENGINE_ALONE = ("benchmarks/engine_alone.py",)
ENVIRONMENT = {
    **{"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1"},
    # On a CPU the model computes with one thread, so that it leaves the other cores to the servers, as a GPU would.
    **{"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
}
QUESTION = {"model": NAME, "messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}


@dataclass(frozen=True)
class Command:
    """How a server is started, by this Python: its arguments, its model and what it needs of the environment."""

    arguments: Sequence[str]
    model: Path = MODEL
    environment: Mapping[str, str] = field(default_factory=dict)
    program: str = ""
    """The front end's own program, where that is not the process that is started."""


OURS = Command(("openai_api_server_vllm.py",))
# The `vllm` command itself fails where the package has another name, as vllm-cpu has.
SERVE = """
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser, serve = FlexibleArgumentParser(), ServeSubcommand()
serve.subparser_init(parser.add_subparsers(dest="subparser"))
arguments = parser.parse_args()
serve.validate(arguments)
serve.cmd(arguments)
"""
PEER = Command(("-c", SERVE, "serve", "--chat-template", str(TEMPLATE)))


@dataclass(frozen=True)
class Server:
    """A server that has answered its first request."""

    url: str
    pid: int
    seconds: float
    """From the start of its process to its first answer."""
    front_ends: tuple[int, ...]
    """The processes that speak HTTP, tokenize and detokenize, with the one that started them."""

    @property
    def cpu(self) -> float:
        """CPU time of the front end so far, in seconds."""
        return sum(map(cpu_seconds, self.front_ends))

    @property
    def memory(self) -> int:
        """Resident memory of the front end, in bytes."""
        return sum(psutil.Process(pid).memory_info().rss for pid in self.front_ends)

    @property
    def all_memory(self) -> int:
        """Memory of all its processes, in bytes: of a page that several processes map, each has its share (PSS)."""
        started = psutil.Process(self.pid)
        processes = [started, *started.children(recursive=True)]
        return sum(process.memory_full_info().pss for process in processes)


def cpu_seconds(pid: int) -> float:
    """CPU time (user and system) of a process with all its threads so far, as clock_getcpuclockid(3) tells on Linux."""
    return time.clock_gettime(~pid << 3 | 2)


@contextmanager
def rust_front_end(program: Path) -> Iterator[Command]:
    """`vllm serve` with its front end in Rust, on the same model, whose tokenizer is written as that one reads it."""
    with tempfile.TemporaryDirectory() as folder:
        for file in MODEL.iterdir():
            if file.is_file():
                (Path(folder) / file.name).symlink_to(file)
        with process(["-c", TO_JSON, str(MODEL), f"{folder}/{TOKENIZER}"]) as writer:
            if writer.wait(START_SECONDS):
                raise SystemExit(f"{TOKENIZER} was not written: {writer.returncode}")
        path = str(program.resolve())
        environment = {"VLLM_USE_RUST_FRONTEND": "1", "VLLM_RUST_FRONTEND_PATH": path}
        yield replace(PEER, model=Path(folder), environment=environment, program=path)


@contextmanager
def server(command: Command, flags: Sequence[str] = ENGINE_FLAGS) -> Iterator[Server]:
    """Start a server on the demo model, and wait for its first answer; SIGTERM ends it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    arguments = [
        *to_arguments(flags, command.model),
        "--served-model-name",
        NAME,
        "--host",
        "localhost",
        "--port",
        str(port),
    ]
    with process(
        [*command.arguments, *arguments], command.environment, stdout=subprocess.DEVNULL
    ) as started:
        url = f"http://localhost:{port}"
        _wait_for(url, started)
        seconds = time.monotonic() - began
        yield Server(url, started.pid, seconds, front_ends(started.pid, command.program))


def front_ends(pid: int, program: str) -> tuple[int, ...]:
    """A server's first process, and those of its children that run the front end's own program."""
    if not program:
        return (pid,)
    children = psutil.Process(pid).children(recursive=True)
    found = tuple(child.pid for child in children if child.exe() == program)
    if not found:
        raise SystemExit(f"no process of the server runs {program}")
    return (pid, *found)


def to_arguments(flags: Sequence[str], model: Path = MODEL) -> list[str]:
    return ["--model", str(model), *flags]


@contextmanager
def process(
    command: Sequence[str], environment: Mapping[str, str] | None = None, **pipes: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Start a process of this Python; SIGTERM ends it, or the end of its stdin if that is a pipe."""
    started = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**ENVIRONMENT, **os.environ, **(environment or {})},
        **pipes,
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
            raise SystemExit(f"{process.args!r} ended with {process.returncode}")
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
