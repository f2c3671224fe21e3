"""The server's end: signals, running requests that are waited for or told, an engine that dies."""

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from prompts.encoder import SentencePieceEncoder
from tests.support.app_on_fake_engine import serving
from tests.support.bodies import ASK
from tests.support.fake_engine import HUNDRED, FakeEngine
from tests.support.polling import wait_for
from tests.support.replies import error, events
from tests.support.server_process import Server
from tests.support.wire import HEAD, received


@pytest.mark.parametrize("stream", [True, False])
def test_without_time_to_drain_running_requests_are_told_at_once(
    demo_encoder: SentencePieceEncoder, stream: bool
) -> None:
    engine = FakeEngine(HUNDRED, delay=0.3)
    heard: list[httpx.Response] = []
    with serving(engine, demo_encoder, drain_timeout=0) as (url, server):
        asking = in_threads(
            2,
            lambda: heard.append(
                httpx.post(f"{url}/v1/completions", json={**ASK, "stream": stream}, timeout=30)
            ),
        )
        assert wait_for(lambda: engine.running == 2, 5)
        time.sleep(0.5 if stream else 0)
        began = time.monotonic()
        server.handle_exit(signal.SIGTERM, None)
        for thread in asking:
            thread.join(10)
        assert time.monotonic() - began < 2
        assert wait_for(lambda: server.should_exit, 2)
    for reply in heard:
        assert reply.status_code == (200 if stream else 503)
        error = events(reply.text)[-1]["error"] if stream else reply.json()["error"]
        assert error["code"] == "shutting_down"


def in_threads(count: int, work: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("is_late", [False, True])
def test_a_signal_lets_running_requests_end_or_tells_them(
    demo_encoder: SentencePieceEncoder, is_late: bool
) -> None:
    engine = FakeEngine(HUNDRED, delay=0.02)
    heard: list[str] = []
    with serving(engine, demo_encoder, drain_timeout=0.5 if is_late else 30) as (url, server):
        streams = in_threads(
            8,
            lambda: heard.append(
                httpx.post(f"{url}/v1/completions", json={**ASK, "stream": True}, timeout=30).text
            ),
        )
        assert wait_for(lambda: engine.running == 8, 5)
        server.handle_exit(signal.SIGTERM, None)
        assert error(httpx.get(f"{url}/health"), 503).code == "shutting_down"
        refused = httpx.post(f"{url}/v1/completions", json=ASK)
        assert error(refused, 503).code == "shutting_down"
        assert refused.headers["retry-after"]
        for stream in streams:
            stream.join(10)
        assert wait_for(lambda: server.should_exit, 2)
    for text in heard:
        last = events(text)[-1]
        assert (
            last["error"]["code"] == "shutting_down"
            if is_late
            else last["choices"][0]["finish_reason"] == "stop"
        )
    assert len(heard) == 8


def test_the_death_of_the_engine_ends_the_server(demo_encoder: SentencePieceEncoder) -> None:
    engine = FakeEngine()
    with serving(engine, demo_encoder) as (_, server):
        engine.is_dead = True
        assert wait_for(lambda: server.should_exit, 2)


@contextmanager
def busy(
    streams: int, tokens: int
) -> Iterator[tuple[Server, list[list[str]], list[threading.Thread]]]:
    """A real server with streams that have begun, the events that each has heard in the end, and who listens."""
    server = Server("--port", "0")
    server.wait_for_banner()
    body = json.dumps(
        {"prompt": "讲一个故事", "stream": True, "max_tokens": tokens, "min_tokens": tokens}
    ).encode()
    heard: list[list[str]] = [[] for _ in range(streams)]

    def listen(connection: socket.socket, lines: list[str]) -> None:
        text = b"".join(iter(lambda: received(connection), b"")).decode()
        lines += re.findall("data: .*", text)

    connections = [
        socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), 60) for _ in heard
    ]
    for connection in connections:
        connection.sendall(
            HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert connection.recv(12) == b"HTTP/1.1 200"
    listeners = [
        threading.Thread(target=listen, args=pair) for pair in zip(connections, heard, strict=True)
    ]
    for listener in listeners:
        listener.start()
    try:
        yield server, heard, listeners
    finally:
        server.process.kill()
        server.process.wait()


@pytest.mark.engine
def test_ctrl_c_amid_streams_lets_all_end() -> None:
    """As SIGTERM does; a terminal sends it to all processes of the command."""
    with busy(32, 400) as (server, heard, listeners):
        os.killpg(server.process.pid, signal.SIGINT)
        time.sleep(0.3)
        assert error(httpx.get(f"{server.url}/health"), 503).code == "shutting_down"
        assert (
            error(httpx.post(f"{server.url}/v1/completions", json=ASK), 503).code == "shutting_down"
        )
        for listener in listeners:
            listener.join(60)
        assert server.process.wait(10) == 0
        assert {lines[-1] for lines in heard} == {"data: [DONE]"}
        for lines in heard:
            ends = [
                json.loads(line.removeprefix("data: "))["choices"][0]["finish_reason"]
                for line in lines[:-1]
            ]
            assert ends == [None] * (len(ends) - 1) + ["length"]


@pytest.mark.engine
def test_the_engine_does_not_outlive_a_killed_server() -> None:
    with busy(1, 1900) as (server, _, _):
        processes = _engine_processes(server.process.pid).values()
        assert len(processes) >= 2
        server.process.kill()
        server.process.wait()
        assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), 10)


@pytest.mark.engine
def test_a_second_signal_ends_at_once() -> None:
    with busy(4, 1900) as (server, heard, listeners):
        processes = _engine_processes(server.process.pid).values()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 128 + signal.SIGTERM
        assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), 10)
        for listener in listeners:
            listener.join(10)
        assert all(lines and lines[-1] != "data: [DONE]" for lines in heard)


def _children(pid: int) -> list[int]:
    try:
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except FileNotFoundError:
        return []


def _engine_processes(pid: int) -> dict[str, int]:
    """By what they call themselves."""
    found: dict[str, int] = {}
    for child in _children(pid):
        name = Path(f"/proc/{child}/comm").read_text().strip()
        found |= {name: child, **_engine_processes(child)}
    return found


@pytest.mark.engine
@pytest.mark.parametrize("name", ["VLLM::EngineCor", "VLLM::Worker"])
def test_a_dead_engine_is_told_and_ends_the_process(name: str) -> None:
    with busy(8, 1900) as (server, heard, listeners):
        processes = _engine_processes(server.process.pid)
        os.kill(processes[name], signal.SIGKILL)
        began = time.monotonic()
        assert server.process.wait(10) == 1
        assert time.monotonic() - began < 5
        for listener in listeners:
            listener.join(10)
        for lines in heard:
            failure, done = lines[-2:]
            assert json.loads(failure.removeprefix("data: "))["error"]["code"] == "engine_dead"
            assert done == "data: [DONE]"
        server.reader.join(10)
        assert "error: The engine has died.\n" in server.lines
