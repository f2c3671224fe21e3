"""Bodies that are no JSON, no object, nested without end, or of characters that are none."""

import re

import pytest
from fastapi.testclient import TestClient

from prompts.encoder import SentencePieceEncoder
from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.fake_engine import FakeEngine
from tests.support.replies import error


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b'"prompt"', b"null", b"\xff\xfe", b"5", b"[" * 100_000]
)
def test_a_body_that_is_no_json_object(client: TestClient, content: bytes) -> None:
    assert error(client.post(COMPLETIONS, content=content), 400).code is None


@pytest.mark.parametrize("depth", [200, 900, 970, 995, 5_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize(
    "body",
    [
        '{"messages": [{"role": "assistant", "tool_calls": [%s]}, {"role": "user", "content": ""}]}',
        '{"messages": "a", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": %s}}}], '
        '"tool_choice": "required"}',
        '{"messages": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": {"a": %s}}}}',
        '{"messages": "a", "metadata": %s, "unknown": 1}',
        '{"messages": [{"role": "user", "content": %s}]}',
    ],
)
def test_deep_nesting_is_read_or_refused_anywhere(
    client: TestClient, body: str, opens: str, closes: str, depth: int
) -> None:
    reply = client.post(CHAT, content=body % (opens * depth + "1" + closes * depth))
    assert reply.status_code == 200 or error(reply, 400)


@pytest.mark.parametrize("schema", [b'{"minimum": NaN}', b'{"enum": ["' + b"x" * 70_000 + b'"]}'])
def test_a_schema_that_is_no_json_or_endless_is_a_bad_request(
    client: TestClient, schema: bytes
) -> None:
    content = (
        b'{"messages": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": %b}}}'
        % schema
    )
    assert (
        error(client.post(CHAT, content=content), 400).param == "response_format.json_schema.schema"
    )


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (CHAT, rb'{"messages": [{"role": "user", "content": "a\ud800b"}]}'),
        (CHAT, rb'{"messages": "\udfff"}'),
        (COMPLETIONS, rb'{"prompt": "a", "stop": "\ud83d"}'),
        (COMPLETIONS, rb'{"prompt": "a\ud800b", "metadata": 1}'),
        (CHAT, rb'{"messages": "a", "metadata": {"\ud800": 1}}'),
        (
            CHAT,
            rb'{"messages": "a", "response_format": {"json_schema": {"schema": {"title": "\ud800"}}}}',
        ),
    ],
)
def test_a_lone_surrogate_is_a_bad_request_that_says_where(
    client: TestClient, path: str, content: bytes
) -> None:
    message = error(client.post(path, content=content), 400).message
    assert re.fullmatch(
        r"The request body is not valid JSON: .* hex escape at line 1 column \d+\.", message
    )


def test_a_surrogate_pair_is_a_character(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    assert client.post(COMPLETIONS, content=rb'{"prompt": "\ud83d\ude00"}').status_code == 200
    assert "😀" in demo_encoder.decode(engine.asked[0][0].ids)
