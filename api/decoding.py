"""A request body -> how it is decoded, and which of its fields have no effect.

Fields of several names for one thing, and defaults that depend on others, are resolved here, once.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from api.tool_calls import call_heads, callable_functions
from generation import Constraint, Decoding
from protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    GenerationFields,
    Request,
    ResponseFormat,
    StructuredOutputs,
    TokenizeRequest,
    ToolFields,
)

UNUSED_IF_GREEDY = ("top_p", "top_k", "min_p", "seed", "best_of")
UNUSED_IF_TOP_P_IS_0 = ("temperature", "top_k", "min_p", "seed", "best_of")
UNUSED_WITH_BEAMS = ("temperature", "top_p", "top_k", "min_p", "seed")
UNUSED_WITHOUT_BEAMS = ("length_penalty", "early_stopping")
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


def to_decoding(body: Request, barred: Sequence[Sequence[int]] = ()) -> Decoding:
    """How a body whose fields have been checked is decoded; `barred` are the ids of its `bad_words`."""
    is_greedy = is_greedily_decoded(body)
    return Decoding(
        max_tokens=token_limit(body),
        n=body.n,
        width=width(body),
        stream=body.stream,
        is_beam_search=is_beam_search(body),
        temperature=0.0 if is_greedy else body.temperature,
        top_p=body.top_p or 1.0,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=repetition_penalty(body),
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
        barred=barred,
        alternatives=alternatives(body),
        constraint=to_constraint(body),
    )


def token_limit(body: GenerationFields) -> int:
    """The smaller of `max_tokens`, if it was sent, and `max_completion_tokens`."""
    if body.max_completion_tokens is None:
        return body.max_tokens
    if "max_tokens" not in body.model_fields_set:
        return body.max_completion_tokens
    return min(body.max_tokens, body.max_completion_tokens)


def is_greedily_decoded(body: GenerationFields) -> bool:
    """Whether each token is the likeliest: `temperature` 0, `top_p` 0 and `do_sample` false say so."""
    return body.temperature == 0 or body.top_p == 0 or not body.do_sample


def is_beam_search(body: GenerationFields) -> bool:
    return body.use_beam_search or body.num_beams > 1


def width(body: GenerationFields) -> int:
    """How many choices are generated, or beams kept, for each prompt, of which `n` are returned."""
    return next((width for width in (body.num_beams, body.best_of) if width > 1), body.n)


def repetition_penalty(body: GenerationFields) -> float:
    """The default of sampling is not meant for beams."""
    if is_beam_search(body) and "repetition_penalty" not in body.model_fields_set:
        return 1.0
    return body.repetition_penalty


def alternatives(body: Request) -> int | None:
    """How many of the likeliest tokens are reported beside each; None: no log-probabilities."""
    if isinstance(body, CompletionRequest):
        return body.logprobs
    return body.top_logprobs if body.logprobs else None


def constraining_fields(body: Request) -> list[str]:
    """Fields that say what the reply must look like."""
    fields = []
    if isinstance(body, ChatCompletionRequest) and callable_functions(body):
        fields.append("tools")
    if body.structured_outputs is not None:
        fields.append("structured_outputs")
    if body.response_format is not None and body.response_format.type != "text":
        fields.append("response_format")
    return fields


def to_constraint(body: Request) -> Constraint | None:
    """What the reply must look like; None: any text."""
    if isinstance(body, ChatCompletionRequest) and (functions := callable_functions(body)):
        schemas = [function.parameters for function in functions]
        calls = tuple(zip(call_heads(functions), schemas, strict=True))
        return Constraint("tools", "calls", calls)
    if body.structured_outputs is not None:
        return _from_outputs(body.structured_outputs)
    if body.response_format is not None and body.response_format.type != "text":
        return Constraint("response_format", "schema", _asked_schema(body.response_format))
    return None


def _from_outputs(outputs: StructuredOutputs) -> Constraint:
    """vLLM's words for a constraint, exactly one of which was sent."""
    param = "structured_outputs"
    if outputs.choice:
        return Constraint(param, "choice", tuple(outputs.choice))
    if outputs.regex is not None:
        return Constraint(param, "regex", outputs.regex)
    if outputs.grammar is not None:
        return Constraint(param, "grammar", outputs.grammar)
    return Constraint(
        param, "schema", {"type": "object"} if outputs.json_ is None else outputs.json_
    )


def _asked_schema(response_format: ResponseFormat) -> dict[str, Any]:
    """The schema of a format, whose type may be `json_object`: its reply is an object in any case."""
    wrapped = response_format.json_schema
    schema = response_format.schema_ if wrapped is None else wrapped.schema_
    if response_format.type == "json_schema" and schema is not None:
        return schema
    return {"type": "object", **(schema or {})}


def ignored_fields(body: Request | TokenizeRequest) -> list[str]:
    """Fields that were sent and have no effect: unknown ones, and what this way of decoding has no use for."""
    unused = _unused_for_tokens(body) if isinstance(body, TokenizeRequest) else _unused(body)
    names = body.unknown_fields + [name for name in unused if name in body.model_fields_set]
    has_idle_tools = isinstance(body, ToolFields) and body.tools and not callable_functions(body)
    if has_idle_tools and "tools" not in names:
        names.append("tools")
    return names


def _unused(body: Request) -> Sequence[str]:
    if is_beam_search(body):
        sampling = ["do_sample"] if body.do_sample else []
        return [*UNUSED_WITH_BEAMS, *sampling, *(["best_of"] if body.num_beams > 1 else [])]
    if not is_greedily_decoded(body):
        return UNUSED_WITHOUT_BEAMS
    is_top_p = body.top_p == 0 and "top_p" in body.model_fields_set
    return UNUSED_WITHOUT_BEAMS + (UNUSED_IF_TOP_P_IS_0 if is_top_p else UNUSED_IF_GREEDY)


def _unused_for_tokens(body: TokenizeRequest) -> Sequence[str]:
    """Those of the other kind of prompt."""
    if body.prompt is None:
        return ("raw", "add_special_tokens")
    return ("add_generation_prompt", "tools")
