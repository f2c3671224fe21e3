"""Replicas on Ray Serve behind its HAProxy, as `cluster.py` starts them: what is kept, and what comes and goes.

One Ray for all tests, which stand in the order of a story: two replicas, one whose engine dies, others that take their
place, one of them alone, one with the real engine, the end. Ray has a network of its own.
"""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.support.alike import AUTHORISED, FLAGS, KINDS, Answer, answers
from tests.support.bodies import ASK, CHAT, COMPLETIONS
from tests.support.fronts import servers
from tests.support.own_network import own_network
from tests.support.paths import ROOT
from tests.support.polling import wait_for
from tests.support.replies import events
from tests.support.seeded_engine import DYING, LATE, LONG, SLOW, STEADY
from tests.support.server_process import Server
from tests.support.under_load import NewRequests, Stream, client
from tests.support.wire import posted

pytest.importorskip("ray", reason="requirements-cluster.txt is not installed")
pytestmark = pytest.mark.engine  # as slow as the engine, and one test starts it

PROGRAM = "tests.support.cluster_on_fake_engine"
COMMON = ("--port", "8123", "--request-timeout", "60", *FLAGS)
JOINING = ("--address", "auto")
"""The flags of a command that changes what runs."""
STREAMED = {**ASK, "stream": True, "seed": SLOW}
UNFINISHED = re.compile(r'^engine_requests_unfinished\{replica="(\w+)"\} (\S+)$', re.MULTILINE)


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture(scope="module")
def direct(network: None) -> dict[str, Answer]:
    """What a server alone answers to each kind of request."""
    with servers(1) as [server]:
        return answers(server.url)


