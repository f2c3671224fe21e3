"""Beam search over next-token log-probabilities, with the results of transformers' `generate(num_beams=…)`.

Scores, length penalty, early stopping and the order of results are those of transformers 5.19
(`generation/utils.py`, `GenerationMixin._beam_search`), without sampling. A search ends earlier than there once no
further step can change what is returned, and streams the tokens of a result as soon as they are certain.

Knows nothing about models and engines: `beam_search` asks a function for the likeliest next tokens of its live beams.
"""

import heapq
import math
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import itemgetter
from typing import Literal, Protocol

from generation import Delta, Deltas, FinishReason, TokenLogprob

TopLogprobs = Sequence[tuple[int, float]]
"""The likeliest next tokens after a beam, the likeliest first: token ids and log-probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearchConfig:
    """The parameters of a search, under the names of the API's fields or of transformers' `GenerationConfig`."""

    num_beams: int
    n: int
    """Beams that are returned, at most `num_beams`."""
    max_tokens: int
    """Of an answer, so without a first token of `lead_ids`."""
    min_tokens: int = 0
    """Of an answer; before, no stop token is generated."""
    length_penalty: float = 1.0
    early_stopping: Literal[True, False, "never"] = False
    stop_token_ids: frozenset[int] = frozenset()
    repetition_penalty: float = 1.0
    """At least 1; penalises tokens of `prompt_ids` and those that the beam has already."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """At most 0 each; added to log-probabilities, as transformers' `sequence_bias` is."""
    prompt_ids: frozenset[int] = frozenset()
    """Needed with a `repetition_penalty` only."""
    lead_ids: frozenset[int] = frozenset()
    """`Prompt.lead_ids`: if a beam's first token is one of these, it is scored but no part of the answer."""
    context_left: int = sys.maxsize
    """Tokens that the model's context has room for after the prompt, a first one of `lead_ids` included."""
    logprobs: int | None = None
    """How many of the likeliest tokens are reported beside each token; None: no log-probabilities are reported."""
    has_stop_strings: bool = False
    """Any token may finish a beam, not only one of `stop_token_ids`."""

    @property
    def max_length(self) -> int:
        """The most tokens that a beam can have, a first one of `lead_ids` included."""
        max_tokens = self.max_tokens + 1 if self.lead_ids else self.max_tokens
        return min(max_tokens, self.context_left)

    @property
    def num_candidates(self) -> int:
        """How many continuations of all beams together a step looks at (transformers' `beams_to_keep`).

        Where only stop tokens finish beams, at least `num_beams` of them remain live.
        """
        return self.num_beams * max(2, 1 + len(self.stop_token_ids))

    def num_top_logprobs(self, length: int) -> int:
        """Count the next tokens that a step has to be given for each beam of at most `length` tokens.

        The likeliest by the model may finish the beam, be suppressed, biased or penalised. So as many of them as there
        can be are needed on top of those that may go on.
        """
        candidates = self.num_candidates if self.has_stop_strings else self.num_beams
        displaced = len(self.stop_token_ids) + len(self.logit_bias)
        if self.repetition_penalty != 1:
            displaced += len(self.prompt_ids) + length
        return max(self.logprobs or 0, candidates + displaced)


@dataclass(slots=True, eq=False)
class Beam:
    """A hypothesis: its parent, extended by one token. Beams with a common prefix share the beams that make it up."""

    parent: "Beam | None" = None
    """None for the empty beam, from which a search starts."""
    token: TokenLogprob = field(default_factory=lambda: TokenLogprob(-1, 0.0, ()))
    """The last token, with the model's own log-probability; meaningless in the empty beam."""
    cum_logprob: float = 0.0
    """The sum of its tokens' log-probabilities, with bias and penalty."""
    length: int = 0
    """Tokens, the first included even if it is one of `BeamSearchConfig.lead_ids`."""
    has_lead: bool = False
    """Whether the first token is one of `BeamSearchConfig.lead_ids`."""
    finish_reason: FinishReason | None = None

    @property
    def answer_length(self) -> int:
        return self.length - 1 if self.has_lead else self.length

    def tokens(self, since: "Beam | None" = None) -> list[TokenLogprob]:
        """List the tokens after those of `since`, an ancestor; without an ancestor, all."""
        tokens: list[TokenLogprob] = []
        beam = self
        while beam is not since and beam.parent is not None:
            tokens.append(beam.token)
            beam = beam.parent
        return tokens[::-1]

    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens()]


