"""Beam search on vLLM: next tokens come from its greedy generations, texts and stop strings from its detokenizer."""

from collections.abc import Callable
from contextlib import aclosing
from typing import cast

from vllm.logprobs import FlatLogprobs
from vllm.outputs import RequestOutput

from engine.answers import to_finish_reason, to_logprobs
from engine.beam_search import Beam, BeamSearch, BeamSearchConfig, beam_search
from engine.detokenizer import AnswerText
from engine.greedy_runs import Generate, GreedyRuns, TokenCallback
from generation import Deltas


async def search_beams(
    config: BeamSearchConfig, new_text: Callable[[], AnswerText], generate: Generate, stream: bool
) -> Deltas:
    """Search for the `config.n` best beams, and yield their deltas; closing the generator ends all greedy runs.

    `new_text` makes the empty text of an answer, which knows the request's stop strings. Raises what `generate` raises.
    """
    hits_stop_string = StopStrings(new_text()) if config.has_stop_strings else None
    beams = BeamSearch(config, hits_stop_string)
    texts = [new_text() for _ in range(config.n)]
    runs = GreedyRuns(generate)
    try:
        async with aclosing(beam_search(beams, runs.next_tokens, texts, stream)) as deltas:
            async for delta in deltas:
                yield delta
    finally:
        await runs.close()


def report_tokens(callback: TokenCallback, num_logprobs: int, output: RequestOutput) -> None:
    """Call back with each token of a greedy run's output, and with the `num_logprobs` likeliest beside it.

    Raises APIError (500) where vLLM has ended the run with an error.
    """
    completion = output.outputs[0]
    to_finish_reason(completion.finish_reason)
    for token in to_logprobs(cast(FlatLogprobs, completion.logprobs), num_logprobs):
        callback(token)


class StopStrings:
    """Tells of each new beam of a search whether its last token completes a stop string.

    A beam's text is its parent's, forked and extended by one token. Only the texts of the last two lengths are kept,
    as all live beams have one length.
    """

    def __init__(self, empty_text: AnswerText) -> None:
        self._empty_text = empty_text
        self._length = 0
        """Of the beams in `_texts`."""
        self._texts: dict[Beam | None, AnswerText] = {}
        self._parents_texts: dict[Beam | None, AnswerText] = {}

    def __call__(self, beam: Beam) -> bool:
        if beam.length > self._length:
            self._length = beam.length
            self._parents_texts = self._texts
            self._texts = {}
        text = self._parents_texts.get(beam.parent, self._empty_text).fork()
        self._texts[beam] = text
        return text.update([beam.token.token_id]) is not None
