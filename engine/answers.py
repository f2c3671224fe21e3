"""vLLM's tokens of one choice -> its answer, as the client sees it: without the template's lead, and where it ends.

The lead (`Prompt.answer_lead`) is text that the model generates between prompt and answer, for Alpaca-2 a space. It
is cut off here and nowhere else: from the text, and where a token spells nothing but the lead, from the token ids and
log-probabilities too. So it counts in no limit, and stop strings are looked for in the text that the client sees.
vLLM knows nothing of it: it is asked for one token more than the limit, and what is too much is left out again.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from operator import itemgetter
from typing import cast, get_args

from vllm.logprobs import FlatLogprobs
from vllm.outputs import CompletionOutput
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import TokenizerLike

from engine.detokenizer import AnswerText
from errors import APIError
from generation import Delta, FinishReason, Prompt, TokenLogprob

FINISH_REASONS = (None, *get_args(FinishReason))


class Answer:
    """One choice: what vLLM adds to it, as deltas.

    `limit`: tokens that the answer may have, the lead not counted. `alternatives`: how many of the likeliest tokens
    are reported beside each; None: no log-probabilities.
    """

    is_over = False
    """Nothing that vLLM may still add is part of it."""

    def __init__(
        self,
        tokenizer: TokenizerLike,
        prompt: Prompt,
        params: SamplingParams,
        limit: int,
        alternatives: int | None,
    ) -> None:
        self._tokenizer, self._prompt, self._params = tokenizer, prompt, params
        self._limit, self._alternatives = limit, alternatives
        self._lead = prompt.answer_lead
        """Still to be cut off the text."""
        self._has_begun = self._has_lone_lead = False
        self._is_plain = not self._lead
        """Nothing is left to be cut: every delta is vLLM's."""
        self._token_ids: list[int] = []
        self._sent = 0
        """Characters of its text."""

    def to_delta(self, completion: CompletionOutput, index: int) -> Delta:
        """What vLLM's output adds to the answer, as choice `index`."""
        delta = Delta(index, completion.text, completion.token_ids)
        if completion.finish_reason is not None:
            delta.finish_reason = to_finish_reason(completion.finish_reason)
        if completion.logprobs is not None and self._alternatives is not None:
            delta.logprobs = list(to_logprobs(completion.logprobs, self._alternatives))
        if not self._is_plain:
            self._cut(delta)
        return delta

    def _cut(self, delta: Delta) -> None:
        self._cut_lone_lead(delta)
        if self._lead and delta.text:
            if delta.text.startswith(self._lead):
                delta.text = delta.text.removeprefix(self._lead)
                delta.cut = "" if self._has_lone_lead else self._lead
            self._lead = ""
        if self._has_lone_lead:
            # vLLM was asked for one token more, which this was: it ends where the answer does.
            self._is_plain = not self._lead
        else:
            self._cut_at_limit(delta)

    def _cut_lone_lead(self, delta: Delta) -> None:
        """Leave the first token of all out if it spells nothing but the lead."""
        if self._has_begun or not delta.token_ids:
            return
        self._has_begun = True
        if delta.token_ids[0] in self._prompt.lead_ids:
            self._has_lone_lead = True
            delta.token_ids = delta.token_ids[1:]
            delta.logprobs = delta.logprobs and delta.logprobs[1:]

    def _cut_at_limit(self, delta: Delta) -> None:
        """End the answer at its limit, if vLLM has gone beyond: by one token, with which it ends too."""
        self._token_ids += delta.token_ids
        excess = len(self._token_ids) - self._limit
        if excess > 0:
            text = AnswerText(self._tokenizer, self._prompt, without_stops(self._params))
            whole = text.add(
                self._token_ids[: self._limit], is_last=True, ends_with_stop_token=False
            )
            delta.text = whole[self._sent :]
            delta.token_ids = delta.token_ids[:-excess]
            delta.logprobs = delta.logprobs and delta.logprobs[:-excess]
            delta.finish_reason = "length"
        self._sent += len(delta.text)


class WatchedAnswer(Answer):
    """An answer with a stop string that begins as the lead does, which vLLM would find in the lead.

    So it is looked for here, token by token, where vLLM is asked for deltas without stop strings.
    """

    @cached_property
    def _text(self) -> AnswerText:
        return AnswerText(self._tokenizer, self._prompt, self._params)

    def to_delta(self, completion: CompletionOutput, index: int) -> Delta:
        token_ids, is_stopped = completion.token_ids, completion.finish_reason == "stop"
        count, stop = 0, None
        while count < len(token_ids) and stop is None:
            count += 1
            stop = self._text.update([token_ids[count - 1]], is_stopped and count == len(token_ids))
        reason = "stop" if stop is not None else to_finish_reason(completion.finish_reason)
        delta = Delta(index, self._text.gained(reason is not None), token_ids[:count], reason)
        if completion.logprobs is not None and self._alternatives is not None:
            delta.logprobs = list(to_logprobs(completion.logprobs, self._alternatives))[:count]
        is_first = not self._has_begun
        self._cut_lone_lead(delta)
        if is_first and not self._has_lone_lead:
            delta.cut = self._text.cut
        if not self._has_lone_lead:
            self._cut_at_limit(delta)
        self.is_over = delta.finish_reason is not None
        return delta


def is_watched(prompt: Prompt, params: SamplingParams) -> bool:
    """Whether a stop string could be found in the lead."""
    return bool(prompt.answer_lead) and any(
        stop.startswith(prompt.answer_lead[0]) for stop in params.stop or ()
    )


def without_stops(params: SamplingParams) -> SamplingParams:
    """The same, of a text that no stop string ends."""
    params = copy(params)
    params.stop = []
    return params


def joined(deltas: Sequence[Delta]) -> Delta:
    """All deltas of a choice as one."""
    whole = replace(deltas[0])
    for delta in deltas[1:]:
        whole.text += delta.text
        whole.token_ids = [*whole.token_ids, *delta.token_ids]
        whole.cut = whole.cut or delta.cut
        whole.finish_reason = delta.finish_reason
        whole.logprobs = (
            whole.logprobs if delta.logprobs is None else [*(whole.logprobs or ()), *delta.logprobs]
        )
    return whole


def to_logprobs(flat: FlatLogprobs, count: int, first: int = 0) -> Iterator[TokenLogprob]:
    """vLLM's rows from `first` on: the token that was taken, and the `count` likeliest ones.

    vLLM names the taken token twice, if it is one of the likeliest, but only once where it has merged two outputs.
    """
    for start, end in zip(flat.start_indices[first:], flat.end_indices[first:], strict=True):
        row = dict(zip(flat.token_ids[start:end], flat.logprobs[start:end], strict=True))
        likeliest = sorted(row.items(), key=itemgetter(1), reverse=True)
        yield TokenLogprob(flat.token_ids[start], flat.logprobs[start], likeliest[:count])


def to_finish_reason(reason: str | None) -> FinishReason | None:
    """vLLM's reason as OpenAI's; raises APIError (500) where vLLM has failed."""
    if reason not in FINISH_REASONS:
        raise APIError(500, f"The engine ended the generation: {reason}.")
    return cast(FinishReason | None, reason)
