"""What the tests share: an app on a fake engine, the real tokenizer where it is, one real server for the session."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from fastapi.testclient import TestClient

from api.app import build_app
from prompt_template import PromptTemplate
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import ALPACA_2
from server.sockets import bind_sockets
from server.uvicorn_server import DrainingServer, uvicorn_config
from settings import DEMO_MODEL, Settings

ROOT = Path(__file__).parent.parent
ALPACA_2_TOKENIZER = ROOT.parent / "shared" / "chinese-alpaca-2-tokenizer" / "tokenizer.model"
START_SECONDS = 240
BATCH = 48
"""The real server's `--max-num-seqs`: more choices than that wait."""
ROOM = 128
"""The real server's `--max-num-queued-reqs`: a request for so many choices is taken only when nothing else runs."""


logged: list[str] = []
"""What these apps would show on the terminal."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--program tests/vllms_own_parts.py` runs the tests of the real server without its lighter parts."""
    parser.addoption("--program", default="openai_api_server_vllm.py")


@pytest.fixture(scope="session")
def demo_encoder() -> SentencePieceEncoder:
    return SentencePieceEncoder(DEMO_MODEL / "tokenizer.model")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def serve(engine: FakeEngine, demo_encoder: SentencePieceEncoder) -> Callable[..., TestClient]:
    """A client of the app on the fake engine, for the settings given."""

    def client(**settings: Any) -> TestClient:
        layout, system = settings.pop("layout", ALPACA_2), settings.pop("system_text", None)
        template = PromptTemplate(layout, demo_encoder, system)
        app = build_app(engine, template, Settings(**settings), log=logged.append)
        return TestClient(app, raise_server_exceptions=False)

    return client


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    return serve()


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Whether it has come to hold in that time."""
    deadline = time.monotonic() + seconds
    while not (holds := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds


def posted(path: str, content: dict[str, Any] | str | bytes, *fields: str) -> bytes:
    """A request as it is on the wire."""
    text = json.dumps(content) if isinstance(content, dict) else content
    body = text.encode() if isinstance(text, str) else text
    head = "\r\n".join(
        (f"POST {path} HTTP/1.1", "Host: x", *fields, f"Content-Length: {len(body)}")
    )
    return f"{head}\r\n\r\n".encode() + body


@contextmanager
def serving(
    engine: FakeEngine, encoder: SentencePieceEncoder, **settings: Any
) -> Iterator[tuple[str, DrainingServer]]:
    """An app on a fake engine, on a real socket, in a thread: its URL, and the server."""
    chosen = Settings(host="127.0.0.1", port=0, **settings)
    sockets = bind_sockets(chosen)
    app = build_app(engine, PromptTemplate(ALPACA_2, encoder), chosen, log=logged.append)
    server = DrainingServer(uvicorn_config(app, chosen), engine, chosen.drain_timeout)
    thread = threading.Thread(target=server.run, args=(sockets,))
    thread.start()
    assert wait_for(lambda: server.started, 10)
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


@contextmanager
def listening(engine: FakeEngine, encoder: SentencePieceEncoder, **settings: Any) -> Iterator[str]:
    with serving(engine, encoder, **settings) as (url, _):
        yield url


class Server:
    """A server process, as a user would start it."""

    def __init__(self, *arguments: str, program: str = "openai_api_server_vllm.py") -> None:
        self.lines: list[str] = []
        command = [sys.executable, program, *arguments]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            process_group=0,  # as a shell would: Ctrl-C is for the whole group
        )
        assert self.process.stdout is not None
        self.terminal = self.process.stdout
        self.url = ""
        self.shown: list[str] = []
        """The lines up to the banner."""
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.terminal))

    def wait_for_banner(self) -> None:
        """Read the terminal to the end of the banner, whose URL is then `url`."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and (line := self.terminal.readline()):
            self.lines.append(line)
            if ready := re.search(r"Ready at\s+(\S+)", line):
                self.url = ready[1]
            if self.url and line == "\n":
                self.shown = [*self.lines]
                self.reader.start()  # else its log would fill the pipe
                return
        raise AssertionError("the server did not start:\n" + "".join(self.lines))

    def stop(self) -> int:
        """The exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.reader.join(10)
        self.terminal.close()
        return status


def connect(server: Server) -> socket.socket:
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port), timeout=60)


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The real server with vLLM on the demo model, one for all tests."""
    program = pytestconfig.getoption("--program")
    flags = ("--port", "0", "--max-num-queued-reqs", str(ROOM), "--max-num-seqs", str(BATCH))
    server = Server(*flags, program=program)
    server.wait_for_banner()
    yield server
    assert server.stop() == 0
    assert "leaked" not in "".join(server.lines)  # no library complains at the end


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with closing(httpx.Client(base_url=server.url, timeout=120)) as client:
        yield client


def events(body: str) -> list[Any]:
    """The JSON payloads of a stream's events; asserts that it ends with [DONE]."""
    frames = body.split("\n\n")
    assert frames.pop() == ""
    assert frames.pop() == "data: [DONE]"
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]
