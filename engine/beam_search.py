"""Beam search over next-token log-probabilities, with the results of transformers.

Knows nothing about models and engines: it asks for the likeliest next tokens of its live beams and yields deltas.
Scores, length penalty, early stopping and the order of results are those of transformers 5.19
(`GenerationMixin._beam_search`). It ends earlier where that cannot change what is returned, and it settles text on the
way. Does not sample.
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

Likeliest = Sequence[tuple[int, float]]
"""Next tokens with their log-probabilities, the likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What decides a search; the names are those of transformers' `GenerationConfig` and of the API."""

    width: int
    n: int
    max_tokens: int
    min_tokens: int = 0
    length_penalty: float = 1.0
    early_stopping: Literal[True, False, "never"] = False
    stop_token_ids: frozenset[int] = frozenset()
    repetition_penalty: float = 1.0
    """At least 1: it lowers tokens of `prompt_ids` and of the beam itself."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """At most 0 each, added to log-probabilities as transformers' `sequence_bias` is."""
    prompt_ids: frozenset[int] = frozenset()
    lead_ids: frozenset[int] = frozenset()
    """Tokens of which a first one is no part of the answer: it is scored, but counts in no limit."""
    room: int = sys.maxsize
    """Tokens that fit, whatever counts."""
    logprobs: int | None = None
    """Alternatives to report for each token; None: no log-probabilities at all."""
    has_stop_strings: bool = False
    """Any token may end a beam, not only one of `stop_token_ids`."""

    @property
    def max_length(self) -> int:
        """Tokens that a beam may have."""
        return min(self.max_tokens + bool(self.lead_ids), self.room)

    @property
    def candidates(self) -> int:
        """How many continuations of all beams are looked at: enough for `width` of them to go on."""
        return self.width * max(2, 1 + len(self.stop_token_ids))

    def needed(self, length: int) -> int:
        """Likeliest tokens of a beam that a step needs, at a length of at most `length`.

        `width` of them can go on, and all that end, are barred or lowered may stand before those.
        """
        lowered = len(self.prompt_ids) + length if self.repetition_penalty != 1 else 0
        looked_at = self.candidates if self.has_stop_strings else self.width
        return max(
            self.logprobs or 0,
            looked_at + len(self.stop_token_ids) + len(self.logit_bias) + lowered,
        )


@dataclass(slots=True, eq=False)
class Beam:
    """A hypothesis: one token more than its parent. Beams that begin alike share their beginning."""

    parent: "Beam | None" = None
    token: TokenLogprob = field(default_factory=lambda: TokenLogprob(-1, 0.0, ()))
    total: float = 0.0
    """Log-probabilities of all its tokens, summed, as penalised."""
    length: int = 0
    has_lead: bool = False
    """Its first token is one of `Rules.lead_ids`."""
    finish_reason: FinishReason | None = None

    @property
    def answer_length(self) -> int:
        return self.length - self.has_lead

    def tokens(self, since: "Beam | None" = None) -> list[TokenLogprob]:
        """The tokens after `since`, an ancestor; without it all."""
        tokens: list[TokenLogprob] = []
        beam = self
        while beam is not since and beam.parent is not None:
            tokens.append(beam.token)
            beam = beam.parent
        return tokens[::-1]

    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens()]


