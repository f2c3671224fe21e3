"""vLLM's outputs of one choice -> deltas of its answer, without the `answer_lead`, which the model generates first.

The lead (`Prompt.answer_lead`) stands between prompt and answer; for Alpaca-2 it is a space. It is cut off the text,
and if the first token is a lead token (one of `Prompt.lead_ids`, which spell the lead alone), that token and its
log-probability are left out too. So the lead counts in no limit, and no stop string is found in it. vLLM knows nothing
of it and is asked for one token more than the limit: where the first was no lead token, the last is left out here.
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
from engine.token_table import TableText, TokenTable
from errors import APIError
from generation import CallFormat, Delta, FinishReason, Prompt, TokenLogprob

FINISH_REASONS = (None, *get_args(FinishReason))


class Answer:
    """The answer of one choice: turns vLLM's outputs into deltas, in the order in which they come.

    `params`: what vLLM was asked for, with the stop strings of the request. `limit`: the most tokens of the answer, a
    lead token not counted. `alternatives`: how many of the likeliest tokens are reported beside each; None: no
    log-probabilities. `table`: that of the tokenizer, if it has one.
    """

    is_over = False
    """Whether the answer has ended though vLLM may go on generating: further outputs are to be left out."""
    call_format: CallFormat | None = None
    """How the answer writes calls, in which no stop string counts; None: it has none."""

    def __init__(
        self,
        tokenizer: TokenizerLike,
        prompt: Prompt,
        params: SamplingParams,
        limit: int,
        alternatives: int | None,
        table: TokenTable | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._table = table
        self._prompt = prompt
        self._params = params
        self._limit = limit
        self._alternatives = alternatives
        self._lead = prompt.answer_lead
        """What is still to be cut off the text: the lead, or nothing."""
        self._has_begun = False
        """Whether vLLM has given the first token."""
        self._had_lead_token = False
        self._needs_cut = bool(self._lead)
        """Whether something may still have to be cut; if not, deltas are just what vLLM gives."""
        self._token_ids: list[int] = []
        self._sent_characters = 0

    def to_delta(self, completion: CompletionOutput, index: int) -> Delta:
        """Return what vLLM's next output adds to the answer, as choice `index`; raises APIError if vLLM has failed."""
        delta = Delta(index, completion.text, completion.token_ids)
        if completion.finish_reason is not None:
            delta.finish_reason = to_finish_reason(completion.finish_reason)
            delta.stop_reason = completion.stop_reason
        if completion.logprobs is not None and self._alternatives is not None:
            delta.logprobs = list(to_logprobs(completion.logprobs, self._alternatives))
        if self._needs_cut:
            self._cut(delta)
        return delta

    def _cut(self, delta: Delta) -> None:
        """Take the lead, and what is beyond the limit, out of a delta."""
        self._drop_lead_token(delta)
        if self._lead and delta.text:
            if delta.text.startswith(self._lead):
                delta.text = delta.text.removeprefix(self._lead)
                delta.cut = "" if self._had_lead_token else self._lead
            self._lead = ""
        if self._had_lead_token:
            # It was the one token more that vLLM was asked for, so vLLM ends at the limit.
            self._needs_cut = bool(self._lead)
        else:
            self._cut_at_limit(delta)

    def _drop_lead_token(self, delta: Delta) -> None:
        """Leave the first token of the choice out if it is a lead token."""
        if self._has_begun or not delta.token_ids:
            return
        self._has_begun = True
        if delta.token_ids[0] in self._prompt.lead_ids:
            self._had_lead_token = True
            delta.token_ids = delta.token_ids[1:]
            if delta.logprobs is not None:
                delta.logprobs = delta.logprobs[1:]

    def _cut_at_limit(self, delta: Delta) -> None:
        """End the answer at its limit if vLLM has gone beyond, which it does by one token, its last."""
        self._token_ids += delta.token_ids
        excess = len(self._token_ids) - self._limit
        if excess > 0:
            # What a delta's text has of its last token is not known: all is detokenized once more, up to the limit.
            delta.text = self._whole_text(self._token_ids[: self._limit])[self._sent_characters :]
            delta.token_ids = delta.token_ids[:-excess]
            if delta.logprobs is not None:
                delta.logprobs = delta.logprobs[:-excess]
            delta.finish_reason = "length"
        self._sent_characters += len(delta.text)

    def _whole_text(self, token_ids: list[int]) -> str:
        """The text of the answer's first tokens, in which no stop string counts."""
        if self._table is not None and self._table.fits(self._prompt.ids, self._params):
            return TableText(self._table).add(token_ids).removeprefix(self._prompt.answer_lead)
        text = AnswerText(self._tokenizer, self._prompt, without_stops(self._params))
        return text.add(token_ids, is_last=True, ends_with_stop_token=False)


