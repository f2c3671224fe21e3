"""vLLM's former names of `structured_outputs`: read as these, or passed over where those are sent too."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.bodies import ASK, CHAT, COMPLETIONS, TALK
from tests.support.fake_engine import FakeEngine
from tests.support.replies import error

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
VALUES: dict[str, Any] = {
    "json": SCHEMA,
    "choice": ["甲", "乙"],
    "regex": "[a-z]+",
    "grammar": 'root ::= "a"',
}
ENDPOINTS = [(COMPLETIONS, ASK), (CHAT, TALK)]


@pytest.mark.parametrize(("path", "ask"), ENDPOINTS)
@pytest.mark.parametrize("name", VALUES)
def test_a_former_name_means_the_same(
    client: TestClient, engine: FakeEngine, path: str, ask: dict[str, Any], name: str
) -> None:
    former = client.post(path, json={**ask, f"guided_{name}": VALUES[name]})
    assert client.post(path, json={**ask, "structured_outputs": {name: VALUES[name]}}).is_success
    assert former.status_code == 200
    assert "X-Ignored-Parameters" not in former.headers
    found, meant = (decoding.constraint for _, decoding, _ in engine.asked)
    assert found is not None
    assert meant is not None
    assert (found.kind, found.value) == (meant.kind, meant.value)
    assert (found.param, meant.param) == (f"guided_{name}", "structured_outputs")


def test_a_schema_may_be_a_string(client: TestClient, engine: FakeEngine) -> None:
    assert client.post(CHAT, json={**TALK, "guided_json": json.dumps(SCHEMA)}).is_success
    constraint = engine.asked[0][1].constraint
    assert constraint is not None
    assert constraint.value == SCHEMA


@pytest.mark.parametrize(("path", "ask"), ENDPOINTS)
def test_former_names_are_passed_over_beside_the_new_one(
    client: TestClient, engine: FakeEngine, path: str, ask: dict[str, Any]
) -> None:
    """Guidance's client sends both, for old and for new servers."""
    body = {
        **ask,
        "guided_decoding_backend": "guidance",
        "guided_grammar": "start: /b/",
        "guided_regex": "b",
        "structured_outputs": {"grammar": "start: /a/"},
    }
    reply = client.post(path, json=body)
    assert reply.status_code == 200
    assert (
        reply.headers["X-Ignored-Parameters"]
        == "guided_decoding_backend, guided_grammar, guided_regex"
    )
    constraint = engine.asked[0][1].constraint
    assert constraint is not None
    assert constraint.value == "start: /a/"


def test_how_an_old_server_decoded_is_ignored_by_name(client: TestClient) -> None:
    body = {
        **TALK,
        "guided_choice": ["a"],
        "guided_decoding_backend": "outlines",
        "guided_whitespace_pattern": " ?",
    }
    reply = client.post(CHAT, json=body)
    assert (reply.status_code, reply.headers["X-Ignored-Parameters"]) == (
        200,
        "guided_decoding_backend, guided_whitespace_pattern",
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_choice": ["a", 1]}, "guided_choice[1]"),
        ({"guided_regex": "a" * 16_385}, "guided_regex"),
        ({"guided_regex": ["a"]}, "guided_regex"),
        ({"guided_grammar": {}}, "guided_grammar"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_json": {}, "response_format": {"type": "json_object"}}, "guided_json"),
        ({"guided_regex": "a", "num_beams": 2}, "guided_regex"),
        ({"guided_regex": "a", "ignore_eos": True}, "guided_regex"),
        ({"guided_regex": "a", "min_tokens": 2}, "guided_regex"),
    ],
)
@pytest.mark.parametrize(("path", "ask"), ENDPOINTS)
def test_what_is_wrong_with_one_names_it(
    client: TestClient, path: str, ask: dict[str, Any], fields: dict[str, Any], param: str
) -> None:
    fault = error(client.post(path, json={**ask, **fields}), 400)
    assert fault.param == param
    assert f"'{param}'" in fault.message
