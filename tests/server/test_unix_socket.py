"""A unix socket instead of host and port: one that is free or stale is bound, and it is gone at the end."""

import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import build_app
from prompt_template import PromptTemplate
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import ALPACA_2
from server.console import banner
from server.sockets import UnixSocket, to_sockets
from server.uvicorn_server import DrainingServer, uvicorn_config
from settings import Settings, StartError, check_settings
from tests.support.app_on_fake_engine import logged
from tests.support.fake_engine import FakeEngine
from tests.support.loaded import LOADED
from tests.support.polling import wait_for
from tests.support.replies import events
from tests.support.server_process import Server, run_command
from tests.support.wire import posted


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a socket"


@contextmanager
def serving_at(
    path: Path, encoder: SentencePieceEncoder, engine: FakeEngine, **settings: Any
) -> Iterator[httpx.Client]:
    chosen = Settings(uds=str(path), **settings)
    sockets = to_sockets(chosen)
    app = build_app(engine, PromptTemplate(ALPACA_2, encoder), chosen, log=logged.append)
    server = DrainingServer(uvicorn_config(app, chosen), engine, 1)
    thread = threading.Thread(target=server.run, args=(sockets,))
    thread.start()
    assert wait_for(lambda: server.started, 10)
    try:
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url=chosen.url
        ) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(10)


def test_requests_are_answered_at_a_path_which_is_gone_at_the_end(
    demo_encoder: SentencePieceEncoder, path: Path
) -> None:
    engine = FakeEngine(delay=0.02)
    with serving_at(path, demo_encoder, engine, api_key=["a key"], sse_keep_alive=0.01) as client:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models").status_code == 401
        client.headers["Authorization"] = "Bearer a key"
        ask = {"messages": "a"}
        assert (
            client.post("/v1/chat/completions", json=ask).json()["choices"][0]["message"]["content"]
            == "北京。"
        )
        reply = client.post("/v1/chat/completions", json={**ask, "stream": True})
        assert (
            events(reply.text.replace(": keep-alive\n\n", ""))[-1]["choices"][0]["finish_reason"]
            == "stop"
        )
    assert not path.exists()


def test_a_client_that_leaves_frees_the_engine(
    demo_encoder: SentencePieceEncoder, path: Path
) -> None:
    engine = FakeEngine(delay=60)
    with serving_at(path, demo_encoder, engine):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(posted("/v1/completions", {"prompt": "a"}))
            assert wait_for(lambda: engine.running, 5)
        assert wait_for(lambda: engine.running == 0, 1)


