"""Room in the engine: what does not fit is refused at once, and what runs goes on."""

import re
import statistics
import time

import httpx
import pytest

from tests.support.replies import error
from tests.support.server_process import ROOM, Server, connect
from tests.support.wire import posted, received

pytestmark = pytest.mark.engine


def test_more_than_the_room_is_refused_at_once_and_for_good(http: httpx.Client) -> None:
    began = time.monotonic()
    reply = http.post("/v1/completions", json={"prompt": ["a"] * (ROOM + 1)})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "n")
    assert "retry-after" not in reply.headers
    assert time.monotonic() - began < 1


def test_a_full_server_says_when_to_come_back(http: httpx.Client) -> None:
    running = {"prompt": ["a"] * ROOM, "max_tokens": 500, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=running) as stream:
        lines = stream.iter_lines()
        next(lines)  # httpx closes the connection of an iterator that nobody holds
        began = time.monotonic()
        reply = http.post("/v1/completions", json={"prompt": "a"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "server_overloaded")
        assert int(reply.headers["retry-after"]) >= 1
        assert time.monotonic() - began < 1


def test_scores_of_prompts_take_room_too(http: httpx.Client) -> None:
    running = {"prompt": ["a"] * ROOM, "max_tokens": 500, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=running) as stream:
        lines = stream.iter_lines()
        next(lines)
        reply = http.post(
            "/v1/completions", json={"prompt": "a", "echo": True, "logprobs": 1, "max_tokens": 0}
        )
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "server_overloaded")
    all_room = {
        "prompt": ["中国"] * ROOM,
        "raw": True,
        "echo": True,
        "logprobs": 1,
        "max_tokens": 2,
    }
    deadline = time.monotonic() + 2
    while (
        status := http.post("/v1/completions", json=all_room).status_code
    ) == 503 and time.monotonic() < deadline:
        pass
    assert status == 200


@pytest.mark.engine
def test_a_full_server_refuses_at_once_while_what_runs_goes_on(
    server: Server, http: httpx.Client
) -> None:
    """Each refusal within 50 ms, by the median: no other work is done for it."""
    ask = {"prompt": ["讲一个故事"] * ROOM, "max_tokens": 200, "min_tokens": 200, "stream": True}
    with connect(server) as running:
        running.sendall(posted("/v1/completions", ask, "Connection: close"))
        assert running.recv(12) == b"HTTP/1.1 200"
        took = []
        for _ in range(30):
            began = time.monotonic()
            reply = http.post("/v1/completions", json={"prompt": "a" * 5000})
            took.append(time.monotonic() - began)
            assert error(reply, 503).code == "server_overloaded"
            assert int(reply.headers["retry-after"]) >= 1
        heard = b"".join(iter(lambda: received(running), b"")).decode()
    assert statistics.median(took) < 0.05
    ends = re.findall('"finish_reason":"(.*?)"', heard)
    assert ends == ["length"] * ROOM
    assert heard.count("data: {") > ROOM * 100
    assert "data: [DONE]" in heard
