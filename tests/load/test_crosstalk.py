"""Requests of all kinds at once, at temperature 0: each gets what it gets alone."""

import json
import random

import pytest

from tests.support.mixed_requests import answers, asks
from tests.support.server_process import Server

pytestmark = pytest.mark.engine


def test_each_of_64_gets_what_it_gets_alone(server: Server) -> None:
    asked = asks()
    alone = answers(server, asked, 1)
    assert len({json.dumps(texts) for texts in alone}) > 20
    for seed in range(3):
        order = random.Random(seed).sample(range(64), 64)
        together = answers(server, [asked[at] for at in order], 64)
        assert together == [alone[at] for at in order]