class SelfStoppingAnswer(Answer):
    """An answer that looks for its stop strings itself, where vLLM could find one in the lead, or in a call.

    vLLM is to be asked for deltas without stop strings; each token is detokenized again here.
    """

    @cached_property
    def _text(self) -> AnswerText:
        return AnswerText(self._tokenizer, self._prompt, self._params)

    def to_delta(self, completion: CompletionOutput, index: int) -> Delta:
        token_ids = completion.token_ids
        ends_with_stop_token = completion.finish_reason == "stop"
        count = 0
        stop = None
        while count < len(token_ids) and stop is None:
            count += 1
            is_stop_token = ends_with_stop_token and count == len(token_ids)
            if self.call_format is not None and self.call_format.find(self._text.whole) is not None:
                self._text.stop_no_more()
            stop = self._text.update([token_ids[count - 1]], is_stop_token)
        reason = "stop" if stop is not None else to_finish_reason(completion.finish_reason)
        delta = Delta(index, self._text.gained(reason is not None), token_ids[:count], reason)
        delta.stop_reason = completion.stop_reason if stop is None else stop
        if completion.logprobs is not None and self._alternatives is not None:
            delta.logprobs = list(to_logprobs(completion.logprobs, self._alternatives))[:count]
        is_first = not self._has_begun
        self._drop_lead_token(delta)
        if not self._had_lead_token:
            if is_first:
                delta.cut = self._text.cut
            self._cut_at_limit(delta)
        self.is_over = delta.finish_reason is not None
        return delta


def can_stop_wrongly(prompt: Prompt, params: SamplingParams, has_calls: bool) -> bool:
    """Whether vLLM could find a stop string where none counts: in the prompt's `answer_lead`, or in a call."""
    lead, stops = prompt.answer_lead, params.stop or ()
    if has_calls:
        return bool(stops)
    return bool(lead) and any(stop.startswith(lead[0]) for stop in stops)


def without_stops(params: SamplingParams) -> SamplingParams:
    """Copy the parameters, without stop strings."""
    params = copy(params)
    params.stop = []
    return params


def joined(deltas: Sequence[Delta]) -> Delta:
    """Join all deltas of a choice, at least one, into one."""
    whole = replace(deltas[0])
    for delta in deltas[1:]:
        whole.text += delta.text
        whole.token_ids = [*whole.token_ids, *delta.token_ids]
        whole.cut = whole.cut or delta.cut
        whole.finish_reason, whole.stop_reason = delta.finish_reason, delta.stop_reason
        if delta.logprobs is not None:
            whole.logprobs = [*(whole.logprobs or ()), *delta.logprobs]
    return whole


def to_logprobs(flat: FlatLogprobs, count: int, first: int = 0) -> Iterator[TokenLogprob]:
    """Yield vLLM's log-probabilities from position `first` on: the token, and the `count` likeliest in its place.

    Of a position vLLM lists the token itself and then the likeliest ones, so the token twice if it is one of them;
    where it has merged two outputs, only once.
    """
    for start, end in zip(flat.start_indices[first:], flat.end_indices[first:], strict=True):
        row = dict(zip(flat.token_ids[start:end], flat.logprobs[start:end], strict=True))
        likeliest = sorted(row.items(), key=itemgetter(1), reverse=True)
        yield TokenLogprob(flat.token_ids[start], flat.logprobs[start], likeliest[:count])


def to_finish_reason(reason: str | None) -> FinishReason | None:
    """Return vLLM's finish reason as OpenAI's; raises APIError (500) for one that says that vLLM has failed."""
    if reason not in FINISH_REASONS:
        raise APIError(500, f"The engine ended the generation: {reason}.")
    return cast("FinishReason | None", reason)
