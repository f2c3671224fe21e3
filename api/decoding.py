"""A request body -> how it is decoded.

Fields of several names for one thing, and defaults that depend on others, are resolved here, once: whoever needs to
know how a request is decoded asks its `Decoding`, not its body.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from api.tool_calls import call_prefixes
from errors import bad_request
from generation import Constraint, Decoding
from protocol import (
    CompletionRequest,
    Function,
    GenerationFields,
    GuidedFields,
    Request,
    ResponseFormat,
    StructuredOutputs,
)

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


def to_decoding(body: Request, functions: Sequence[Function] = ()) -> Decoding:
    """How a body is decoded whose answer has to call one of `functions`, if there are any.

    Raises APIError (400) where two fields say what the reply must look like. `max_tokens` is what was asked for, not
    yet what there is room for.
    """
    is_greedy = body.temperature == 0 or body.top_p == 0 or not body.do_sample
    is_beam_search = body.use_beam_search or body.num_beams > 1
    penalty = body.repetition_penalty
    if is_beam_search and "repetition_penalty" not in body.model_fields_set:
        penalty = 1.0  # the default of sampling is not meant for beams
    return Decoding(
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
        constraint=_to_constraint(body, functions),
    )


def _max_tokens(body: GenerationFields) -> int:
    """The smaller of `max_tokens`, if it was sent, and `max_completion_tokens`."""
    if body.max_completion_tokens is None:
        return body.max_tokens
    if "max_tokens" not in body.model_fields_set:
        return body.max_completion_tokens
    return min(body.max_tokens, body.max_completion_tokens)


def _alternatives(body: Request) -> int | None:
    if isinstance(body, CompletionRequest):
        return body.logprobs
    return body.top_logprobs if body.logprobs else None


def _to_constraint(body: Request, functions: Sequence[Function]) -> Constraint | None:
    """What the reply must look like; None: any text."""
    constraints = []
    if functions:
        schemas = [function.parameters for function in functions]
        calls = tuple(zip(call_prefixes(functions), schemas, strict=True))
        constraints.append(Constraint("tools", "calls", calls))
    if body.structured_outputs is not None:
        constraints.append(_from_structured_outputs(body.structured_outputs))
    elif guided := sorted(GuidedFields.model_fields.keys() & body.model_fields_set):
        constraints.append(_from_guided_fields(body, guided))
    if body.response_format is not None and body.response_format.type != "text":
        schema = _schema_of(body.response_format)
        constraints.append(Constraint("response_format", "schema", schema))
    if len(constraints) > 1:
        param, *others = [constraint.param for constraint in constraints]
        named = " and ".join(map(repr, others))
        raise bad_request(f"'{param}' cannot be combined with {named}.", param)
    return constraints[0] if constraints else None


def _from_guided_fields(body: Request, sent: Sequence[str]) -> Constraint:
    """What a field asks for that has one of vLLM's former names; raises APIError (400) if there is another."""
    param, *others = sent
    if others:
        raise bad_request(f"'{param}' cannot be combined with '{others[0]}'.", param)
    name, value = param.removeprefix("guided_"), getattr(body, param)
    outputs = StructuredOutputs.model_validate({name: value})
    return _from_structured_outputs(outputs, param)


def _from_structured_outputs(
    outputs: StructuredOutputs, param: str = "structured_outputs"
) -> Constraint:
    """vLLM's words for a constraint, exactly one of which was sent, as the field `param`."""
    if outputs.choice:
        return Constraint(param, "choice", tuple(outputs.choice))
    if outputs.regex is not None:
        return Constraint(param, "regex", outputs.regex)
    if outputs.grammar is not None:
        return Constraint(param, "grammar", outputs.grammar)
    schema = {"type": "object"} if outputs.json_ is None else outputs.json_
    return Constraint(param, "schema", schema)


def _schema_of(response_format: ResponseFormat) -> dict[str, Any]:
    """The schema of a format; of the type `json_object` the reply is an object, whatever its schema says besides."""
    wrapped = response_format.json_schema
    schema = response_format.schema_ if wrapped is None else wrapped.schema_
    if response_format.type == "json_schema" and schema is not None:
        return schema
    return {"type": "object", **(schema or {})}
