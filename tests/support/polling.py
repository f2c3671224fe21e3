"""Conditions that come to hold in a while."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Whether it has come to hold in that time."""
    deadline = time.monotonic() + seconds
    while not (holds := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds
