"""Mixed load for a while, leaving clients and hostile requests among it: nothing grows, and no answer is wrong.

`make soak` takes 20 minutes; SOAK_SECONDS says otherwise.
"""

import os
import random
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest

from tests.support.bodies import COMPLETIONS, MODES
from tests.support.hostile_requests import KINDS
from tests.support.mixed_requests import answers, asks, texts
from tests.support.polling import wait_for
from tests.support.replies import numbers
from tests.support.server_process import Server, connect
from tests.support.wire import answer_to, posted, reset

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
TOO_LARGE = 2**20
"""Hostile requests of megabytes are for `test_hostile.py`: here they would leave no time for others."""
MOST_GROWTH = 24
"""MiB between a tenth of the time and its end."""
SEEN = {
    "memory MiB": "process_resident_memory_bytes",
    "open files": "process_open_fds",
    "tasks": "asyncio_tasks",
    "in flight": "http_requests_in_flight",
    "in the engine": "engine_requests_unfinished",
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
}


class Soak:
    def __init__(self, server: Server) -> None:
        self.server, self.url = server, httpx.URL(server.url)
        self.asked = asks()
        self.right = answers(server, self.asked, 1)
        self.hostile = [sent for _, sent in KINDS.values() if len(sent) < TOO_LARGE]
        self.is_over = threading.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[object] = []

    def see(self, client: httpx.Client) -> dict[str, float]:
        told = numbers(client)
        seen = {name: told[metric] for name, metric in SEEN.items()}
        return {**seen, "memory MiB": seen["memory MiB"] / 2**20}

    def ask(self, chance: random.Random) -> None:
        """What was answered alone, again."""
        with httpx.Client(base_url=self.server.url, timeout=120) as client:
            for _ in range(20):
                at = chance.randrange(len(self.asked))
                path, body = self.asked[at]
                reply = client.post(path, json=body)
                if reply.status_code == 503:
                    self.counts["refused"] += 1
                elif texts(reply) == self.right[at]:
                    self.counts["right"] += 1
                else:
                    self.wrong.append((body, self.right[at], reply.text))

    def leave(self, chance: random.Random) -> None:
        """In the head, the body, the queue or the answer, politely or not."""
        fields = chance.choice([*MODES.values()])
        sent = posted(COMPLETIONS, {"prompt": "讲一个故事", **fields})
        with connect(self.server) as connection:
            connection.sendall(
                sent[: chance.choice([len(sent), len(sent), chance.randrange(len(sent))])]
            )
            time.sleep(chance.random() / 2)
            if chance.random() < 0.5:
                reset(connection)
        self.counts["left"] += 1

    def attack(self, chance: random.Random) -> None:
        with suppress(socket.timeout):
            answer_to(self.url, chance.choice(self.hostile))
        self.counts["hostile"] += 1

    def worker(self, work: Callable[[random.Random], None], seed: int) -> threading.Thread:
        def loop() -> None:
            chance = random.Random(seed)
            while not self.is_over.is_set():
                try:
                    work(chance)
                except Exception as failure:  # noqa: BLE001 - told at the end
                    self.wrong.append((work.__name__, repr(failure)))

        thread = threading.Thread(target=loop)
        thread.start()
        return thread


def test_nothing_grows_and_no_answer_is_wrong(server: Server, http: httpx.Client) -> None:
    soak = Soak(server)
    assert wait_for(lambda: soak.see(http)["in the engine"] == 0, 5)
    shown = len(server.lines)
    before = soak.see(http)
    began = time.monotonic()
    workers = [
        soak.worker(work, seed)
        for seed, work in enumerate([soak.ask] * 6 + [soak.leave] * 2 + [soak.attack])
    ]
    series: list[tuple[float, dict[str, float]]] = []
    while (since := time.monotonic() - began) < SECONDS:
        time.sleep(1)
        series.append((since, soak.see(http)))
        if len(series) % 60 == 0:
            told = ", ".join(f"{name} {value:.0f}" for name, value in series[-1][1].items())
            print(f"{since:.0f} s: {told}; {dict(soak.counts)}", file=sys.stderr)
    soak.is_over.set()
    for worker in workers:
        worker.join(120)

    def is_quiet() -> bool:
        after = soak.see(http)
        return all(
            after[name] <= before[name] + 2 for name in ("open files", "tasks", "in flight")
        ) and not any(after[name] for name in ("in the engine", "running", "waiting"))

    assert wait_for(is_quiet, 5), soak.see(http)
    assert not soak.wrong, soak.wrong[:3]
    assert min(soak.counts[kind] for kind in ("right", "left", "hostile")) > SECONDS / 10, (
        soak.counts
    )
    early, late = (
        statistics.median(
            seen["memory MiB"] for since, seen in series if begin <= since / SECONDS < end
        )
        for begin, end in ((0.1, 0.2), (0.9, 1.0))
    )
    print(
        f"\n{dict(soak.counts)}; MiB {before['memory MiB']:.0f}, {early:.0f}, {late:.0f}",
        file=sys.stderr,
    )
    assert late - early < MOST_GROWTH
    assert "Traceback" not in "".join(server.lines[shown:])
