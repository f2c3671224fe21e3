"""Token ids -> the text of an answer, incrementally, by vLLM's own detokenizer.

vLLM detokenizes what it generates; here its detokenizer is used where vLLM cannot know the text: for beams, for answers
that are cut at their limit, and for stop strings that begin as `Prompt.answer_lead` does. `vllm_contract.py` checks
what is needed of it.
"""

from copy import copy
from typing import cast

from vllm.sampling_params import SamplingParams
from vllm.tokenizers import TokenizerLike
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.detokenizer import (
    BaseIncrementalDetokenizer,
    IncrementalDetokenizer,
    SlowIncrementalDetokenizer,
    check_stop_strings,
)

from generation import Prompt


class AnswerText:
    """The text of one choice, without the prompt's `answer_lead`.

    `params` give its stop strings, `min_tokens`, and what becomes of special tokens.
    """

    def __init__(self, tokenizer: TokenizerLike, prompt: Prompt, params: SamplingParams) -> None:
        request = EngineCoreRequest("", prompt.ids, None, params, None, 0.0, None, None, None)
        detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
        self._detokenizer = cast(BaseIncrementalDetokenizer, detokenizer)
        self._lead = prompt.answer_lead
        self.cut = ""
        """The `answer_lead`, once it has been cut off the text."""

    def fork(self) -> "AnswerText":
        """An independent copy, for a beam that goes on differently."""
        fork = copy(self)
        detokenizer = fork._detokenizer = copy(self._detokenizer)
        detokenizer.token_ids = [*detokenizer.token_ids]
        if isinstance(detokenizer, SlowIncrementalDetokenizer):
            detokenizer.tokens = [*detokenizer.tokens]
        else:
            detokenizer.stream = copy(detokenizer.stream)
        return fork

    def update(self, token_ids: list[int], ends_with_stop_token: bool = False) -> str | None:
        """Add the next tokens; returns the stop string that they complete, or None."""
        while self._lead and token_ids:
            first, token_ids = token_ids[:1], token_ids[1:]
            if (stop := self._begin(first, ends_with_stop_token and not token_ids)) is not None:
                return stop
        return cast("str | None", self._detokenizer.update(token_ids, ends_with_stop_token))

    def add(self, token_ids: list[int], is_last: bool, ends_with_stop_token: bool) -> str:
        """Add the next tokens; returns the text that they add, as `gained` does."""
        self.update(token_ids, ends_with_stop_token)
        return self.gained(is_last)

    @property
    def whole(self) -> str:
        """All of the text so far."""
        return cast(str, self._detokenizer.output_text)

    def settled(self, is_last: bool) -> str:
        """The text so far; unless `is_last`, the beginning of a stop string is held back."""
        return cast(str, self._detokenizer.get_next_output_text(is_last, delta=False))

    def stop_no_more(self) -> None:
        """Look for no stop string from here on."""
        self._detokenizer.stop = []

    def gained(self, is_last: bool) -> str:
        """The text added since the last call; unless `is_last`, the beginning of a stop string is held back."""
        return cast(str, self._detokenizer.get_next_output_text(is_last, delta=True))

    def _begin(self, first: list[int], is_stop_token: bool) -> str | None:
        """Add a token while there is no text; the lead is cut off the first text before stop strings are looked for."""
        detokenizer = self._detokenizer
        stops, detokenizer.stop = detokenizer.stop, []
        detokenizer.update(first, is_stop_token)
        detokenizer.stop = stops
        if not detokenizer.output_text:
            return None
        if detokenizer.output_text.startswith(self._lead):
            self.cut = self._lead
            detokenizer.output_text = detokenizer.output_text.removeprefix(self._lead)
        self._lead = ""
        text = detokenizer.output_text
        found = check_stop_strings(text, len(text), stops, detokenizer.include_stop_str_in_output)
        if found is None or detokenizer.num_output_tokens() <= detokenizer.min_tokens:
            return None
        stop, end = found
        detokenizer.output_text = text if end == -1 else text[:end]
        return cast(str, stop)
