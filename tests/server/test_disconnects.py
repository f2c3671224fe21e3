"""Clients that leave the real engine: it is free at once, whatever it did for them."""

import time
from typing import Any

import httpx
import pytest

from tests.support.bodies import LONG, MODES
from tests.support.polling import wait_for
from tests.support.questions import MODEL
from tests.support.replies import numbers
from tests.support.server_process import BATCH, ROOM, Server, connect
from tests.support.wire import posted


def in_engine(http: httpx.Client) -> list[float]:
    """Unfinished, running and waiting requests."""
    told = numbers(http)
    return [
        told[name]
        for name in (
            "engine_requests_unfinished",
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
        )
    ]


@pytest.mark.engine
@pytest.mark.parametrize("fields", MODES.values(), ids=MODES)
def test_leaving_frees_the_engine_within_a_second(
    server: Server, http: httpx.Client, fields: dict[str, Any]
) -> None:
    assert wait_for(lambda: in_engine(http) == [0, 0, 0], 5)
    shown = len(server.lines)
    with connect(server) as connection:
        connection.sendall(posted("/v1/completions", {"prompt": "讲一个故事", **fields}))
        assert wait_for(lambda: all(in_engine(http)[:2]), 20)
        time.sleep(0.3)
        assert all(in_engine(http)[:2])
    assert wait_for(lambda: in_engine(http) == [0, 0, 0], 1)
    all_room = {"prompt": "a", "n": ROOM, "max_tokens": 1}
    assert http.post("/v1/completions", json=all_room).status_code == 200
    assert "Traceback" not in "".join(server.lines[shown:])


@pytest.mark.engine
@pytest.mark.parametrize("stream", [False, True])
def test_leaving_while_others_are_served_costs_nothing(
    server: Server, http: httpx.Client, stream: bool
) -> None:
    """A client whose request waits for room in the batch takes it away; those before it go on."""
    before = numbers(http)[f'generated_tokens_total{{model="{MODEL}"}}']
    with connect(server) as running:
        running.sendall(
            posted("/v1/completions", {**LONG, "prompt": "讲一个故事", "n": BATCH, "stream": True})
        )
        assert wait_for(lambda: in_engine(http) == [BATCH, BATCH, 0], 20)
        with connect(server) as waiting:
            waiting.sendall(posted("/v1/completions", {**LONG, "prompt": "你好", "stream": stream}))
            assert wait_for(lambda: in_engine(http) == [BATCH + 1, BATCH, 1], 5)
        assert wait_for(lambda: in_engine(http) == [BATCH, BATCH, 0], 1)
        assert numbers(http)[f'generated_tokens_total{{model="{MODEL}"}}'] == before
    assert wait_for(lambda: in_engine(http) == [0, 0, 0], 1)
