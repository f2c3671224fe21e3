"""A request body -> how it is decoded.

Fields of several names for one thing, and defaults that depend on others, are resolved here, once: whoever needs to
know how a request is decoded asks its `Decoding`, not its body.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from api.constraints import CONSTRAINT_FIELDS, to_constraint
from api.tool_calls import for_calls_alone
from generation import Calls, Decoding
from protocol import CompletionRequest, GenerationFields, Request

OTHER_NAMES = {"max_new_tokens": "max_tokens"}
"""Of transformers' generation config."""

Body = TypeVar("Body", bound=GenerationFields)


def to_defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """`--override-generation-config` as request fields; raises ValueError for a wrong name or value."""
    defaults = {OTHER_NAMES.get(name, name): value for name, value in generation_config.items()}
    try:
        checked = GenerationFields.model_validate(defaults)
    except ValidationError as failure:
        fault = failure.errors()[0]
        raise ValueError(f"{fault['loc'][0]}: {fault['msg']}") from failure
    if checked.unknown_fields:
        raise ValueError(f"there is no sampling field {checked.unknown_fields[0]}")
    return {name: getattr(checked, name) for name in defaults}


def with_defaults(body: Body, defaults: Mapping[str, Any]) -> Body:
    """The body where `defaults` stand for the fields that it left out; those still count as not sent."""
    if not defaults:
        return body
    filled = body.model_copy()
    filled.__dict__.update(
        (name, value) for name, value in defaults.items() if name not in body.model_fields_set
    )
    return filled


def to_decoding(body: Request, calls: Calls | None = None, adapter: str = "") -> Decoding:
    """How a body is decoded whose answer may have `calls`, by the model with an adapter or without.

    Raises APIError (400) where two fields say what the reply must look like. `max_tokens` is what was asked for, not
    yet what there is room for.
    """
    sent = body.model_fields_set
    is_greedy = body.temperature == 0 or body.top_p == 0 or not body.do_sample
    is_beam_search = body.use_beam_search or body.num_beams > 1
    penalty = body.repetition_penalty
    # The default of sampling is not meant for beams, nor for names that are copied from the prompt.
    if (is_beam_search or calls is not None) and "repetition_penalty" not in sent:
        penalty = 1.0
    decoding = Decoding(
        max_tokens=_max_tokens(body),
        n=body.n,
        width=next((width for width in (body.num_beams, body.best_of) if width > 1), body.n),
        stream=body.stream,
        is_beam_search=is_beam_search,
        temperature=0.0 if is_greedy else body.temperature,
        top_p=body.top_p or 1.0,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=penalty,
        length_penalty=body.length_penalty,
        early_stopping=body.early_stopping,
        stop=body.stop,
        stop_token_ids=body.stop_token_ids,
        include_stop_str_in_output=body.include_stop_str_in_output,
        ignore_eos=body.ignore_eos,
        min_tokens=body.min_tokens,
        skip_special_tokens=body.skip_special_tokens,
        spaces_between_special_tokens=body.spaces_between_special_tokens,
        logit_bias=body.logit_bias,
        allowed_token_ids=body.allowed_token_ids,
        alternatives=_alternatives(body),
        constraint=to_constraint(body) if CONSTRAINT_FIELDS & sent else None,
        calls=calls,
        adapter=adapter,
        cache_salt=body.cache_salt,
        priority=body.priority,
        include_beams=is_beam_search and _include_beams(body),
    )
    return for_calls_alone(decoding) if decoding.is_call else decoding


def _max_tokens(body: GenerationFields) -> int:
    """The smaller of `max_tokens`, if it was sent, and `max_completion_tokens`."""
    if body.max_completion_tokens is None:
        return body.max_tokens
    if "max_tokens" not in body.model_fields_set:
        return body.max_completion_tokens
    return min(body.max_tokens, body.max_completion_tokens)


def _include_beams(body: Request) -> bool:
    """Whether beams are to be shown; they are not for several prompts, whose beams nobody could tell apart."""
    options = body.stream_options
    is_one_search = not isinstance(body, CompletionRequest) or len(body.prompt) == 1
    return options is not None and options.include_beams and is_one_search


def _alternatives(body: Request) -> int | None:
    if isinstance(body, CompletionRequest):
        return body.logprobs
    return body.top_logprobs if body.logprobs else None
