"""A made-up language model: its next-token log-probabilities follow from a seed and the tokens before."""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Sequence
from functools import cache
from itertools import product

from engine.beam_search import Beam, BeamSearchConfig, TopLogprobs
from generation import TokenLogprob

EOS = 0


class ScriptedModel:
    """`vocabulary` tokens, of which 0 ends the text; `evenness` above 1 makes the tokens more alike."""

    def __init__(self, seed: int, vocabulary: int, evenness: float = 1.0) -> None:
        self.seed = seed
        self.vocabulary = vocabulary
        self.evenness = evenness
        self.logprobs = cache(self._logprobs)

    def _logprobs(self, tokens: tuple[int, ...]) -> list[float]:
        chooser = random.Random(f"{self.seed} {tokens}")
        logits = [chooser.gauss(0, 2 / self.evenness) for _ in range(self.vocabulary)]
        total = math.log(sum(map(math.exp, logits)))
        return [logit - total for logit in logits]

    def likeliest(self, tokens: Sequence[int], count: int) -> TopLogprobs:
        """The `count` likeliest next tokens, as an engine would send them."""
        logprobs = self.logprobs(tuple(tokens))
        return sorted(enumerate(logprobs), key=lambda token: token[1], reverse=True)[:count]

    async def next_tokens(
        self, beams: Sequence[Beam], config: BeamSearchConfig
    ) -> list[TopLogprobs]:
        return [
            self.likeliest(beam.token_ids(), config.num_top_logprobs(beam.length)) for beam in beams
        ]

    async def run(
        self, tokens: list[int], length: int, pause: float = 0.0
    ) -> AsyncGenerator[TokenLogprob, None]:
        """Greedy tokens after `tokens`, `length` of them unless the text ends."""
        tokens = list(tokens)
        for _ in range(length):
            await asyncio.sleep(pause)
            likeliest = self.likeliest(tokens, self.vocabulary)
            tokens.append(likeliest[0][0])
            yield TokenLogprob(*likeliest[0], likeliest)
            if tokens[-1] == EOS:
                return

    def best(self, n: int, max_tokens: int, length_penalty: float) -> list[tuple[list[int], float]]:
        """The `n` best of all texts there are, by trying each."""
        texts = []
        for length in range(1, max_tokens + 1):
            for body in product(range(1, self.vocabulary), repeat=length - 1):
                lasts = range(self.vocabulary) if length == max_tokens else (EOS,)
                texts += [[*body, last] for last in lasts]
        scored = [(text, self.total(text) / len(text) ** length_penalty) for text in texts]
        return sorted(scored, key=lambda text: text[1], reverse=True)[:n]

    def total(self, tokens: Sequence[int]) -> float:
        return sum(self.logprobs(tuple(tokens[:at]))[token] for at, token in enumerate(tokens))