class BeamSearch:
    """The live and the finished beams of one prompt.

    `hits_stop_string` tells of a new beam whether its last token completes a stop string; it is asked at most once for
    each beam, and for a parent before its children.
    """

    def __init__(
        self, config: BeamSearchConfig, hits_stop_string: Callable[[Beam], bool] | None = None
    ) -> None:
        self.config = config
        self.live = [Beam()]
        """Beams that the next step extends, all of one length; the one with the highest `cum_logprob` first."""
        self.finished: list[Beam] = []
        """At most `num_beams`, the one with the highest score first; at the end the first `n` are the results."""
        self._hits_stop_string = hits_stop_string

    def score(self, beam: Beam) -> float:
        """Return the log-probability of a beam, normalised by its length, by which finished beams are ranked."""
        return float(beam.cum_logprob / beam.length**self.config.length_penalty)

    def advance(self, top_logprobs: Sequence[TopLogprobs]) -> None:
        """Extend the live beams by one token each.

        `top_logprobs` are those after each live beam, in the same order: `config.num_top_logprobs` tokens of each, or
        more, or the whole vocabulary.
        """
        continuations = []
        for parent, next_tokens in zip(self.live, top_logprobs, strict=True):
            for token_id, logprob, processed in self._process(parent, next_tokens):
                cum_logprob = parent.cum_logprob + processed
                continuations.append((cum_logprob, parent, token_id, logprob, next_tokens))
        candidates = heapq.nlargest(self.config.num_candidates, continuations, key=itemgetter(0))
        num_beams = self.config.num_beams
        live: list[Beam] = []
        finished = self.finished.copy()
        for rank, candidate in enumerate(candidates):
            if rank >= num_beams and len(live) == num_beams:
                break
            beam = self._extend(*candidate)
            if beam.finish_reason is None:
                live.append(beam)
            # As in transformers: a candidate below the best `num_beams` can go on, but not finish.
            elif rank < num_beams:
                finished.append(beam)
        self.live = live[:num_beams]
        self.finished = sorted(finished, key=self.score, reverse=True)[:num_beams]

    @property
    def is_over(self) -> bool:
        """Whether further steps cannot change the results, or `early_stopping` says that there shall be none."""
        return not self.live or self._are_results_final() or self._stops_early()

    def _are_results_final(self) -> bool:
        """Whether all results are finished and no live beam can still get ahead of the last."""
        if len(self.finished) < self.config.n:
            return False
        last = self.finished[self.config.n - 1]
        return self._max_score(self.live[0]) <= self.score(last)

    def _stops_early(self) -> bool:
        """Whether transformers would end the search (`GenerationMixin._check_early_stop_heuristic`)."""
        config = self.config
        if len(self.finished) < config.num_beams:
            return False
        # One beam is greedy search, which ends as soon as its beam is finished.
        if config.early_stopping is True or config.num_beams == 1:
            return True
        if config.early_stopping == "never":
            return False
        return self.score(self.live[0]) <= self.score(self.finished[-1])

    def stable_prefix(self, rank: int) -> Beam:
        """Return the longest beam of which it is certain that the result of this rank begins with it.

        That result will be one of the beams that are finished with this rank or a better one, or it will descend from
        a live beam that can still get ahead of them: the prefix is what all these have in common, at least the empty
        beam. If no live beam can, it is the finished beam of this rank. Some beam must be live.
        """
        finished = self.finished[: rank + 1]
        score_to_beat = self.score(finished[rank]) if len(finished) > rank else -math.inf
        rivals = [beam for beam in self.live if self._max_score(beam) > score_to_beat]
        if not rivals:
            return finished[rank]
        return reduce(_common_prefix, finished + rivals)

    def _max_score(self, beam: Beam) -> float:
        """Return an upper bound of the scores of a beam's descendants, which no log-probability raises."""
        length = self.config.max_length if self.config.length_penalty > 0 else beam.length
        return float(beam.cum_logprob / length**self.config.length_penalty)

    def _process(self, beam: Beam, next_tokens: TopLogprobs) -> list[tuple[int, float, float]]:
        """Apply `min_tokens`, `logit_bias` and `repetition_penalty` to the next tokens of a beam.

        Returns token ids, the model's log-probabilities, and the processed ones, in the order of transformers' logits
        processors: the bias first, then the penalty.
        """
        config = self.config
        penalty = config.repetition_penalty
        suppressed: frozenset[int] = frozenset()
        if beam.answer_length < config.min_tokens:
            suppressed = config.stop_token_ids
        penalised: frozenset[int] = frozenset()
        if penalty != 1:
            penalised = config.prompt_ids.union(beam.token_ids())
        processed = []
        for token_id, logprob in next_tokens:
            if token_id not in suppressed:
                score = logprob + config.logit_bias.get(token_id, 0.0)
                if token_id in penalised:
                    score *= penalty
                processed.append((token_id, logprob, score))
        return processed

    def _extend(
        self, cum_logprob: float, parent: Beam, token_id: int, logprob: float, top: TopLogprobs
    ) -> Beam:
        """Make the beam that follows `parent` with the token, finished if the token or a limit finishes it."""
        config = self.config
        reported = () if config.logprobs is None else top[: config.logprobs]
        token = TokenLogprob(token_id, logprob, reported)
        has_lead = token_id in config.lead_ids if parent.parent is None else parent.has_lead
        beam = Beam(parent, token, cum_logprob, parent.length + 1, has_lead)
        if self._is_stopped(beam):
            beam.finish_reason = "stop"
        elif beam.answer_length >= config.max_tokens or beam.length >= config.context_left:
            beam.finish_reason = "length"
        return beam

    def _is_stopped(self, beam: Beam) -> bool:
        if beam.token.token_id in self.config.stop_token_ids:
            return True
        return self._hits_stop_string is not None and self._hits_stop_string(beam)


