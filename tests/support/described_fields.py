"""What `/openapi.json` says of fields, and the limits that a text states of one."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

LIMITS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"),
)
NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
RANGE = re.compile(rf"(?<![\w.])({NUMBER}) (?:to|到) ({NUMBER})(?!\w)")
UP_TO = re.compile(rf"\b[Uu]p to ({NUMBER})(?!\w)")


def request_bodies(document: Schema) -> dict[str, Schema]:
    """The schema of each request body, by its name."""
    sent = [
        operation["requestBody"]["content"]["application/json"]["schema"]
        for operations in document["paths"].values()
        for operation in operations.values()
        if "requestBody" in operation
    ]
    return {name_of(schema): resolved(document, schema) for schema in sent}


def name_of(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def resolved(document: Schema, schema: Schema) -> Schema:
    """The schema that is referred to, or the same."""
    found: Schema = (
        document["components"]["schemas"][name_of(schema)] if "$ref" in schema else schema
    )
    return found


def all_fields(document: Schema, body: Schema) -> dict[str, Schema]:
    """The fields of a body and of the objects in it, by `Object.field`; those of the body by their names alone."""
    found: dict[str, Schema] = dict(body["properties"])
    names = list(references(body["properties"]))
    for name in names:
        properties = document["components"]["schemas"][name].get("properties", {})
        found |= {f"{name}.{field}": schema for field, schema in properties.items()}
        names += [below for below in references(properties) if below not in names]
    return found


def references(part: Any) -> Iterator[str]:
    """The names of the schemas that a part of one refers to."""
    for value in parts(part):
        if isinstance(value, dict) and isinstance(value.get("$ref"), str):
            yield name_of(value)


def parts(part: Any) -> Iterator[Any]:
    """A part of a document, and all that is in it."""
    yield part
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for each in inner:
        yield from parts(each)


def limits(field: Schema) -> set[float]:
    """All numbers that bound a field, or what is in it; those of a pattern are its counts, such as `{1,64}`."""
    found: set[float] = set()
    for each in parts(field):
        if isinstance(each, dict):
            bounds = [each.get(limit) for limit in LIMITS]
            counts = re.findall(r"\d+(?=[,}])", str(each.get("pattern", "")))
            found |= {float(bound) for bound in (*bounds, *counts) if bound is not None}
    return found


def needed_limits(field: Schema) -> set[float]:
    """Those that who fills the field has to know: the range of a number that has a largest, the length of a list."""
    found: set[float] = set()
    for branch in (field, *field.get("anyOf", ())):
        least = branch.get("minimum", branch.get("exclusiveMinimum"))
        if "maximum" in branch and branch["maximum"] != least:
            found |= {float(branch["maximum"]), float(least)}
        found |= {
            float(branch[limit]) for limit in ("maxItems", "maxProperties") if limit in branch
        }
    return found


def stated_limits(text: str) -> set[float]:
    """The limits that a text states: as "0 to 2", or as "above 0, up to 10"."""
    found = [number for pair in RANGE.findall(text) for number in pair] + UP_TO.findall(text)
    found += re.findall(rf"\b[Aa]bove ({NUMBER}), up to", text)
    return {to_number(number) for number in found}


def to_number(spelt: str) -> float:
    return float(spelt.replace(",", ""))
