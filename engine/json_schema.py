"""A client's JSON Schema -> an equivalent one that llguidance supports.

llguidance (https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md) refuses a schema that has a keyword
which it does not implement, even where that keyword has no effect, and takes references for strict URIs. So keywords
without effect are dropped, others are replaced by implemented keywords that mean the same, and references are
percent-encoded. Keywords that are left are for llguidance to refuse.

The specification is JSON Schema 2020-12: "core" (https://json-schema.org/draft/2020-12/json-schema-core) and
"validation" (https://json-schema.org/draft/2020-12/json-schema-validation).
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

Schema = dict[str, Any]

SCHEMA_KEYWORDS = ("items", "additionalItems", "additionalProperties")
SCHEMA_LIST_KEYWORDS = ("items", "anyOf", "oneOf", "allOf", "prefixItems")
SCHEMA_MAP_KEYWORDS = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords with a schema, a list of schemas or schemas by name as their value, among those that llguidance reads."""

COMBINING_KEYWORDS = {"$ref", "allOf", "anyOf", "oneOf"}
"""Keywords that apply further schemas to the same value (core, 10.2)."""
OTHER_PROPERTIES_KEYWORDS = {"additionalProperties", "patternProperties", "unevaluatedProperties"}
"""Keywords about properties that `properties` does not name."""
SUPPORTED_FORMATS = (
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
"""Keywords without effect on what is valid (validation, 9)."""

OBJECT_KEYWORDS = {
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
}
ARRAY_KEYWORDS = {"contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems"}
"""Keywords that llguidance does not implement and that have no effect on values of other types (validation, 6)."""

SAFE_IN_POINTER = "/~!$&'()*+,;=:@?"
"""What need not be percent-encoded in the fragment of a URI (RFC 3986, 3.5), besides letters and digits."""
SAFE_IN_URI = SAFE_IN_POINTER + "#%[]"
MAX_REFERENCES = 8
"""How many references in a row are followed."""


def to_supported_schema(schema: Schema) -> Schema:
    """Rewrite a schema in place, and return it; it must be as `json.loads` gives it, without cycles.

    It means the same but in one point: where it leaves open whether an object may have other properties than it names,
    it allows none, because a weak model would go on inventing some. Objects that several schemas describe stay open:
    each schema would refuse the properties that only another names.
    """
    subschemas = list(_subschemas(schema))
    for subschema in subschemas:
        _drop_without_effect(subschema)
        _replace_property_names(subschema, schema)
        _replace_unevaluated(subschema)
        _encode_references(subschema, schema)
    if not any(_combines_objects(subschema) for subschema in subschemas):
        for subschema in subschemas:
            _close_object(subschema)
    return schema


def _subschemas(root: Schema) -> Iterator[Schema]:
    """Yield the schema, all schemas in it, and those that it refers to; not objects in its constants."""
    seen: set[int] = set()
    found: list[Any] = [root]
    while found:
        schema = found.pop()
        if not isinstance(schema, dict) or id(schema) in seen:
            continue
        seen.add(id(schema))
        yield schema
        for keyword in SCHEMA_KEYWORDS:
            found.append(schema.get(keyword))
        for keyword in SCHEMA_LIST_KEYWORDS:
            found += _list(schema, keyword)
        for keyword in SCHEMA_MAP_KEYWORDS:
            found += _map(schema, keyword).values()
        found.append(_resolve(root, schema.get("$ref")))


def _drop_without_effect(schema: Schema) -> None:
    """Remove keywords that allow every value where they stand."""
    dropped = {"$dynamicAnchor", "$recursiveAnchor"}
    types = _types(schema)
    if types and "object" not in types:
        dropped |= OBJECT_KEYWORDS
    if types and "array" not in types:
        dropped |= ARRAY_KEYWORDS
    dropped |= _assertions_without_effect(schema) | _applicators_without_effect(schema)
    for keyword in dropped:
        schema.pop(keyword, None)


def _assertions_without_effect(schema: Schema) -> set[str]:
    """Return assertions that hold for every value, or that another one implies."""
    without_effect = set()
    # Any other format is an annotation (validation, 7.2.1).
    if schema.get("format") not in SUPPORTED_FORMATS:
        without_effect.add("format")
    if schema.get("uniqueItems") is False or _number(schema, "maxItems", 2) < 2:
        without_effect.add("uniqueItems")
    required = _list(schema, "required")
    if _number(schema, "minProperties", 1) <= len(required):
        without_effect.add("minProperties")
    needs = _map(schema, "dependentRequired").values()
    if all(isinstance(names, list) and all(name in required for name in names) for names in needs):
        without_effect.add("dependentRequired")
    return without_effect


def _applicators_without_effect(schema: Schema) -> set[str]:
    """Return keywords with schemas that apply to nothing, as those that depend on a missing keyword do (core, 10)."""
    without_effect = set()
    for keyword in ("patternProperties", "dependentSchemas", "dependencies"):
        if schema.get(keyword) == {}:
            without_effect.add(keyword)
    if schema.get("not") is False:
        without_effect.add("not")
    if "if" not in schema:
        without_effect |= {"then", "else"}
    elif "then" not in schema and "else" not in schema:
        without_effect.add("if")
    # Nothing need be contained, and everything may be.
    is_free = schema.get("minContains") == 0 and "maxContains" not in schema
    if "contains" not in schema or is_free:
        without_effect |= {"contains", "minContains", "maxContains"}
    return without_effect


def _replace_property_names(schema: Schema, root: Schema) -> None:
    """Replace `propertyNames` (core, 10.3.2.4): names that it lists by `properties`, a pattern by `patternProperties`.

    It stays where neither says the same.
    """
    constraints = _name_constraints(schema.get("propertyNames"), root)
    if constraints is None:
        return
    names = _listed_names(constraints)
    pattern = _name_pattern(constraints)
    if not constraints:
        del schema["propertyNames"]
    elif names is not None and not _map(schema, "patternProperties"):
        _allow_properties(schema, names)
    elif pattern is not None and not schema.keys() & {"properties", "patternProperties"}:
        schema["patternProperties"] = {pattern: schema.get("additionalProperties", True)}
        schema["additionalProperties"] = False
        del schema["propertyNames"]


def _name_constraints(names: Any, root: Schema) -> Schema | None:
    """Return the keywords of a `propertyNames` that have an effect on names, which are always strings.

    None if there is no such schema, or if it allows other types than strings.
    """
    for _ in range(MAX_REFERENCES):
        if isinstance(names, dict) and names.keys() - ANNOTATIONS == {"$ref"}:
            names = _resolve(root, names["$ref"])
    if names is True:
        return {}
    if not isinstance(names, dict) or _types(names) - {"string"}:
        return None
    ignored = ANNOTATIONS | {"type"}
    constraints = {keyword: value for keyword, value in names.items() if keyword not in ignored}
    if constraints.get("format") not in SUPPORTED_FORMATS:
        constraints.pop("format", None)
    if constraints.get("minLength") == 0:
        del constraints["minLength"]
    return constraints


def _listed_names(constraints: Schema) -> list[str] | None:
    """Return the names that keep the constraints, if these are a list of them, or a single one."""
    if constraints.keys() == {"const"}:
        return [str(constraints["const"])]
    if constraints.keys() == {"enum"} and isinstance(constraints["enum"], list):
        return [str(name) for name in constraints["enum"]]
    return None


def _allow_properties(schema: Schema, names: list[str]) -> None:
    """Allow the properties of these names alone, each with the schema that it has, instead of `propertyNames`."""
    properties = _map(schema, "properties")
    others = schema.get("additionalProperties", True)
    allowed = {name: properties.get(name, others) for name in names}
    schema["properties"] = {name: value for name, value in allowed.items() if value is not False}
    schema["additionalProperties"] = False
    del schema["propertyNames"]


def _name_pattern(constraints: Schema) -> str | None:
    """Return a regular expression for the names that keep the constraints, if these are a pattern, or lengths."""
    if constraints.keys() == {"pattern"} and isinstance(constraints["pattern"], str):
        return constraints["pattern"]
    if constraints.keys() <= {"minLength", "maxLength"}:
        shortest = constraints.get("minLength", 0)
        longest = constraints.get("maxLength", "")
        return rf"^[\s\S]{{{shortest},{longest}}}$"
    return None


def _replace_unevaluated(schema: Schema) -> None:
    """Replace `unevaluated…` (core, 11) by `additional…`, which is the same if no other schema evaluates anything."""
    for keyword, equivalent in (
        ("unevaluatedProperties", "additionalProperties"),
        ("unevaluatedItems", "items"),
    ):
        if keyword not in schema:
            continue
        if schema[keyword] in (True, {}) or equivalent in schema:
            del schema[keyword]
        elif not schema.keys() & (COMBINING_KEYWORDS | {"if"}):
            schema[equivalent] = schema.pop(keyword)


def _encode_references(schema: Schema, root: Schema) -> None:
    """Percent-encode references, ids and anchors, in which clients write names as they are."""
    for keyword in ("$id", "$ref"):
        if isinstance(schema.get(keyword), str):
            schema[keyword] = quote(schema[keyword], safe=SAFE_IN_URI)
    if isinstance(schema.get("$anchor"), str):
        schema["$anchor"] = quote(schema["$anchor"], safe=SAFE_IN_POINTER)
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        schema["$ref"] = "#" + quote(_pointer(root, reference), safe=SAFE_IN_POINTER)


def _pointer(root: Schema, reference: str) -> str:
    """Return the JSON pointer in a reference to the same document, decoded if it is percent-encoded.

    It is not if it points to something only as it stands: a name in it then has a percent sign.
    """
    sent = reference[1:]
    decoded = unquote(sent)
    is_decoded = _follow(root, decoded) is None and _follow(root, sent) is not None
    return sent if is_decoded else decoded


def _resolve(root: Schema, reference: Any) -> Any:
    """Return what a reference to the same document refers to; None if it is no such reference, or there is nothing."""
    is_local = isinstance(reference, str) and reference.startswith("#")
    return _follow(root, _pointer(root, reference)) if is_local else None


def _follow(root: Any, pointer: str) -> Any:
    """Return what a JSON pointer (RFC 6901) points to, or None."""
    found = root
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(key)
        elif isinstance(found, list) and re.fullmatch(r"\d{1,6}", key) and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found


def _combines_objects(schema: Schema) -> bool:
    """Whether several schemas may each name properties of the same object."""
    if len(_list(schema, "allOf")) > 1:
        return True
    return "properties" in schema and bool(schema.keys() & COMBINING_KEYWORDS)


def _close_object(schema: Schema) -> None:
    """Set `additionalProperties` to false, if the schema names properties and says nothing about others.

    Required properties that it does not name are others too.
    """
    if "properties" not in schema or schema.keys() & OTHER_PROPERTIES_KEYWORDS:
        return
    required = {str(name) for name in _list(schema, "required")}
    if required <= _map(schema, "properties").keys():
        schema["additionalProperties"] = False


def _types(schema: Schema) -> set[str]:
    """Return the types that a schema allows; an empty set if it has no `type`."""
    if isinstance(schema.get("type"), str):
        return {schema["type"]}
    return {name for name in _list(schema, "type") if isinstance(name, str)}


# Clients' schemas may be invalid: a keyword with a value of a wrong type is read as if it were missing.


def _number(schema: Schema, keyword: str, default: float) -> float:
    value = schema.get(keyword)
    return value if isinstance(value, int | float) else default


def _list(schema: Schema, keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []


def _map(schema: Schema, keyword: str) -> dict[str, Any]:
    value = schema.get(keyword)
    return value if isinstance(value, dict) else {}
