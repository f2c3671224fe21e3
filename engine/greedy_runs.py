"""Greedy generations of the engine that compute the next tokens of a beam search before it asks for them.

A beam search needs the top log-probabilities after each live beam. A greedy generation that starts after a beam gives
them for this beam and for all that extend it by its likeliest tokens, as one request instead of one for each step. So
each live beam follows a run. Only a beam that takes another token than its parent's run needs a new one, and a run that
no live beam follows any more is cancelled. Knows nothing about models and engines.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from engine.beam_search import Beam, TopLogprobs
from generation import TokenLogprob, end

TokenCallback = Callable[[TokenLogprob], None]
Generate = Callable[[list[int], TokenCallback], Awaitable[None]]
"""Generates greedily after the prompt and these token ids of an answer.

Calls back with each token, whose `top` must suffice for a step of the search; returns when the generation has ended.
"""


class GreedyRun:
    """One greedy generation after `token_ids`; sets `progress` whenever it brings a token and when it ends."""

    def __init__(self, generate: Generate, token_ids: list[int], progress: asyncio.Event) -> None:
        self.tokens: list[TokenLogprob] = []
        """Generated so far."""
        self._progress = progress
        self.task = asyncio.ensure_future(generate(token_ids, self._append))
        self.task.add_done_callback(lambda _: progress.set())

    def _append(self, token: TokenLogprob) -> None:
        self.tokens.append(token)
        self._progress.set()


class Position(NamedTuple):
    """Where a beam stands in the run that it follows: `run.tokens[offset]` comes after the beam, now or later."""

    run: GreedyRun
    offset: int


class GreedyRuns:
    """The greedy runs of one search; `next_tokens` starts and cancels them, `close` ends them all."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate
        self._positions: dict[Beam, Position] = {}
        """Of the live beams."""
        self._tasks: set[asyncio.Future[None]] = set()
        """Of all runs that were ever started."""
        self._progress = asyncio.Event()

    async def next_tokens(self, beams: Sequence[Beam]) -> list[TopLogprobs]:
        """Return the top log-probabilities after each live beam, in their order.

        The beams are children of those of the last call, or the empty beam. Raises what a run raises that they follow,
        and RuntimeError if a run ends without a token.
        """
        positions = {}
        for beam in beams:
            position = self._position_in_parents_run(beam)
            if position is not None:
                positions[beam] = position
        followed = {position.run for position in positions.values()}
        for position in self._positions.values():
            if position.run not in followed:
                position.run.task.cancel()
        for beam in beams:
            if beam not in positions:
                positions[beam] = self._start_run(beam)
        self._positions = positions
        return [await self._top_logprobs(beam) for beam in beams]

    async def close(self) -> None:
        """Cancel all runs, and wait until they have ended."""
        await end(self._tasks)

    def _position_in_parents_run(self, beam: Beam) -> Position | None:
        """Return where the parent's run goes on after the beam; None if that run has taken another token."""
        if beam.parent is None or beam.parent not in self._positions:
            return None
        run, offset = self._positions[beam.parent]
        if run.tokens[offset].token_id != beam.token.token_id:
            return None
        return Position(run, offset + 1)

    def _start_run(self, beam: Beam) -> Position:
        run = GreedyRun(self._generate, beam.token_ids(), self._progress)
        self._tasks.add(run.task)
        return Position(run, 0)

    async def _top_logprobs(self, beam: Beam) -> TopLogprobs:
        """Wait for the token after the beam; where the run has ended before that token, a new run generates it."""
        run, offset = self._positions[beam]
        while len(run.tokens) <= offset:
            if run.task.done():
                # Raises what has ended the run, if it has failed.
                run.task.result()
                if not run.tokens:
                    raise RuntimeError("The engine ended a run without a token.")
                self._positions[beam] = self._start_run(beam)
                run, offset = self._positions[beam]
            self._progress.clear()
            await self._progress.wait()
        return run.tokens[offset].top
