"""Replicas on Ray Serve with `--sticky`: a conversation goes to one of them. And two signals."""

import json
import re
import signal
import time
from collections.abc import Iterator
from itertools import product

import pytest

from tests.support.alike import FLAGS, JSON_TYPE
from tests.support.bodies import ASK, CHAT
from tests.support.own_network import own_network
from tests.support.polling import wait_for
from tests.support.seeded_engine import LONG
from tests.support.server_process import Server
from tests.support.under_load import Stream, client

pytest.importorskip("ray", reason="requirements-cluster.txt is not installed")
pytestmark = pytest.mark.engine  # as slow as the engine, and one test starts it

PROGRAM = "tests.support.cluster_on_fake_engine"
LINE = re.compile(r"pid=(\d+)\)\S* .*id=talk-(\d+)-(\d+) ")
CONVERSATIONS, TURNS = range(8), range(4)


@pytest.fixture(scope="module")
def command() -> Iterator[Server]:
    with own_network():
        started = Server(
            PROGRAM, "--replicas", "2", "--sticky", "--port", "8123", *FLAGS, program="-m"
        )
        started.wait_for_banner()
        yield started
        assert started.process.poll() is not None


def test_a_conversation_stays_with_one_replica(command: Server) -> None:
    """They all begin with the same system message; some clients escape Chinese in JSON."""
    with client(command.url) as http:
        for number, turn in product(CONVERSATIONS, TURNS):
            said = [("system", "你是助手。"), ("user", f"问题{number}")]
            said += [(role, f"{role} {at}") for at in range(turn) for role in ("assistant", "user")]
            messages = [{"role": role, "content": text} for role, text in said]
            id_header = {"X-Request-Id": f"talk-{number}-{turn}"}
            body = json.dumps({"messages": messages}, ensure_ascii=number % 2 == 0).encode()
            assert http.post(CHAT, content=body, headers={**id_header, **JSON_TYPE}).is_success

    def found() -> set[tuple[str, str, str]]:
        return set(LINE.findall("".join(command.lines)))

    assert wait_for(lambda: len(found()) == len(CONVERSATIONS) * len(TURNS), 10)
    homes = {(number, replica) for replica, number, _ in found()}
    assert len(homes) == len(CONVERSATIONS)
    assert len({replica for _, replica in homes}) == 2


def test_a_second_signal_ends_the_command_at_once(command: Server) -> None:
    stream = Stream(command.url, {**ASK, "stream": True, "seed": LONG})  # of 25 seconds
    time.sleep(1)
    command.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert command.process.poll() is None
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(10) == 128 + signal.SIGINT
    assert stream.end() == "cut"
