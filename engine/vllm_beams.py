"""Beam search on vLLM: next tokens come from its greedy generations, texts and stop strings from its detokenizer."""

import time
from collections.abc import Callable
from contextlib import aclosing
from typing import cast

from vllm.logprobs import FlatLogprobs
from vllm.outputs import RequestOutput

from engine.answers import to_finish_reason, to_logprobs
from engine.beam_search import Beam, BeamSearch, BeamSearchConfig, beam_search
from engine.detokenizer import AnswerText
from engine.greedy_runs import Generate, GreedyRuns, TokenCallback
from generation import BeamsDelta, BeamState, Deltas

SHOWN_EVERY = 1 / 7
"""Seconds between two looks at the beams; with the one at the end they are at most 8 in any second."""


async def search_beams(
    config: BeamSearchConfig,
    new_text: Callable[[], AnswerText],
    generate: Generate,
    stream: bool,
    include_beams: bool = False,
) -> Deltas:
    """Search for the `config.n` best beams, and yield their deltas; closing the generator ends all greedy runs.

    `new_text` makes the empty text of an answer, which knows the request's stop strings. With `include_beams` there are
    `BeamsDelta`s among the deltas. Raises what `generate` raises.
    """
    hits_stop_string = StopStrings(new_text()) if config.has_stop_strings else None
    beams = BeamSearch(config, hits_stop_string)
    texts = [new_text() for _ in range(config.n)]
    show = BeamsView(beams, new_text()) if include_beams else None
    runs = GreedyRuns(generate)
    try:
        async with aclosing(beam_search(beams, runs.next_tokens, texts, stream, show)) as deltas:
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


class BeamsView:
    """Shows the beams of a search, several times a second and when it is over.

    A beam's text is that of its ancestor when shown last, forked and extended, so that no token is detokenized at each
    look anew.
    """

    def __init__(self, search: BeamSearch, empty_text: AnswerText) -> None:
        self._search = search
        self._texts = {search.live[0]: empty_text}
        """Of the beams that were shown last, before them of the empty beam."""
        self._next_look = 0.0

    def __call__(self) -> BeamsDelta | None:
        """Return the beams as they stand, or None where they have been shown less than `SHOWN_EVERY` ago."""
        search, now = self._search, time.monotonic()
        if now < self._next_look and not search.is_over:
            return None
        self._next_look = now + SHOWN_EVERY
        self._texts = {beam: self._text(beam) for beam in (*search.live, *search.finished)}
        states = [
            BeamState(
                text.settled(beam.finish_reason is not None), search.score(beam), beam.finish_reason
            )
            for beam, text in self._texts.items()
        ]
        return BeamsDelta(0, "", (), beams=states)

    def _text(self, beam: Beam) -> AnswerText:
        """The text of a beam, of which it or one of its ancestors was among those that were shown last."""
        shown = beam
        while shown not in self._texts:
            assert shown.parent is not None
            shown = shown.parent
        text = self._texts[shown]
        if token_ids := [token.token_id for token in beam.tokens(since=shown)]:
            text = text.fork()
            text.update(token_ids, token_ids[-1] in self._search.config.stop_token_ids)
        return text
