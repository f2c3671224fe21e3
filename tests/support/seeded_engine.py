"""A fake engine that a request tells by its seed how to answer: for servers in processes of their own."""

from generation import Delta, TokenLogprob
from tests.support.fake_engine import HUNDRED, SCRIPTS, FakeEngine, Script

SLOW = 1
"""A hundred tokens in 2 seconds; a plain reply is there at once."""
LATE = 2
"""Nothing for 2 seconds."""
CHOICES = 3
"""Two choices that take turns."""
SCORED = 4
"""Tokens with log-probabilities."""
BROKEN = 5
"""A failure after two tokens of a stream; a plain reply is a 500."""
LONG = 6
"""A hundred tokens in 25 seconds."""
DYING = 7
"""As SLOW; an engine that can die does so after the first token."""
STEADY = 8
"""A hundred tokens in 6 seconds."""
SEEDS: dict[int | None, tuple[Script, float]] = {
    SLOW: (HUNDRED, 0.02),
    LATE: ([Delta(0, "字", (5,), "stop")], 2.0),
    CHOICES: (SCRIPTS["two choices"], 0.0),
    SCORED: (
        [
            Delta(0, "北", (5,), logprobs=[TokenLogprob(5, -0.5, [(5, -0.5), (6, -1.5)])]),
            Delta(0, "京", (6,), "stop", logprobs=[TokenLogprob(6, -0.25, [(6, -0.25)])]),
        ],
        0.0,
    ),
    LONG: (HUNDRED, 0.25),
    DYING: (HUNDRED, 0.02),
    STEADY: (HUNDRED, 0.06),
    BROKEN: ([*HUNDRED[:2], RuntimeError("broken")], 0.01),
}


def seeded_engine() -> FakeEngine:
    return FakeEngine(by_seed=SEEDS)