@pytest.fixture(scope="module")
def command(network: None) -> Iterator[Server]:
    """The command that has started Ray and two replicas."""
    with pytest.MonkeyPatch.context() as patch:
        # Ray lets a replica that goes wait so long for load balancers of others.
        patch.setenv("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "2")
        started = Server(PROGRAM, "--replicas", "2", *COMMON, program="-m")
        try:
            started.wait_for_banner()
            yield started
        finally:
            if started.process.poll() is None:
                os.killpg(started.process.pid, signal.SIGKILL)  # Ray's would keep the terminal open


@pytest.fixture(scope="module")
def url(command: Server) -> str:
    return command.url


def unfinished(url: str) -> dict[str, float]:
    """The requests in the engine of each replica."""
    with client(url) as http:
        found = UNFINISHED.findall(http.get("/metrics").text)
    return {replica: float(count) for replica, count in found}


def change(*flags: str, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    """Another command, which joins the Ray that runs and replaces its replicas."""
    arguments = ["-m", program, *JOINING, *COMMON, *flags]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_answered_as_by_the_server_itself(
    url: str, direct: dict[str, Answer], behind: dict[str, Answer], kind: str
) -> None:
    assert behind[kind] == direct[kind]


@pytest.fixture(scope="module")
def behind(url: str) -> dict[str, Answer]:
    return answers(url)


@pytest.mark.parametrize("fields", [{**STREAMED}, {**ASK, "seed": LATE}], ids=["stream", "plain"])
def test_a_client_that_leaves_frees_the_engine(url: str, fields: dict[str, Any]) -> None:
    place = httpx.URL(url)
    key = f"Authorization: {AUTHORISED['Authorization']}"
    with socket.create_connection((place.host, place.port), timeout=10) as connection:
        connection.sendall(posted(COMPLETIONS, fields, key, "Content-Type: application/json"))
        assert wait_for(lambda: sum(unfinished(url).values()) == 1, 1)
    assert wait_for(lambda: sum(unfinished(url).values()) == 0, 1)


def test_events_pass_as_they_are_spoken(url: str) -> None:
    with client(url) as http, http.stream("POST", COMPLETIONS, json=STREAMED) as reply:
        came = [time.monotonic() for line in reply.iter_lines() if line.startswith("data: ")]
    assert came[-1] - came[0] > 1.5
    assert max(after - before for before, after in itertools.pairwise(came)) < 0.5


def test_the_metrics_are_those_of_all_replicas(url: str) -> None:
    assert len(unfinished(url)) == 2
    with client(url) as http:
        told = http.get("/metrics").text
        assert http.get("/metrics", headers={"Authorization": ""}).status_code == 401
    asked = re.findall(
        r'^http_requests_total\{.*path="/v1/completions",replica="(\w+)",status="200"\} (\S+)$',
        told,
        re.MULTILINE,
    )
    assert {replica for replica, _ in asked} == set(unfinished(url))
    assert told.count("# TYPE http_requests_total counter") == 1


def test_each_request_has_a_line_on_the_terminal_of_the_command(command: Server, url: str) -> None:
    ids = [f"line-{at}" for at in range(20)]
    with client(url) as http:
        for name in ids:
            http.post(COMPLETIONS, json=ASK, headers={"X-Request-Id": name})
    assert wait_for(lambda: all(f"id={name} " in "".join(command.lines) for name in ids), 5)


def test_a_replica_whose_engine_dies_fails_no_new_request_and_is_replaced(url: str) -> None:
    """The streams that run there are told so."""
    before = set(unfinished(url))
    streams = [Stream(url, {**STREAMED, "seed": STEADY}) for _ in range(16)]
    assert wait_for(lambda: sum(unfinished(url).values()) == 16, 5)
    counts = sorted(unfinished(url).values())
    new = NewRequests(url)
    assert wait_for(lambda: new.answered > 40, 5)
    dying = Stream(url, {**STREAMED, "seed": DYING})
    assert dying.end() == "engine_dead"
    answered = new.answered
    assert wait_for(lambda: len(set(unfinished(url)) - before) == 1, 30)
    assert new.answered > answered + 100
    new.stop()
    assert (new.failed, new.cut) == ([], 0)
    ends = sorted(stream.end() for stream in streams)
    assert ends.count("engine_dead") in counts
    assert ends.count("stop") == 16 - ends.count("engine_dead")


def test_other_flags_replace_all_replicas_and_lose_no_request(url: str) -> None:
    before = set(unfinished(url))
    new, streams = NewRequests(url), [Stream(url, STREAMED) for _ in range(16)]
    done = change("--replicas", "2", "--max-num-queued-reqs", "400")
    assert done.returncode == 0, done.stderr
    assert wait_for(lambda: not before & set(unfinished(url)), 60)
    new.stop()
    assert new.answered > 100
    assert (new.failed, new.cut) == ([], 0)
    assert {stream.end() for stream in streams} == {"stop"}
    assert len(unfinished(url)) == 2


def test_replicas_that_cannot_start_are_told_and_the_others_go_on(url: str) -> None:
    before = set(unfinished(url))
    done = change("--replicas", "2", "--served-model-name", "broken")
    assert done.returncode == 1
    # Ray passes on what its processes log, each line with a process id, some of it after the command's last.
    own = [line for line in done.stderr.splitlines() if " pid=" not in line]
    assert own[-1] == "error: vLLM cannot start the model: it is broken."
    with client(url) as http:
        assert http.post(COMPLETIONS, json=ASK).status_code == 200
    # Without room for one more, a replica had to go for the one that could not start.
    assert set(unfinished(url)) < before
    done = change("--replicas", "2", "--max-num-queued-reqs", "400")
    assert done.returncode == 0, done.stderr
    assert len(unfinished(url)) == 2


def test_a_long_stream_lives_through_the_end_of_its_replica(url: str) -> None:
    """It runs for 25 seconds, more than Ray Serve's own patience of 20."""
    time.sleep(2)  # HAProxy has looked at the new replica twice
    streams = [Stream(url, {**STREAMED, "seed": LONG}) for _ in range(8)]
    assert wait_for(lambda: sum(unfinished(url).values()) == 8, 5)
    assert min(unfinished(url).values()) > 0
    done = change("--replicas", "1", "--max-num-queued-reqs", "400")
    assert done.returncode == 0, done.stderr
    assert wait_for(lambda: len(unfinished(url)) == 1, 10)
    assert {stream.end() for stream in streams} == {"stop"}


def test_a_replica_with_the_real_engine_takes_the_place_of_another_and_loses_no_request(
    url: str,
) -> None:
    new = NewRequests(url)
    done = change("--replicas", "1", program="cluster")
    assert done.returncode == 0, done.stderr
    new.stop()
    assert new.answered > 1000
    assert (new.failed, new.cut) == ([], 0)


def test_the_real_engine_answers_in_a_replica(url: str) -> None:
    question = {"prompt": "告诉我中国的首都在哪里", "temperature": 0}
    with client(url) as http:

        def text(**fields: Any) -> str:
            reply = http.post(COMPLETIONS, json={**question, **fields})
            assert reply.status_code == 200, reply.text
            return str(reply.json()["choices"][0]["text"])

        assert wait_for(lambda: "北京" in text(), 60)
        plain = text()
        assert text(num_beams=4) != ""
        assert text(structured_outputs={"choice": ["巴黎", "东京"]}) in {"巴黎", "东京"}
        streamed = events(http.post(COMPLETIONS, json={**question, "stream": True}).text)
        assert "".join(event["choices"][0]["text"] for event in streamed) == plain
        asked = http.post(CHAT, json={"messages": "中国的首都在哪里？"}).json()
        assert asked["choices"][0]["message"]["content"]
        assert "vllm:num_requests_running{replica=" in http.get("/metrics").text


def test_the_end_of_the_command_lets_running_requests_end_and_leaves_nothing(
    command: Server, url: str
) -> None:
    body = {**ASK, "stream": True, "min_tokens": 200, "max_tokens": 200}
    streams = [Stream(url, body) for _ in range(4)]
    assert wait_for(lambda: sum(unfinished(url).values()) == 4, 5)
    others = psutil.Process(command.process.pid).children(recursive=True)
    assert len(others) > 5
    # As a terminal's Ctrl-C: for all processes of the command.
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.process.wait(60) == 0
    assert {stream.end() for stream in streams} == {"length"}
    _, alive = psutil.wait_procs(others, timeout=10)
    assert [process.name() for process in alive] == []
