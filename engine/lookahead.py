"""Greedy runs that stay ahead of a beam search: its next tokens, mostly before it asks for them.

A beam that goes on with its likeliest token needs nothing new: the run it came from has gone on in the same way. Only
where a beam takes another token a new run begins, and a run that no live beam follows any more ends. So a search costs
the engine a few long requests, not one for each beam and step. Knows nothing about models and engines.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from engine.beam_search import Beam, Likeliest
from generation import TokenLogprob, end

Start = Callable[[list[int], Callable[[TokenLogprob], None]], Awaitable[None]]
"""Generates greedily after these tokens: hands on each token, with the likeliest ones that it was taken from."""


class Run:
    """One greedy generation, as far as it has come; `news` is set when it goes on or ends."""

    def __init__(self, start: Start, tokens: list[int], news: asyncio.Event) -> None:
        self.steps: list[TokenLogprob] = []
        self._news = news
        self.task = asyncio.create_task(self._follow(start, tokens))

    async def _follow(self, start: Start, tokens: list[int]) -> None:
        try:
            await start(tokens, self._take)
        finally:
            self._news.set()

    def _take(self, step: TokenLogprob) -> None:
        self.steps.append(step)
        self._news.set()


class Lookahead:
    """The runs of one search; `close` ends them all."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._places: dict[Beam, tuple[Run, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    async def next_tokens(self, beams: Sequence[Beam]) -> list[Likeliest]:
        """The likeliest next tokens of each live beam, children of those of the last call."""
        followed = {beam: place for beam in beams if (place := self._place_after(beam))}
        kept = {run for run, _ in followed.values()}
        for run, _ in self._places.values():
            if run not in kept:
                run.task.cancel()
        self._places = {beam: followed.get(beam) or self._launch(beam) for beam in beams}
        return [await self._arrival(beam) for beam in beams]

    async def close(self) -> None:
        await end(self._tasks)

    def _place_after(self, beam: Beam) -> tuple[Run, int] | None:
        """Where the parent's run has what follows the beam, if that run took the same token."""
        run, position = self._places.get(beam.parent, (None, 0)) if beam.parent else (None, 0)
        if run is None or run.steps[position].token_id != beam.token.token_id:
            return None
        return run, position + 1

    def _launch(self, beam: Beam) -> tuple[Run, int]:
        run = Run(self._start, beam.token_ids(), self._news)
        self._tasks.add(run.task)
        return run, 0

    async def _arrival(self, beam: Beam) -> Likeliest:
        run, position = self._places[beam]
        while len(run.steps) <= position:
            if run.task.done():
                run.task.result()
                if not run.steps:
                    raise RuntimeError("The engine ended a run without a token.")
                run, position = self._places[beam] = self._launch(beam)
            self._news.clear()
            await self._news.wait()
        return run.steps[position].top