class BeamSearch:
    """The live and the finished beams of one prompt, step by step."""

    def __init__(
        self, rules: Rules, hits_stop_string: Callable[[Beam], bool] | None = None
    ) -> None:
        self.rules = rules
        self.live = [Beam()]
        """The likeliest first."""
        self.finished: list[Beam] = []
        """At most `width`, the best first: the first `n` of them are the results."""
        self._hits_stop_string = hits_stop_string

    def score(self, beam: Beam) -> float:
        return float(beam.total / beam.length**self.rules.length_penalty)

    def advance(self, likeliest: Sequence[Likeliest]) -> None:
        """One step: `likeliest` holds at least `rules.needed` next tokens of each live beam."""
        width = self.rules.width
        continuations = [
            (beam.total + score, beam, token_id, logprob, tokens)
            for beam, tokens in zip(self.live, likeliest, strict=True)
            for token_id, logprob, score in self._scored(beam, tokens)
        ]
        live: list[Beam] = []
        ended: list[Beam] = []
        for rank, best in enumerate(
            heapq.nlargest(self.rules.candidates, continuations, key=itemgetter(0))
        ):
            if rank >= width and len(live) == width:
                break
            beam = self._continued(*best)
            if beam.finish_reason is None:
                live.append(beam)
            elif rank < width:
                ended.append(beam)
        self.live = live[:width]
        self.finished = sorted([*self.finished, *ended], key=self.score, reverse=True)[:width]

    @property
    def is_over(self) -> bool:
        """No live beam can change the results, or `early_stopping` gives them up."""
        if not self.live:
            return True
        rules, finished = self.rules, self.finished
        if len(finished) >= rules.n and self._best_possible(self.live[0]) <= self.score(
            finished[rules.n - 1]
        ):
            return True
        if len(finished) < rules.width:
            return False
        # One beam is greedy search, which ends with its first end.
        if rules.early_stopping is True or rules.width == 1:
            return True
        return rules.early_stopping is False and self.score(self.live[0]) <= self.score(
            finished[-1]
        )

    def settled(self, rank: int) -> Beam:
        """What all beams share that can still come out at `rank`, while some are live: at least the empty beginning."""
        finished = self.finished[: rank + 1]
        worst = self.score(finished[rank]) if len(finished) > rank else -math.inf
        live = [beam for beam in self.live if self._best_possible(beam) > worst]
        return reduce(_shared, [*finished, *live]) if live else finished[rank]

    def _best_possible(self, beam: Beam) -> float:
        """No score that a continuation can reach is above this one: log-probabilities only add up to less."""
        length = self.rules.max_length if self.rules.length_penalty > 0 else beam.length
        return float(beam.total / length**self.rules.length_penalty)

    def _scored(self, beam: Beam, tokens: Likeliest) -> list[tuple[int, float, float]]:
        """Token ids, their log-probabilities, and those as penalised, in transformers' way and order."""
        rules = self.rules
        barred = rules.stop_token_ids if beam.answer_length < rules.min_tokens else frozenset()
        lowered = (
            rules.prompt_ids.union(beam.token_ids()) if rules.repetition_penalty != 1 else barred
        )
        scored = []
        for token_id, logprob in tokens:
            if token_id not in barred:
                score = logprob + rules.logit_bias.get(token_id, 0.0)
                scored.append(
                    (
                        token_id,
                        logprob,
                        score * rules.repetition_penalty if token_id in lowered else score,
                    )
                )
        return scored

    def _continued(
        self, total: float, parent: Beam, token_id: int, logprob: float, tokens: Likeliest
    ) -> Beam:
        rules = self.rules
        token = TokenLogprob(
            token_id, logprob, () if rules.logprobs is None else tokens[: rules.logprobs]
        )
        has_lead = token_id in rules.lead_ids if parent.parent is None else parent.has_lead
        beam = Beam(parent, token, total, parent.length + 1, has_lead)
        if token_id in rules.stop_token_ids or (
            self._hits_stop_string is not None and self._hits_stop_string(beam)
        ):
            beam.finish_reason = "stop"
        elif beam.answer_length >= rules.max_tokens or beam.length >= rules.room:
            beam.finish_reason = "length"
        return beam


class Text(Protocol):
    """The text of one choice, as its tokens come."""

    cut: str
    """What its first token is spelt with and the text leaves out, once that is known."""

    def add(self, token_ids: list[int], is_last: bool, ends_with_stop_token: bool) -> str:
        """What the text gains; what may still become a stop string waits for more, unless these are the last."""


NextTokens = Callable[[Sequence[Beam]], Awaitable[Sequence[Likeliest]]]


async def beam_search(
    search: BeamSearch, next_tokens: NextTokens, texts: Sequence[Text], stream: bool
) -> Deltas:
    """Deltas of the `n` best, choice by rank: of each what is settled if it is a stream, and the rest at the end."""
    choices = _Choices(search, texts)
    while not search.is_over:
        search.advance(await next_tokens(search.live))
        if stream:
            for delta in choices.settled():
                yield delta
    for rank, beam in enumerate(search.finished[: len(texts)]):
        yield choices.to_delta(rank, beam)


class _Choices:
    """What has been sent of each choice."""

    def __init__(self, search: BeamSearch, texts: Sequence[Text]) -> None:
        self._search = search
        self._texts = texts
        self._sent = [search.live[0]] * len(texts)
        self._next_look = 1

    def to_delta(self, rank: int, beam: Beam) -> Delta:
        """What `beam` adds to what has been sent."""
        rules = self._search.rules
        tokens = beam.tokens(since=self._sent[rank])
        ids = [token.token_id for token in tokens]
        is_first = self._sent[rank].parent is None
        self._sent[rank] = beam
        ends_with_stop_token = bool(ids) and ids[-1] in rules.stop_token_ids
        text = self._texts[rank].add(ids, beam.finish_reason is not None, ends_with_stop_token)
        cut = self._texts[rank].cut if is_first else ""
        if is_first and beam.has_lead:
            ids, tokens, cut = ids[1:], tokens[1:], ""
        return Delta(
            rank, text, ids, beam.finish_reason, None if rules.logprobs is None else tokens, cut
        )

    def settled(self) -> Iterator[Delta]:
        """What has been settled since the last look, which costs as much as is unsettled: the more, the rarer."""
        length = self._search.live[0].length if self._search.live else 0
        if length < self._next_look:
            return
        if length == 1:
            yield Delta(0, "", ())  # the engine has begun: a stream can say so
        for rank, sent in enumerate(self._sent):
            beam = self._search.settled(rank)
            if beam.finish_reason is not None and beam.parent is not None:
                beam = beam.parent  # a choice ends with the search
            if beam is not sent:
                yield self.to_delta(rank, beam)
        self._next_look = length + 1 + (length - min(beam.length for beam in self._sent)) // 16


def _shared(one: Beam, other: Beam) -> Beam:
    """The longest beginning of both."""
    while one is not other:
        if one.length >= other.length and one.parent is not None:
            one = one.parent
        elif other.parent is not None:
            other = other.parent
    return one
