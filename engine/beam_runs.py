"""A beam search whose next tokens come from greedy runs of vLLM, and whose texts are spelt by its detokenizer."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import cast

from vllm.logprobs import FlatLogprobs
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import TokenizerLike

from engine.answers import to_finish_reason, to_logprobs
from engine.beam_search import Beam, BeamSearch, Rules, beam_search
from engine.detokenizer import AnswerText
from engine.lookahead import Lookahead
from generation import Deltas, Prompt, TokenLogprob

Run = Callable[[list[int], Callable[[TokenLogprob], None]], Awaitable[None]]
"""Generates greedily after these tokens, and hands on each token with the likeliest ones."""


class BeamTexts:
    """Makes the texts of one search; `params` tell its stop strings and how they are spelt."""

    def __init__(self, tokenizer: TokenizerLike, prompt: Prompt, params: SamplingParams) -> None:
        self._tokenizer, self._prompt, self._params = tokenizer, prompt, params
        self.has_stop_strings = bool(params.stop)

    def new(self) -> AnswerText:
        """A text without tokens."""
        return AnswerText(self._tokenizer, self._prompt, self._params)


async def search(rules: Rules, texts: BeamTexts, run: Run, stream: bool) -> Deltas:
    """The deltas of the `rules.n` best beams; to close it ends all runs."""
    hits_stop_string = StopStrings(texts.new()) if texts.has_stop_strings else None
    beams = BeamSearch(rules, hits_stop_string)
    lookahead = Lookahead(run)
    try:
        choices = [texts.new() for _ in range(rules.n)]
        found = beam_search(beams, lookahead.next_tokens, choices, stream)
        async with aclosing(found) as deltas:
            async for delta in deltas:
                yield delta
    finally:
        await lookahead.close()


def read_run(take: Callable[[TokenLogprob], None], count: int, output: RequestOutput) -> None:
    """Hand on the tokens of a run's output, each with the `count` likeliest."""
    completion = output.outputs[0]
    to_finish_reason(completion.finish_reason)
    for token in to_logprobs(cast(FlatLogprobs, completion.logprobs), count):
        take(token)


class StopStrings:
    """Whether a stop string ends with the last token of a beam, by a text that is forked where beams part."""

    def __init__(self, begun: AnswerText) -> None:
        self._begun = begun
        self._length = 0
        self._parents: dict[Beam | None, AnswerText] = {}
        self._read: dict[Beam | None, AnswerText] = {}

    def __call__(self, beam: Beam) -> bool:
        if beam.length > self._length:  # a new step, whose beams go on from those of the last one
            self._length, self._parents, self._read = beam.length, self._read, {}
        fork = self._read[beam] = self._parents.get(beam.parent, self._begun).fork()
        return fork.update([beam.token.token_id]) is not None
