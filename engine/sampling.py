"""A decoding -> vLLM's `SamplingParams`, or the config of a beam search and the params of its greedy runs."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.tokenizers import TokenizerLike

from engine.beam_search import BeamSearchConfig
from engine.checked_params import CheckedParams
from engine.grammar import to_grammar
from errors import bad_request
from generation import Decoding, Prompt

MAX_PENALISED_RUN = 16
"""Tokens of a greedy run of a search with `repetition_penalty`.

Each may be penalised in the steps after it, so each adds one to the log-probabilities that the whole run asks for.
"""


def to_sampling_params(
    decoding: Decoding, prompt: Prompt, max_tokens: int, vocabulary_size: int
) -> SamplingParams:
    """Make vLLM's parameters for one prompt; raises APIError (400) for what vLLM would refuse only later.

    `max_tokens` are all that vLLM may generate, a token of `prompt.lead_ids` included; the `min_tokens` of a decoding
    are without it. vLLM refuses n > 1 with greedy sampling, where all choices are equal: `n` is 1 then.
    """
    _check_token_ids(decoding, vocabulary_size)
    grammar = None
    if decoding.constraint or decoding.calls:
        grammar = to_grammar(decoding.constraint, decoding.calls, prompt.answer_lead)
    is_streamed = decoding.stream and not decoding.takes_best
    min_tokens = decoding.min_tokens
    if min_tokens and prompt.lead_ids:
        min_tokens += 1
    logprobs = decoding.alternatives
    if logprobs is None and decoding.takes_best:
        # vLLM sums the log-probabilities of a choice only where it is asked for some.
        logprobs = 0
    params = (CheckedParams if grammar else SamplingParams)(
        n=1 if decoding.is_greedy else decoding.width,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=decoding.top_k,
        min_p=decoding.min_p,
        seed=decoding.seed,
        presence_penalty=decoding.presence_penalty,
        frequency_penalty=decoding.frequency_penalty,
        repetition_penalty=decoding.repetition_penalty,
        logit_bias=dict(decoding.logit_bias) or None,
        allowed_token_ids=list(decoding.allowed_token_ids) or None,
        # An empty stop string is none.
        stop=[*filter(None, decoding.stop), *prompt.stop],
        stop_token_ids=[*decoding.stop_token_ids, *prompt.stop_token_ids],
        include_stop_str_in_output=decoding.include_stop_str_in_output,
        ignore_eos=decoding.ignore_eos,
        max_tokens=max_tokens,
        min_tokens=min(min_tokens, max_tokens),
        logprobs=logprobs,
        flat_logprobs=True,
        skip_special_tokens=decoding.skip_special_tokens,
        spaces_between_special_tokens=decoding.spaces_between_special_tokens,
        structured_outputs=StructuredOutputsParams(grammar=grammar) if grammar else None,
        output_kind=RequestOutputKind.DELTA if is_streamed else RequestOutputKind.FINAL_ONLY,
        # No other request has these parameters, and a deep copy costs as much as all of this.
        skip_clone=True,
    )
    if decoding.barred:
        _set_bad_words(params, decoding.barred, vocabulary_size)
    return params


def _check_token_ids(decoding: Decoding, vocabulary_size: int) -> None:
    for name in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
        if any(token_id >= vocabulary_size for token_id in getattr(decoding, name)):
            raise bad_request(
                f"'{name}' has a token id outside the vocabulary of {vocabulary_size}.", name
            )


def _set_bad_words(
    params: SamplingParams, bad_words_ids: Sequence[Sequence[int]], vocabulary_size: int
) -> None:
    """Give vLLM the token ids of `bad_words`, which its own tokenizer might encode differently.

    vLLM 0.32 takes them only from a tokenizer (`SamplingParams.update_from_tokenizer`). Raises APIError (400) for what
    it refuses.
    """
    params.bad_words = [str(index) for index in range(len(bad_words_ids))]
    tokenizer = _BadWordsTokenizer(bad_words_ids, max_token_id=vocabulary_size - 1)
    try:
        params.update_from_tokenizer(cast(TokenizerLike, tokenizer))
    except VLLMValidationError as failure:
        raise bad_request(f"'bad_words' cannot be barred: {failure}", "bad_words") from failure
    # Else vLLM would encode the words with its own tokenizer when it gets the request.
    params.bad_words = []


class _BadWordsTokenizer(NamedTuple):
    """A tokenizer of bad words that are spelt as their indices; has what `update_from_tokenizer` asks of one."""

    bad_words_ids: Sequence[Sequence[int]]
    max_token_id: int

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:  # noqa: ARG002 - vLLM names it
        return list(self.bad_words_ids[int(text)])


def to_beam_config(
    decoding: Decoding, params: SamplingParams, prompt: Prompt, context_left: int
) -> BeamSearchConfig:
    """Make the config of a beam search.

    `params` are those of the same decoding, after vLLM has put the model's own stop tokens into them.
    `context_left` is how many tokens the model's context has room for after the prompt.
    """
    stop_token_ids = set(params.stop_token_ids or ())
    if params.eos_token_id is not None:
        stop_token_ids.add(params.eos_token_id)
    is_penalised = decoding.repetition_penalty != 1
    return BeamSearchConfig(
        num_beams=decoding.width,
        n=decoding.n,
        max_tokens=decoding.max_tokens,
        min_tokens=min(decoding.min_tokens, decoding.max_tokens),
        length_penalty=decoding.length_penalty,
        early_stopping=decoding.early_stopping,
        stop_token_ids=frozenset(stop_token_ids),
        repetition_penalty=decoding.repetition_penalty,
        logit_bias=decoding.logit_bias,
        prompt_ids=frozenset(prompt.ids) if is_penalised else frozenset(),
        lead_ids=prompt.lead_ids,
        context_left=context_left,
        logprobs=decoding.alternatives,
        has_stop_strings=bool(params.stop),
    )


def to_score_params(alternatives: int) -> SamplingParams:
    """Make vLLM's parameters for the log-probabilities of a prompt, each with so many of the likeliest tokens.

    vLLM generates a token all the same.
    """
    return SamplingParams(
        max_tokens=1,
        prompt_logprobs=alternatives,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def to_run_params(config: BeamSearchConfig, length: int, vocabulary_size: int) -> SamplingParams:
    """Make vLLM's parameters for a greedy run of a beam search, after a beam of `length` tokens.

    The run may go on as long as a beam may, and has the log-probabilities that a step needs of its longest beam.
    """
    max_tokens = config.max_length - length
    if config.repetition_penalty != 1:
        max_tokens = min(max_tokens, MAX_PENALISED_RUN)
    min_tokens = max(config.min_tokens - length, 0)
    return SamplingParams(
        temperature=0.0,
        repetition_penalty=config.repetition_penalty,
        logit_bias=dict(config.logit_bias) or None,
        # The model's own end of text is among them unless the request ignores it.
        stop_token_ids=list(config.stop_token_ids),
        ignore_eos=True,
        max_tokens=max_tokens,
        min_tokens=min(min_tokens, max_tokens),
        logprobs=min(config.num_top_logprobs(length + max_tokens), vocabulary_size),
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
    )