class ChoiceText(Protocol):
    """The text of one choice, detokenized incrementally, without the prompt's `answer_lead`."""

    cut: str
    """The `answer_lead` once it has been cut off the text, until then empty."""

    def add(self, token_ids: list[int], is_last: bool, ends_with_stop_token: bool) -> str:
        """Add the next tokens; returns the text that they add.

        Text that may be the beginning of a stop string is held back, unless these tokens are the last.
        """


NextTokens = Callable[[Sequence[Beam]], Awaitable[Sequence[TopLogprobs]]]
"""Gives the top log-probabilities after each of the live beams, in their order, as `BeamSearch.advance` takes them."""


Show = Callable[[], Delta | None]
"""Gives a delta that shows the beams as they stand, or None if they need not be shown now."""


async def beam_search(
    search: BeamSearch,
    next_tokens: NextTokens,
    texts: Sequence[ChoiceText],
    stream: bool,
    show: Show | None = None,
) -> Deltas:
    """Run a search; yields the deltas of its results, of which the best is choice 0.

    There is one of the empty `texts` for each of the `n` results. With `stream`, tokens are sent as soon as their
    choice is certain to have them, and the rest at the end; without it, each choice is one delta at the end. `show` is
    asked after each step.
    """
    choices = _ChoiceDeltas(search, texts)
    while not search.is_over:
        search.advance(await next_tokens(search.live))
        if stream:
            for delta in choices.stable_deltas():
                yield delta
        if show is not None and (shown := show()) is not None:
            yield shown
    for rank, beam in enumerate(search.finished[: len(texts)]):
        yield choices.to_delta(rank, beam)


class _ChoiceDeltas:
    """Makes the deltas of a search's results: remembers of each choice which tokens have been sent."""

    def __init__(self, search: BeamSearch, texts: Sequence[ChoiceText]) -> None:
        self._search = search
        self._texts = texts
        self._sent = [search.live[0]] * len(texts)
        """Of each choice the beam whose tokens have been sent."""
        self._next_check = 1
        """Length of the live beams from which on `stable_deltas` looks for stable prefixes again."""

    def to_delta(self, rank: int, beam: Beam) -> Delta:
        """Return the tokens and the text that `beam` has beyond what has been sent of this choice."""
        config = self._search.config
        sent = self._sent[rank]
        self._sent[rank] = beam
        tokens = beam.tokens(since=sent)
        token_ids = [token.token_id for token in tokens]
        ends_with_stop_token = bool(token_ids) and token_ids[-1] in config.stop_token_ids
        is_last = beam.finish_reason is not None
        text = self._texts[rank].add(token_ids, is_last, ends_with_stop_token)
        delta = Delta(rank, text, token_ids, beam.finish_reason)
        is_first = sent.parent is None
        if is_first and beam.has_lead:
            tokens = tokens[1:]
            delta.token_ids = token_ids[1:]
        elif is_first:
            delta.cut = self._texts[rank].cut
        if config.logprobs is not None:
            delta.logprobs = tokens
        return delta

    def stable_deltas(self) -> Iterator[Delta]:
        """Yield what has become certain of each choice since the last check.

        A check walks back over all tokens that are not yet certain: the more there are, the more steps it skips.
        """
        length = self._search.live[0].length if self._search.live else 0
        if length < self._next_check:
            return
        if length == 1:
            # The first text may be far off: this tells the stream that the engine has begun.
            yield Delta(0, "", ())
        for rank, sent in enumerate(self._sent):
            beam = self._search.stable_prefix(rank)
            # A finish reason is sent when the search is over, and the token that brings it with it.
            if beam.finish_reason is not None and beam.parent is not None:
                beam = beam.parent
            if beam is not sent:
                yield self.to_delta(rank, beam)
        uncertain = length - min(beam.length for beam in self._sent)
        self._next_check = length + 1 + uncertain // 16


def _common_prefix(first: Beam, second: Beam) -> Beam:
    """Return the longest beam that both are or descend from."""
    while first is not second:
        if first.length >= second.length and first.parent is not None:
            first = first.parent
        elif second.parent is not None:
            second = second.parent
    return first