def leave_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_a_socket_that_a_dead_process_has_left_is_replaced(path: Path) -> None:
    leave_stale(path)
    with UnixSocket(str(path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert not path.exists()


def refused(path: Path | str) -> str:
    with pytest.raises(StartError) as failure:
        UnixSocket(str(path))
    sentence = str(failure.value)
    assert sentence.startswith("--uds ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("is_full", [False, True])
def test_a_socket_in_use_is_left_alone(path: Path, is_full: bool) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3 * is_full)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(path))
        assert "in use" in refused(path)
        assert path.is_socket()
        for client in clients:
            client.close()


def test_what_is_no_socket_is_left_alone(path: Path, tmp_path: Path) -> None:
    path.write_text("a file")
    assert "no socket" in refused(path)
    assert path.read_text() == "a file"
    assert "no socket" in refused(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    assert "no socket" in refused(link)
    assert link.is_symlink()


def test_a_path_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    assert "No such file or directory" in refused(tmp_path / "no directory" / "socket")
    assert "Not a directory" in refused(Path(__file__) / "socket")
    assert "null" in refused(f"{tmp_path}/a\0b")
    with pytest.raises(StartError, match="--uds needs the path"):
        check_settings(Settings(uds=""))


@pytest.mark.parametrize("character", ["a", "字"])
def test_a_path_that_is_too_long_is_one_sentence(
    tmp_path: Path, character: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    size = len(character.encode())
    longest = character * (107 // size) + "b" * (107 % size)
    with UnixSocket(longest):
        assert (tmp_path / longest).is_socket()
    assert "107 bytes" in refused(longest + "b")
    assert "107 bytes" in refused("/x" * 50_000)


def test_the_end_takes_away_nothing_of_another_process(path: Path) -> None:
    ours = UnixSocket(str(path))
    path.unlink()
    theirs = UnixSocket(str(path))
    ours.close()
    assert path.is_socket()
    theirs.close()
    ours.close()
    assert not path.exists()


def test_a_child_of_the_process_takes_nothing_away(path: Path) -> None:
    with UnixSocket(str(path)) as bound:
        if (child := os.fork()) == 0:
            bound.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert path.is_socket()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_banner_shows_it_with_a_line_that_works(path: Path, scheme: str) -> None:
    settings = Settings(
        uds=str(path), host="0.0.0.0", ssl_certfile="c" if scheme == "https" else None
    )
    shown = banner(settings, LOADED)
    assert f"Ready at   {scheme}://localhost on {path} " in shown
    assert (
        f"curl --unix-socket {shlex.quote(str(path))} {scheme}://localhost/v1/completions" in shown
    )
    assert "no --api-key" not in shown
    assert "8000" not in shown


@pytest.mark.parametrize("kind", ["file", "in use"])
def test_a_start_that_cannot_have_it_is_refused_at_once(path: Path, kind: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        if kind == "file":
            path.write_text("a file")
        else:
            other.bind(str(path))
            other.listen()
        process = run_command("--uds", str(path))
    assert (process.returncode, process.stderr.count("\n")) == (1, 1)
    assert process.stderr.startswith(f"error: --uds {path} is ")


def test_a_start_that_fails_afterwards_leaves_nothing(path: Path) -> None:
    process = run_command("--uds", str(path), "--prompt-template", "none.jinja")
    assert process.returncode == 1
    assert not path.exists()


@pytest.mark.engine
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_leaves_nothing(path: Path, number: signal.Signals) -> None:
    server = Server("--uds", str(path))
    assert wait_for(path.is_socket, 60)
    while "Importing vLLM" not in server.terminal.readline():
        pass
    time.sleep(1)
    server.process.send_signal(number)
    server.process.communicate(timeout=60)
    assert server.process.returncode == 128 + number
    assert not path.exists()


LONG = {"prompt": "讲一个故事", "max_tokens": 400, "stream": True}
SILENT = {
    "best of": {**LONG, "min_tokens": 400, "best_of": 4},
    "beams": {**LONG, "num_beams": 4, "n": 4, "ignore_eos": True},
    "echo": {**LONG, "min_tokens": 400, "n": 8, "best_of": 16, "echo": True},
}


@pytest.mark.engine
def test_the_real_server_at_a_path_with_no_limits(path: Path) -> None:
    """Zero is no limit; the banner's own line works; silent streams are kept alive; signals leave nothing."""
    flags = ("--max-num-queued-reqs", "0", "--request-timeout", "0", "--sse-keep-alive", "0.2")
    server = Server("--uds", str(path), *flags)
    server.wait_for_banner()
    try:
        text = "".join(server.shown)
        line = text[text.index("curl ") :].replace("\\\n", " ")
        told = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert "北京" in json.loads(told)["choices"][0]["text"]
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url=server.url, timeout=120
        ) as client:
            for ask in SILENT.values():
                reply = client.post("/v1/completions", json=ask)
                comments = reply.text.count(": keep-alive\n\n")
                assert comments
                assert all(
                    "error" not in event
                    for event in events(reply.text.replace(": keep-alive\n\n", ""))
                )
            batch = client.post(
                "/v1/completions", json={"prompt": ["a"] * 20, "n": 60, "max_tokens": 1}
            )
            assert len(batch.json()["choices"]) == 1200
            with client.stream(
                "POST", "/v1/completions", json={**LONG, "max_tokens": 1900, "min_tokens": 1900}
            ):
                server.process.send_signal(signal.SIGTERM)
                time.sleep(0.3)
                assert path.is_socket()
                server.process.send_signal(signal.SIGTERM)
                assert server.process.wait(10) == 128 + signal.SIGTERM
        assert not path.exists()
    finally:
        server.process.kill()
        server.process.wait()
