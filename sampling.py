"""Request fields -> vLLM's SamplingParams."""

from vllm.sampling_params import RequestOutputKind, SamplingParams

from errors import bad_request
from generation import Prompt
from protocol import GenerationFields


def to_sampling_params(
    request: GenerationFields, prompt: Prompt, max_tokens: int, vocabulary_size: int
) -> SamplingParams:
    """vLLM's parameters for one prompt; raises APIError for a value that vLLM would refuse later.

    vLLM refuses n > 1 with greedy sampling, where all choices are equal: such a request is generated once.
    """
    _check_token_ids(request, vocabulary_size)
    return SamplingParams(
        n=1 if request.is_greedy else request.width,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        temperature=0.0 if request.is_greedy else request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        seed=request.seed,
        stop=[*request.stop_strings, *prompt.stop],
        stop_token_ids=[*request.stop_token_ids, *prompt.stop_token_ids],
        include_stop_str_in_output=request.include_stop_str_in_output,
        ignore_eos=request.ignore_eos,
        max_tokens=max_tokens,
        min_tokens=min(request.min_tokens, max_tokens),
        # vLLM sums log-probabilities only where it is asked for some.
        logprobs=0 if request.takes_best else None,
        logit_bias=dict(request.logit_bias) or None,
        skip_special_tokens=request.skip_special_tokens,
        output_kind=RequestOutputKind.DELTA
        if request.stream and not request.takes_best
        else RequestOutputKind.FINAL_ONLY,
    )


def _check_token_ids(request: GenerationFields, vocabulary_size: int) -> None:
    for name, ids in (("logit_bias", request.logit_bias), ("stop_token_ids", request.stop_token_ids)):
        if any(token_id >= vocabulary_size for token_id in ids):
            raise bad_request(f"'{name}' has a token id outside the vocabulary of {vocabulary_size}.", name)
