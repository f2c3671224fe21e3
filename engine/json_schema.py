"""A client's JSON Schema, rewritten as one that llguidance reads, with the same meaning.

llguidance (https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md) refuses keywords that it does not
implement wherever they stand, and takes references for strict URIs. Here keywords that say nothing where they stand
are dropped, those that have an equal among the implemented ones are replaced by it, and references are spelt as
URIs. What is left unimplemented is llguidance's to refuse. Section numbers are those of JSON Schema 2020-12.
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

Schema = dict[str, Any]

SUBSCHEMA_KEYS = ("items", "additionalItems", "additionalProperties")
SUBSCHEMA_LIST_KEYS = ("items", "anyOf", "oneOf", "allOf", "prefixItems")
SUBSCHEMA_MAP_KEYS = ("properties", "patternProperties", "$defs", "definitions")
"""Where JSON Schema has schemas in a schema, as far as llguidance reads them."""

COMPOSING_KEYS = {"$ref", "allOf", "anyOf", "oneOf"}
OTHER_PROPERTIES_KEYS = {"additionalProperties", "patternProperties", "unevaluatedProperties"}
FORMATS = (
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
)
ANNOTATIONS = {
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
}
"""They say nothing about what is valid (validation, section 9)."""

OF_OBJECTS = (
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
)
OF_ARRAYS = ("contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems")
"""Not implemented, and without a say about values of other types (validation, section 6)."""

IN_POINTER = "/~!$&'()*+,;=:@?"
"""What may stand in a URI's fragment as it is (RFC 3986, section 3.5), besides letters and digits."""
IN_URI = IN_POINTER + "#%[]"
MAX_REFERENCES = 8


def to_supported_schema(schema: Schema) -> Schema:
    """The schema, changed in place; it must be JSON (no cycles, names are strings).

    Objects get no other properties than the schema names, where it leaves that open: a weak model would go on
    inventing some. Objects that are put together from several schemas stay open, because each of those would refuse
    the others' properties.
    """
    parts = list(_subschemas(schema))
    for part in parts:
        _drop_without_effect(part)
        _replace_property_names(part, schema)
        _replace_unevaluated(part)
        _respell_references(part, schema)
    if not any(_is_composed(part) for part in parts):
        for part in parts:
            _close(part)
    return schema


def _subschemas(root: Schema) -> Iterator[Schema]:
    """The schema, all that stand in it, and all that it refers to; not what only looks like one: a constant."""
    seen: set[int] = set()
    found: list[Any] = [root]
    while found:
        part = found.pop()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        found += [part.get(key) for key in SUBSCHEMA_KEYS]
        found += [each for key in SUBSCHEMA_LIST_KEYS for each in _list(part, key)]
        found += [each for key in SUBSCHEMA_MAP_KEYS for each in _map(part, key).values()]
        found.append(_resolve(root, part.get("$ref")))


def _drop_without_effect(part: Schema) -> None:
    """Keywords that say nothing where they stand."""
    types = _types(part)
    dropped = {"$dynamicAnchor", "$recursiveAnchor"}
    if types and "object" not in types:
        dropped |= set(OF_OBJECTS)
    if types and "array" not in types:
        dropped |= set(OF_ARRAYS)
    if part.get("uniqueItems") is False or _number(part, "maxItems", 2) < 2:
        dropped.add("uniqueItems")
    if part.get("format") not in FORMATS:  # 7.2.1: only an annotation
        dropped.add("format")
    dropped |= {
        key
        for key in ("patternProperties", "dependentSchemas", "dependencies")
        if part.get(key) == {}
    }
    dropped |= _idle_applicators(part)
    if _number(part, "minProperties", 1) <= len(_list(part, "required")):
        dropped.add("minProperties")
    required = _list(part, "required")
    needs = _map(part, "dependentRequired").values()
    if all(isinstance(names, list) and all(name in required for name in names) for names in needs):
        dropped.add("dependentRequired")
    for key in dropped:
        part.pop(key, None)


def _idle_applicators(part: Schema) -> set[str]:
    """Keywords that only say something beside another one, which is missing (core, sections 10.2.2 and 10.3.1)."""
    idle = set()
    if part.get("not") is False:
        idle.add("not")
    if "if" not in part:
        idle |= {"then", "else"}
    elif "then" not in part and "else" not in part:
        idle.add("if")
    if "contains" not in part or (part.get("minContains") == 0 and "maxContains" not in part):
        idle |= {"contains", "minContains", "maxContains"}
    return idle


