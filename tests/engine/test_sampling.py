"""Request fields become vLLM's parameters: each under its name, none left out."""

import dataclasses
from typing import Any

import pytest

from api.decoding import to_decoding, with_defaults
from generation import Decoding, Prompt
from protocol import CompletionRequest

pytestmark = pytest.mark.engine

FIELDS: dict[str, Any] = {
    "temperature": 1.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "presence_penalty": -1.0, "frequency_penalty": 1.0,
    "repetition_penalty": 1.3, "stop": ["。"], "stop_token_ids": [7], "ignore_eos": True, "min_tokens": 4, "seed": 11,
    "logit_bias": {5: -100.0}, "allowed_token_ids": [5, 9], "include_stop_str_in_output": True,
    "skip_special_tokens": False, "spaces_between_special_tokens": False, "logprobs": 3, "n": 2,
}  # fmt: skip
CHANGED_ON_THE_WAY = {
    "max_tokens": "clamped to what the context has left, before vLLM's parameters are made",
    "bad_words": "encoded here: vLLM gets token ids",
    "structured_outputs": "compiled here: vLLM gets a grammar",
}


def test_every_field_reaches_vllm() -> None:
    from vllm.sampling_params import SamplingParams

    from engine.sampling import to_sampling_params

    decoding = to_decoding(CompletionRequest(prompt="a", **FIELDS))
    params = to_sampling_params(decoding, Prompt([1, 5]), 30, 55296)
    assert {name: getattr(params, name) for name in FIELDS} == FIELDS
    assert params.max_tokens == 30
    ours = {field.name for field in dataclasses.fields(Decoding)} | {
        *CompletionRequest.model_fields
    }
    assert ours & {*SamplingParams.__struct_fields__} == FIELDS.keys() | CHANGED_ON_THE_WAY.keys()
    untold = SamplingParams()
    assert all(getattr(untold, name) != value for name, value in FIELDS.items())


def test_defaults_of_the_server_reach_vllm() -> None:
    from engine.sampling import to_sampling_params

    body = with_defaults(
        CompletionRequest(prompt="a", top_k=5), {"top_p": 0.25, "top_k": 9, "ignore_eos": True}
    )
    params = to_sampling_params(
        to_decoding(body), Prompt([1], stop=("###",), stop_token_ids=(9,)), 30, 55296
    )
    assert (params.top_p, params.top_k, params.ignore_eos) == (0.25, 5, True)
    assert (params.stop, params.stop_token_ids) == (["###"], [9])


@pytest.mark.parametrize(
    ("fields", "n", "logprobs"), [({"temperature": 0, "n": 3}, 1, None), ({"best_of": 4}, 4, 0)]
)
def test_greedy_choices_are_made_once_and_the_best_are_scored(
    fields: dict[str, Any], n: int, logprobs: int | None
) -> None:
    from engine.sampling import to_sampling_params

    params = to_sampling_params(
        to_decoding(CompletionRequest(prompt="a", **fields)), Prompt([1]), 30, 55296
    )
    assert (params.n, params.logprobs) == (n, logprobs)


def test_a_penalised_run_asks_for_all_that_may_be_lowered() -> None:
    from engine.beam_search import BeamSearchConfig
    from engine.sampling import MAX_PENALISED_RUN, to_run_params

    config = BeamSearchConfig(
        num_beams=4, n=1, max_tokens=100, min_tokens=30, stop_token_ids=frozenset({2})
    )
    params = to_run_params(config, 10, 55296)
    assert (params.max_tokens, params.min_tokens, params.logprobs) == (90, 20, 5)
    config = BeamSearchConfig(
        num_beams=4, n=1, max_tokens=100, repetition_penalty=1.1, prompt_ids=frozenset(range(20))
    )
    params = to_run_params(config, 10, 55296)
    assert (params.max_tokens, params.logprobs) == (
        MAX_PENALISED_RUN,
        4 + 20 + 10 + MAX_PENALISED_RUN,
    )
    assert to_run_params(config, 10, 30).logprobs == 30
