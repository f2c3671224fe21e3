"""Fields that say what a reply must look like -> one constraint."""

from collections.abc import Sequence
from typing import Any

from errors import bad_request
from generation import Constraint
from protocol import GuidedFields, Request, ResponseFormat, StructuredOutputs

CONSTRAINT_FIELDS = {"structured_outputs", "response_format", *GuidedFields.model_fields}


def to_constraint(body: Request) -> Constraint | None:
    """What the reply must look like; None: any text. Raises APIError (400) where two fields say it."""
    constraint = None
    if body.structured_outputs is not None:
        constraint = _from_structured_outputs(body.structured_outputs)
    elif guided := sorted(GuidedFields.model_fields.keys() & body.model_fields_set):
        constraint = _from_guided_fields(body, guided)
    if body.response_format is not None and body.response_format.type != "text":
        if constraint is not None:
            reason = f"'{constraint.param}' cannot be combined with 'response_format'."
            raise bad_request(reason, constraint.param)
        constraint = Constraint("response_format", "schema", _schema_of(body.response_format))
    return constraint


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
