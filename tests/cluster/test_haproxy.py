"""HAProxy before two servers, by `cluster/haproxy.cfg`: what is kept, and what fails when a server does."""

import json
import os
import pwd
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.alike import AUTHORISED, JSON_TYPE, KINDS, Answer, answers
from tests.support.bodies import ASK, CHAT, COMPLETIONS, RESPONSES
from tests.support.fronts import HAPROXY_CONFIG, haproxy, haproxy_program, servers, start
from tests.support.polling import wait_for
from tests.support.replies import error, numbers
from tests.support.seeded_engine import LATE, SLOW
from tests.support.server_process import Server
from tests.support.under_load import NewRequests, Stream, client
from tests.support.wire import exchange, parsed, posted

pytestmark = pytest.mark.skipif(haproxy_program() is None, reason="HAProxy is not installed")

STREAMED = {**ASK, "stream": True, "seed": SLOW}
BEGINNING = "很久很久以前，" * 60
"""More than the 1,024 bytes by which a prompt is known."""


@pytest.fixture(scope="module")
def both() -> Iterator[list[Server]]:
    with servers(2) as started:
        yield started


@pytest.fixture(scope="module")
def front(both: list[Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with haproxy([server.url for server in both], tmp_path_factory.mktemp("haproxy")) as (url, _):
        yield url


@pytest.fixture(scope="module")
def direct(both: list[Server]) -> dict[str, Answer]:
    return answers(both[0].url)


@pytest.fixture(scope="module")
def behind(front: str) -> dict[str, Answer]:
    return answers(front)


def unfinished(server: Server) -> int:
    """How many requests are in its engine."""
    with client(server.url) as http:
        return int(numbers(http)["engine_requests_unfinished"])


def has_user(name: str) -> bool:
    return name in {each.pw_name for each in pwd.getpwall()}


@pytest.mark.skipif(not has_user("haproxy"), reason="there is no user haproxy")
def test_the_file_is_valid_as_it_is() -> None:
    command = [haproxy_program() or "", "-c", "-f", str(HAPROXY_CONFIG)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


def test_there_are_requests_of_many_kinds() -> None:
    assert len(KINDS) >= 34


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_answered_as_by_the_server_itself(
    direct: dict[str, Answer], behind: dict[str, Answer], kind: str
) -> None:
    expected = direct[kind]
    if kind == "body too large":  # HAProxy's own answer, which has no id
        expected = replace(expected, headers={"content-type": "application/json"})
    assert behind[kind] == expected


def test_events_pass_as_they_are_spoken(front: str) -> None:
    with client(front) as http, http.stream("POST", COMPLETIONS, json=STREAMED) as reply:
        came = [time.monotonic() for line in reply.iter_lines() if line.startswith("data: {")]
    gaps = [after - before for before, after in pairwise(came)]
    assert len(came) == 101
    assert came[-1] - came[0] > 1.5
    assert max(gaps) < 0.5


@pytest.mark.parametrize("fields", [{**STREAMED}, {**ASK, "seed": LATE}], ids=["stream", "plain"])
def test_a_client_that_leaves_frees_the_engine(
    both: list[Server], front: str, fields: dict[str, Any]
) -> None:
    url = httpx.URL(front)
    key = f"Authorization: {AUTHORISED['Authorization']}"
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(posted(COMPLETIONS, fields, key, "Content-Type: application/json"))
        assert wait_for(lambda: sum(map(unfinished, both)) == 1, 1)
    assert wait_for(lambda: sum(map(unfinished, both)) == 0, 1)


@pytest.mark.parametrize("path", ["/metrics", "//metrics/", "/%6Detrics"])
def test_the_metrics_of_a_server_are_its_own_affair(front: str, path: str) -> None:
    with client(front) as http:
        assert error(http.get(f"{front}{path}"), 403)


def test_the_numbers_of_the_front_are_there_for_prometheus(
    both: list[Server], tmp_path: Path
) -> None:
    with haproxy([both[0].url], tmp_path) as (url, numbers_url):
        assert httpx.get(f"{url}/health").status_code == 200
        told = httpx.get(f"{numbers_url}/metrics").text
    assert re.search(r'^haproxy_server_http_responses_total\{.*code="2xx"\} 1$', told, re.MULTILINE)


def talk(opening: Any, turns: int, system: str = "") -> list[dict[str, Any]]:
    """A conversation that has come to so many turns of its user."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": opening})
    for turn in range(1, turns):
        messages.append({"role": "assistant", "content": f"答{turn}"})
        messages.append({"role": "user", "content": f"问{turn}"})
    return messages


def parts(text: str, kind: str = "text") -> list[dict[str, str]]:
    return [{"type": kind, "text": text}]


OF_THREE = {"hash-balance-factor 200": "hash-balance-factor 150", "retries 1": "retries 2"}
"""As the file wants it with three servers."""
SYSTEM = "你是一个乐于助人的助手。"
SHAPES: dict[str, tuple[str, Callable[[str, int], dict[str, Any]]]] = {
    "chat": (CHAT, lambda opening, turns: {"messages": talk(opening, turns)}),
    "with a system message": (
        CHAT,
        lambda opening, turns: {"messages": talk(opening, turns, SYSTEM)},
    ),
    "content as a list": (CHAT, lambda opening, turns: {"messages": talk(parts(opening), turns)}),
    "content as a list after a system message": (
        CHAT,
        lambda opening, turns: {"messages": talk(parts(opening), turns, SYSTEM)},
    ),
    "behind many tools": (
        CHAT,
        lambda opening, turns: {
            "tools": [
                {"type": "function", "function": {"name": f"f{at}", "description": SYSTEM}}
                for at in range(50)
            ],
            "tool_choice": "none",
            "messages": talk(opening, turns),
        },
    ),
    "longer than the buffer": (
        CHAT,
        lambda opening, turns: {"messages": talk(opening, turns), "padding": "x" * 300_000},
    ),
    "response": (
        RESPONSES,
        lambda opening, turns: {"input": talk(parts(opening, "input_text"), turns, SYSTEM)},
    ),
    "completion": (
        COMPLETIONS,
        lambda opening, turns: {"prompt": opening + BEGINNING + "然后，" * turns, "raw": True},
    ),
    "token ids": (
        COMPLETIONS,
        lambda opening, turns: {"prompt": [1, *map(ord, opening * 50), *[7] * turns]},
    ),
}
"""By name: the path of a conversation, and its body from its opening and the number of its turns."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_escaped", [True, False], ids=["escaped", "UTF-8"])
def test_a_conversation_stays_on_one_server_and_all_spread(
    both: list[Server], front: str, shape: str, is_escaped: bool
) -> None:
    path, to_body = SHAPES[shape]
    openings = [f'"第{at}个"\n问题' for at in range(8)]
    spoken_by = {at: set[int]() for at in range(8)}
    with client(front) as http:
        for turns in (1, 2, 3):
            for at, opening in enumerate(openings):
                body = json.dumps(to_body(opening, turns), ensure_ascii=is_escaped)
                request_id = f"{shape}-{is_escaped}-{at}-{turns}"
                headers = {**JSON_TYPE, "X-Request-Id": request_id}
                reply = http.post(path, content=body.encode(), headers=headers)
                assert reply.status_code == 200, reply.text
                spoken_by[at].add(server_of(both, request_id))
    assert all(len(found) == 1 for found in spoken_by.values()), spoken_by
    assert set.union(*spoken_by.values()) == {0, 1}


def server_of(those: list[Server], request_id: str) -> int:
    """Which of them has answered a request."""

    def find() -> list[int]:
        words = f" id={request_id} "
        return [at for at, each in enumerate(those) if any(words in line for line in each.lines)]

    assert wait_for(find, 5)
    [found] = find()
    return found


def test_requests_without_a_body_are_spread(both: list[Server], front: str) -> None:
    with client(front) as http:
        for at in range(20):
            assert http.get("/version", headers={"X-Request-Id": f"get-{at}"}).status_code == 200
    assert 3 <= sum(server_of(both, f"get-{at}") for at in range(20)) <= 17


def test_conversations_that_begin_alike_are_shared_by_three_servers(tmp_path: Path) -> None:
    """None gets more than 1.5 times its share, rounded up."""
    with servers(3) as those, haproxy([each.url for each in those], tmp_path, OF_THREE) as (url, _):
        streams = [Stream(url, {**STREAMED}) for _ in range(16)]
        assert wait_for(lambda: sum(map(unfinished, those)) == 16, 2)
        assert max(map(unfinished, those)) <= 9
        assert {stream.end() for stream in streams} == {"stop"}


@pytest.mark.parametrize(
    ("count", "number", "status", "ends"),
    [
        (2, signal.SIGKILL, -signal.SIGKILL, "cut"),
        (2, signal.SIGUSR1, 1, "engine_dead"),
        (2, signal.SIGTERM, 0, "stop"),
        (3, signal.SIGKILL, -signal.SIGKILL, "cut"),
        (3, signal.SIGUSR1, 1, "engine_dead"),
    ],
    ids=["killed", "its engine dies", "drained", "killed, of three", "its engine dies, of three"],
)
def test_a_server_that_ends_under_load_fails_no_new_request(
    tmp_path: Path, count: int, number: signal.Signals, status: int, ends: str
) -> None:
    """Streams that run there go on if it is drained; else they are told, or cut if nobody is left to tell them."""
    changes = OF_THREE if count == 3 else {}
    with (
        servers(count) as those,
        haproxy([each.url for each in those], tmp_path, changes) as (url, _),
    ):
        ending = those[0]
        streams = [Stream(url, {**STREAMED, "prompt": f"故事{at}"}) for at in range(16)]
        assert wait_for(lambda: sum(map(unfinished, those)) == 16, 2)
        begun = [unfinished(each) for each in those]
        assert min(begun) >= 2
        late = [
            Stream(url, {**ASK, "prompt": f"{at}", "seed": LATE, "stream": True}) for at in range(4)
        ]
        new = NewRequests(url)
        assert wait_for(lambda: new.answered > 40, 5)
        ending.process.send_signal(number)
        assert ending.process.wait(10) == status
        before = new.answered
        assert wait_for(lambda: new.answered > before + 100, 5)
        new.stop()
        found = sorted(stream.end() for stream in streams)
        assert found == sorted([ends] * begun[0] + ["stop"] * (16 - begun[0]))
        assert new.failed == []
        assert new.cut <= (1 if number == signal.SIGKILL else 0)
        assert {stream.end() for stream in late} == {"stop"}  # nothing of these had been sent
        assert_it_comes_back(url, ending)


def assert_it_comes_back(url: str, ended: Server) -> None:
    """A server that is started again at the same address gets its share of requests."""
    again = start("--port", str(httpx.URL(ended.url).port))
    try:
        again.wait_for_banner()
        with client(url) as http:
            ids = iter(range(1000))
            assert wait_for(
                lambda: (
                    http.get("/version", headers={"X-Request-Id": f"back-{next(ids)}"})
                    and any(" id=back-" in line for line in again.lines)
                ),
                5,
            )
    finally:
        assert again.stop() == 0


def test_a_reload_cuts_no_stream(tmp_path: Path) -> None:
    with servers(1) as [server], haproxy([server.url], tmp_path) as (url, _):
        stream = Stream(url, STREAMED)
        assert wait_for(lambda: unfinished(server) == 1, 2)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGUSR2)
        assert wait_for(lambda: (tmp_path / "log").read_text().count("New worker") == 2, 5)
        with client(url) as http:
            assert http.post(COMPLETIONS, json=ASK).status_code == 200
        assert stream.end() == "stop"


def test_a_server_that_is_drained_by_hand_gets_no_new_requests(tmp_path: Path) -> None:
    with servers(2) as those, haproxy([each.url for each in those], tmp_path) as (url, _):
        streams = [Stream(url, {**STREAMED, "prompt": f"故事{at}"}) for at in range(8)]
        assert wait_for(lambda: all(map(unfinished, those)), 2)
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(tmp_path / "admin"))
            admin.sendall(b"set server servers/s0 state drain\n")
            assert admin.recv(100) == b"\n"
        with client(url) as http:
            for at in range(20):
                headers = {"X-Request-Id": f"drained-{at}"}
                reply = http.post(COMPLETIONS, json={"prompt": f"{at}"}, headers=headers)
                assert reply.status_code == 200
                assert server_of(those, f"drained-{at}") == 1
        assert {stream.end() for stream in streams} == {"stop"}


def test_errors_of_its_own_are_in_the_shape_of_the_servers(tmp_path: Path) -> None:
    sooner = {
        "timeout http-request 60s": "timeout http-request 1s",
        "timeout server 660s": "timeout server 1s",
    }
    with servers(1) as [server], haproxy([server.url], tmp_path, sooner) as (url, _):
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        error(parsed(exchange(url, head)), 408)
        with client(url) as http:
            error(http.post(COMPLETIONS, json={**ASK, "seed": LATE}), 504)
            server.process.kill()
            server.process.wait()
            reply = http.post(COMPLETIONS, json=ASK)
            assert error(reply, 503)
            assert reply.headers["retry-after"] == "1"


def test_a_reply_that_is_no_http_is_an_error_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=talk_nonsense, args=(listening,))
        thread.start()
        unchecked = {"default-server check": "default-server"}
        with haproxy([address], tmp_path, unchecked) as (url, _):
            error(httpx.post(f"{url}{COMPLETIONS}", json=ASK, timeout=10), 502)
        thread.join(5)
        assert not thread.is_alive()


def talk_nonsense(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"nonsense\r\n\r\n")
