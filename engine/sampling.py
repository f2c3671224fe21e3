"""A decoding -> vLLM's SamplingParams, and the rules of a beam search."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.tokenizers import TokenizerLike

from engine.beam_search import Rules
from engine.grammar import to_grammar
from errors import bad_request
from generation import Decoding, Prompt

PENALISED_AHEAD = 16
"""Tokens of a run whose beams are penalised: each may lower one more, so the engine must send one more."""

SAME_SAMPLING = (
    *(
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
    ),
    *(
        "ignore_eos",
        "include_stop_str_in_output",
        "skip_special_tokens",
        "spaces_between_special_tokens",
    ),
)
SAME_SEARCH = ("n", "length_penalty", "early_stopping", "logit_bias")
"""Fields of a decoding that vLLM, or a beam search, has under the same names, with the same meaning."""


def to_sampling_params(
    decoding: Decoding, prompt: Prompt, max_tokens: int, vocabulary_size: int
) -> SamplingParams:
    """vLLM's parameters for one prompt; raises APIError for a value that vLLM would refuse later.

    `max_tokens` counts the template's lead, which `min_tokens` of a request does not. vLLM refuses n > 1 with greedy
    sampling, where all choices are equal: such a request is generated once.
    """
    for name in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
        if any(token_id >= vocabulary_size for token_id in getattr(decoding, name)):
            raise bad_request(
                f"'{name}' has a token id outside the vocabulary of {vocabulary_size}.", name
            )
    grammar = to_grammar(decoding.constraint, prompt.answer_lead) if decoding.constraint else None
    in_pieces = decoding.stream and not decoding.takes_best
    params = SamplingParams(
        **_same(decoding, SAME_SAMPLING),
        n=1 if decoding.is_greedy else decoding.width,
        stop=[*filter(None, decoding.stop), *prompt.stop],
        stop_token_ids=[*decoding.stop_token_ids, *prompt.stop_token_ids],
        max_tokens=max_tokens,
        min_tokens=min(
            decoding.min_tokens + bool(decoding.min_tokens and prompt.lead_ids), max_tokens
        ),
        # vLLM sums log-probabilities only where it is asked for some.
        logprobs=0
        if decoding.alternatives is None and decoding.takes_best
        else decoding.alternatives,
        flat_logprobs=True,
        logit_bias=dict(decoding.logit_bias) or None,
        structured_outputs=StructuredOutputsParams(grammar=grammar) if grammar else None,
        output_kind=RequestOutputKind.DELTA if in_pieces else RequestOutputKind.FINAL_ONLY,
        allowed_token_ids=list(decoding.allowed_token_ids) or None,
        skip_clone=True,  # for this request alone; a deep copy costs as much as all of this
    )
    if decoding.barred:
        _bar(params, decoding.barred, vocabulary_size)
    return params


def _bar(params: SamplingParams, sequences: Sequence[Sequence[int]], vocabulary_size: int) -> None:
    """Let vLLM bar token ids that are not those that its own tokenizer would make of `bad_words`."""
    params.bad_words = [str(at) for at in range(len(sequences))]
    try:
        params.update_from_tokenizer(cast(TokenizerLike, _Numbered(sequences, vocabulary_size - 1)))
    except VLLMValidationError as failure:
        raise bad_request(f"'bad_words' cannot be barred: {failure}", "bad_words") from failure
    params.bad_words = []  # vLLM has the ids, and is not to encode the words again


class _Numbered(NamedTuple):
    """What vLLM asks of a tokenizer, for texts that are numbers of sequences."""

    sequences: Sequence[Sequence[int]]
    max_token_id: int

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:  # noqa: ARG002 - vLLM names it
        return list(self.sequences[int(text)])


def to_rules(decoding: Decoding, params: SamplingParams, prompt: Prompt, room: int) -> Rules:
    """For a beam search, where the model has room for `room` tokens after the prompt.

    `params` are the same decoding's, with the model's own end of text.
    """
    penalty = decoding.repetition_penalty
    ends = [
        *(params.stop_token_ids or ()),
        *([] if params.eos_token_id is None else [params.eos_token_id]),
    ]
    return Rules(
        **_same(decoding, SAME_SEARCH),
        width=decoding.width,
        max_tokens=decoding.max_tokens,
        min_tokens=min(decoding.min_tokens, decoding.max_tokens),
        lead_ids=prompt.lead_ids,
        room=room,
        stop_token_ids=frozenset(ends),
        repetition_penalty=penalty,
        prompt_ids=frozenset(prompt.ids if penalty != 1 else ()),
        logprobs=decoding.alternatives,
        has_stop_strings=bool(params.stop),
    )


def to_score_params(alternatives: int) -> SamplingParams:
    """For the log-probabilities of a prompt: vLLM has to generate a token too."""
    return SamplingParams(
        max_tokens=1,
        prompt_logprobs=alternatives,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def to_run_params(rules: Rules, begun: int, vocabulary_size: int) -> SamplingParams:
    """For a greedy run ahead of a beam search, after `begun` tokens: all that the search may need of it."""
    ahead = rules.max_length - begun
    if rules.repetition_penalty != 1:
        ahead = min(ahead, PENALISED_AHEAD)
    return SamplingParams(
        temperature=0.0,
        repetition_penalty=rules.repetition_penalty,
        logit_bias=dict(rules.logit_bias) or None,
        stop_token_ids=list(rules.stop_token_ids),
        ignore_eos=True,
        max_tokens=ahead,
        min_tokens=min(max(rules.min_tokens - begun, 0), ahead),
        logprobs=min(rules.needed(begun + ahead), vocabulary_size),
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
    )


def _same(decoding: Decoding, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(decoding, name) for name in names}
