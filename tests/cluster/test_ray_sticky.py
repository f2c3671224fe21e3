"""Replicas on Ray Serve with `--sticky`: a conversation goes to one of them."""

import re
import signal
from collections.abc import Iterator
from itertools import product

import pytest

from tests.support.alike import FLAGS
from tests.support.bodies import CHAT
from tests.support.own_network import own_network
from tests.support.polling import wait_for
from tests.support.server_process import Server
from tests.support.under_load import client

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
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(60) == 0


def test_a_conversation_stays_with_one_replica(command: Server) -> None:
    """They all begin with the same system message."""
    with client(command.url) as http:
        for number, turn in product(CONVERSATIONS, TURNS):
            said = [("system", "你是助手。"), ("user", f"问题{number}")]
            said += [(role, f"{role} {at}") for at in range(turn) for role in ("assistant", "user")]
            messages = [{"role": role, "content": text} for role, text in said]
            id_header = {"X-Request-Id": f"talk-{number}-{turn}"}
            assert http.post(CHAT, json={"messages": messages}, headers=id_header).is_success

    def found() -> set[tuple[str, str, str]]:
        return set(LINE.findall("".join(command.lines)))

    assert wait_for(lambda: len(found()) == len(CONVERSATIONS) * len(TURNS), 10)
    homes = {(number, replica) for replica, number, _ in found()}
    assert len(homes) == len(CONVERSATIONS)
    assert len({replica for _, replica in homes}) == 2
