"""A hundred hostile requests at once, of each kind: each is refused or answered, and a stream beside them flows on."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.support.bodies import COMPLETIONS
from tests.support.hostile_requests import KINDS, asked
from tests.support.polling import wait_for
from tests.support.server_process import Server
from tests.support.wire import answer_to

pytestmark = pytest.mark.engine

CROWD = 100
WORST_GAP = 0.25
"""Seconds between two pieces of a stream."""


@contextmanager
def stream_beside(server: Server) -> Iterator[list[float]]:
    """The gaps of streams that run meanwhile, one after the other."""
    url, gaps, is_over = httpx.URL(server.url), [], threading.Event()
    ask = asked(
        COMPLETIONS,
        {"prompt": "讲一个故事", "stream": True, "max_tokens": 1900, "min_tokens": 1900},
    )

    def listen() -> None:
        while not is_over.is_set():
            with socket.create_connection((url.host, url.port), timeout=60) as connection:
                connection.sendall(ask)
                assert connection.recv(12) == b"HTTP/1.1 200"
                last = time.monotonic()
                while not is_over.is_set() and connection.recv(65536):
                    now = time.monotonic()
                    gaps.append(now - last)
                    last = now

    listener = threading.Thread(target=listen)
    listener.start()
    assert wait_for(lambda: len(gaps) > 20, 20)
    try:
        yield gaps
    finally:
        is_over.set()
        listener.join()


def worst_gap_beside(server: Server, sent: bytes, statuses: set[int]) -> float:
    url = httpx.URL(server.url)
    with stream_beside(server) as gaps, ThreadPoolExecutor(CROWD) as crowd:
        del gaps[:]
        answers = [*crowd.map(lambda _: answer_to(url, sent), range(CROWD))]
        time.sleep(0.1)
        worst = max(gaps)
    assert {int(answer.split(maxsplit=2)[1]) for answer in answers if answer} <= statuses
    assert any(answers)
    return worst


@pytest.mark.parametrize(("statuses", "sent"), KINDS.values(), ids=KINDS)
def test_a_crowd_of_hostile_requests_holds_no_stream_up(
    server: Server, http: httpx.Client, statuses: set[int], sent: bytes
) -> None:
    """The best of three crowds: the machine has stalls of its own."""
    gaps: list[float] = []
    while len(gaps) < 3 and not any(gap < WORST_GAP for gap in gaps):
        gaps.append(worst_gap_beside(server, sent, statuses))
    assert min(gaps) < WORST_GAP, gaps
    assert http.get("/health").status_code == 200