def _replace_property_names(part: Schema, root: Schema) -> None:
    """`propertyNames` (core, 10.3.2.4) as properties, where it lists names, or as a pattern; else it stays."""
    said = _said_of_names(part.get("propertyNames"), root)
    if said is None:
        return
    if not said:
        del part["propertyNames"]
    elif said.keys() in ({"enum"}, {"const"}) and not _map(part, "patternProperties"):
        _name_properties(part, list(map(str, said.get("enum", [said.get("const")]))))
    elif (pattern := _pattern(said)) is not None and not part.keys() & {
        "properties",
        "patternProperties",
    }:
        others = part.get("additionalProperties", True)
        part.update(patternProperties={pattern: others}, additionalProperties=False)
        del part["propertyNames"]


def _said_of_names(names: Any, root: Schema) -> Schema | None:
    """What a schema of names, which are strings anyway, says of them; None if it is no such schema."""
    for _ in range(MAX_REFERENCES):
        if isinstance(names, dict) and names.keys() - ANNOTATIONS == {"$ref"}:
            names = _resolve(root, names["$ref"])
    if names is True:
        return {}
    if not isinstance(names, dict) or _types(names) - {"string"}:
        return None
    said = {key: value for key, value in names.items() if key not in ANNOTATIONS and key != "type"}
    if said.get("format") not in FORMATS:
        said.pop("format", None)
    if said.get("minLength") == 0:
        del said["minLength"]
    return said


def _name_properties(part: Schema, names: list[str]) -> None:
    """No other properties than these, each as the schema says."""
    own, others = _map(part, "properties"), part.get("additionalProperties", True)
    allowed = {name: own.get(name, others) for name in names}
    part["properties"] = {name: schema for name, schema in allowed.items() if schema is not False}
    part["additionalProperties"] = False
    del part["propertyNames"]


def _pattern(said: Schema) -> str | None:
    """The pattern that strings have of which nothing is said but their pattern or their length."""
    if said.keys() == {"pattern"} and isinstance(said["pattern"], str):
        return said["pattern"]
    if said.keys() <= {"minLength", "maxLength"}:
        least, most = said.get("minLength", 0), said.get("maxLength", "")
        return rf"^[\s\S]{{{least},{most}}}$"
    return None


def _replace_unevaluated(part: Schema) -> None:
    """`unevaluated…` (core, section 11) where no other schema has evaluated anything: it is `additional…` then."""
    for keyword, same in (
        ("unevaluatedProperties", "additionalProperties"),
        ("unevaluatedItems", "items"),
    ):
        if part.get(keyword) in (True, {}) or (keyword in part and same in part):
            del part[keyword]
        elif keyword in part and not part.keys() & (COMPOSING_KEYS | {"if"}):
            part[same] = part.pop(keyword)


def _respell_references(part: Schema, root: Schema) -> None:
    """References and what they refer to by name, as URIs: names that clients choose are any text."""
    for key in ("$id", "$ref"):
        if isinstance(part.get(key), str):
            part[key] = quote(part[key], safe=IN_URI)
    if isinstance(part.get("$anchor"), str):
        part["$anchor"] = quote(part["$anchor"], safe=IN_POINTER)
    reference = part.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        part["$ref"] = "#" + quote(_fragment(root, reference), safe=IN_POINTER)


def _fragment(root: Schema, reference: str) -> str:
    """The fragment of a local reference, unquoted; one that was sent unquoted has perhaps a percent sign in a name."""
    sent = reference[1:]
    unquoted = unquote(sent)
    return sent if _find(root, unquoted) is None and _find(root, sent) is not None else unquoted


def _resolve(root: Schema, reference: Any) -> Any:
    """What a local reference points to; None if it is none, or points nowhere."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    return _find(root, _fragment(root, reference))


def _find(root: Any, pointer: str) -> Any:
    """What a JSON pointer (RFC 6901) points to, if there is something."""
    found = root
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and re.fullmatch(r"\d{1,6}", name) and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def _is_composed(part: Schema) -> bool:
    """Whether an object is put together from several schemas."""
    return len(_list(part, "allOf")) > 1 or (
        "properties" in part and bool(part.keys() & COMPOSING_KEYS)
    )


def _close(part: Schema) -> None:
    """Let an object have no other properties than it names, if it says nothing about others."""
    is_open = "properties" in part and not part.keys() & OTHER_PROPERTIES_KEYS
    if is_open and set(map(str, _list(part, "required"))) <= _map(part, "properties").keys():
        part["additionalProperties"] = False


def _types(part: Schema) -> set[str]:
    """The types that a value may have; none: nothing is said."""
    types = part.get("type", [])
    return (
        {types}
        if isinstance(types, str)
        else {each for each in _list(part, "type") if isinstance(each, str)}
    )


def _number(part: Schema, key: str, otherwise: float) -> float:
    value = part.get(key)
    return value if isinstance(value, int | float) else otherwise


def _list(schema: Schema, key: str) -> list[Any]:
    return schema[key] if isinstance(schema.get(key), list) else []


def _map(schema: Schema, key: str) -> dict[str, Any]:
    return schema[key] if isinstance(schema.get(key), dict) else {}
