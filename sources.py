"""Sources of deltas made of others: changed, split or merged ones; and what needs no engine, or asks it more than once.

The endpoints put them between the engine and their replies.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from generation import Decoding, Delta, Engine, Item, Prompt, Sink, Source, TokenLogprob, end


def changed(source: Source[Item], change: Callable[[Item], Item]) -> Source[Item]:
    """The same items, each changed on its way."""
    return lambda sink: source(lambda items: sink([change(item) for item in items]))


def split(source: Source[Item], parts: Callable[[Item], Sequence[Item]]) -> Source[Item]:
    """The parts of each item, in place of it."""
    return lambda sink: source(lambda items: sink([part for item in items for part in parts(item)]))


def merge(sources: Sequence[Source[Delta]], n: int) -> Source[Delta]:
    """The deltas of several prompts as they come, indices offset by `n` for each; the first failure ends them all."""

    def shift(delta: Delta, offset: int) -> Delta:
        return replace(delta, index=delta.index + offset)

    async def merged(sink: "Sink[Delta]") -> None:
        shifted = [
            changed(source, partial(shift, offset=number * n))
            for number, source in enumerate(sources)
        ]
        tasks = [asyncio.ensure_future(source(sink)) for source in shifted]
        try:
            await asyncio.gather(*tasks)
        finally:
            await end(tasks)

    return merged


async def empty_choices(n: int, sink: Sink[Delta]) -> None:
    """What `max_tokens: 0` gives: choices that end before their first token."""
    if drain := sink([Delta(index, "", (), "length") for index in range(n)]):
        await drain()


async def score_prompts(
    engine: Engine, prompts: Sequence[Prompt], decoding: Decoding, request_id: str
) -> list[list[TokenLogprob]]:
    """The log-probabilities of the prompts' tokens, by prompt; cancelled, it ends the engine's work on them."""
    scores = [
        engine.score(prompt, decoding, f"{request_id}-{number}-prompt")
        for number, prompt in enumerate(prompts)
    ]
    tasks = [asyncio.create_task(score) for score in scores]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await end(tasks)
