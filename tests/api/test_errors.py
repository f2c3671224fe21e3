"""What is not found or not allowed, and the engine's failures, in OpenAI's shape."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from errors import APIError
from generation import Delta
from protocol import ErrorReply
from tests.support.bodies import ASK, CHAT, COMPLETIONS, TALK
from tests.support.fake_engine import SCRIPTS, FakeEngine
from tests.support.replies import error


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("gpt-4", "'gpt-4'"),
        ("通义千问", "'通义千问'"),
        ("a" * 65, f"'{'a' * 63}…'"),
        ("a\r\nb\x1b[31m", "'a\\r\\nb\\x1b[31m'"),
        ("\u202e\u2028", "'\\u202e\\u2028'"),
        ("\x00" * 64, f"'{(chr(92) + 'x00') * 16}"[:64] + "…'"),
    ],
)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/tokenize", "/detokenize"])
def test_an_unknown_model_is_named_and_so_is_what_is_served(
    serve: Callable[..., TestClient], path: str, sent: str, shown: str
) -> None:
    body = {"model": sent, **(TALK if path == CHAT else ASK), "tokens": [5]}
    fault = error(serve(served_model_name=["first", "第二"]).post(path, json=body), 404)
    assert fault.code == "model_not_found"
    assert fault.message == f"The model {shown} does not exist. Served here: 'first', '第二'."


def test_an_unknown_models_page_names_it_too(serve: Callable[..., TestClient]) -> None:
    served = [f"/models/{number}/a-very-long-name" for number in range(20)]
    fault = error(serve(served_model_name=served).get("/v1/models/gpt-4"), 404)
    assert fault.message.startswith(
        "The model 'gpt-4' does not exist. Served here: '/models/0/a-very-long-name', '/mo"
    )
    assert fault.message.endswith("…'.")


@pytest.mark.parametrize(("path", "ask"), [(COMPLETIONS, ASK), (CHAT, TALK), ("/tokenize", ASK)])
def test_an_unknown_model_is_not_found(client: TestClient, path: str, ask: dict[str, Any]) -> None:
    fault = error(client.post(path, json={**ask, "model": "gpt-4"}), 404)
    assert (fault.param, fault.code) == ("model", "model_not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/nothing"),
        ("GET", "/v1/models/gpt-4"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/files"),
    ],
)
def test_unknown_paths_are_not_found(client: TestClient, method: str, path: str) -> None:
    assert error(client.request(method, path), 404).code in ("not_found", "model_not_found")


BASE_URL = "the base URL of this server ends in /v1."


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/chat/completions", f"See /v1/chat/completions: {BASE_URL}"),
        ("/completions", f"See /v1/completions: {BASE_URL}"),
        ("/models", f"See /v1/models: {BASE_URL}"),
        ("/models/gpt-4", f"See /v1/models: {BASE_URL}"),
        ("/v1/v1/chat/completions", f"See /v1/chat/completions: {BASE_URL}"),
        ("/v1/chat/completions/completions", f"See /v1/completions: {BASE_URL}"),
        ("/api/v1/chat/completions", f"See /v1/chat/completions: {BASE_URL}"),
        ("/api/chat", f"It has OpenAI's API, not Ollama's: {BASE_URL}"),
        ("/v1/messages", "It has OpenAI's API, not Anthropic's: use /v1/chat/completions."),
        ("/v1/v1/messages", "It has OpenAI's API, not Anthropic's: use /v1/chat/completions."),
        ("/v1/embeddings", "It makes no embeddings: ask another server for them."),
        ("/embeddings", "It makes no embeddings: ask another server for them."),
        ("/v1/images/generations", "Its model writes text alone: ask another server for"),
        ("/v1/audio/speech", "Its model writes text alone: ask another server for"),
        ("/v1/rerank", "Its model writes text alone: ask another server for"),
        ("/v1/moderations", "Its model writes text alone: ask another server for"),
        ("/v1/files", "It keeps nothing between requests: send all that matters to /v1/chat"),
        ("/v1/batches/x", "It keeps nothing between requests: send all that matters to /v1/chat"),
        ("/v1/assistants", "It keeps nothing between requests: send all that matters to /v1/chat"),
        ("/v1/tokenize", "See /tokenize, which is not under /v1."),
        ("/v1/nothing", "Those that it has are at /docs."),
        ("/page", "Those that it has are at /docs."),
    ],
)
def test_an_unknown_path_is_named_with_what_to_do(
    client: TestClient, path: str, advice: str
) -> None:
    fault = error(client.post(path), 404)
    assert (fault.code, fault.param) == ("not_found", None)
    assert fault.message.startswith(f"This server has no path '{path}'. {advice}")
    assert fault.message.endswith(".")


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ("/" + "a" * 5000, "/" + "a" * 62 + "…"),
        ("/" + "%00" * 64, ("/" + "\\x00" * 16)[:63] + "…"),
        ("/a%0D%0Ab%1B[31m", "/a\\r\\nb\\x1b[31m"),
        ("/%E2%80%AE%E2%80%A8", "/\\u202e\\u2028"),
        ("/" + "%F0%9F%98%80" * 64, "/" + "😀" * 62 + "…"),
        ("/%22%3Cscript%3E", '/"<script>'),
        ("/a//b/?key=secret", "/a/b"),
    ],
)
def test_a_path_is_named_shortly_and_without_control_characters(
    client: TestClient, sent: str, named: str
) -> None:
    fault = error(client.get(sent), 404)
    assert fault.message == f"This server has no path '{named}'. Those that it has are at /docs."


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", COMPLETIONS), ("DELETE", CHAT), ("POST", "/v1/models"), ("POST", "/")],
)
def test_wrong_methods_are_not_allowed(client: TestClient, method: str, path: str) -> None:
    reply = client.request(method, path)
    error(reply, 405)
    assert reply.headers["allow"]


def test_a_full_server_says_when_to_come_back(client: TestClient, engine: FakeEngine) -> None:
    engine.room = 0
    reply = client.post(COMPLETIONS, json=ASK)
    assert error(reply, 503).code == "server_overloaded"
    assert int(reply.headers["retry-after"]) >= 1
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("ask", [{**ASK, "n": 2}, {"prompt": ["a", "b"]}])
def test_all_choices_of_a_request_need_room(
    client: TestClient, engine: FakeEngine, ask: dict[str, Any]
) -> None:
    engine.room = 1
    assert error(client.post(COMPLETIONS, json=ask), 503).code == "server_overloaded"


def test_an_unexpected_failure_is_a_500_that_says_nothing_and_is_logged(
    client: TestClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.script = [RuntimeError("secret path /home/x")]
    assert "secret" not in error(client.post(COMPLETIONS, json=ASK), 500).message
    assert "secret path" in caplog.text


def test_a_500_can_be_read_by_a_browser(client: TestClient, engine: FakeEngine) -> None:
    engine.script = [RuntimeError("boom")]
    reply = client.post(COMPLETIONS, json=ASK, headers={"Origin": "http://demo.example"})
    error(reply, 500)
    assert reply.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "failure", [RuntimeError("boom"), APIError(503, "The engine has died.", code="engine_dead")]
)
@pytest.mark.parametrize(
    ("path", "ask"), [(COMPLETIONS, ASK), (CHAT, TALK), (COMPLETIONS, {"prompt": ["a", "b"]})]
)
def test_failure_mid_stream_is_an_event(
    client: TestClient, engine: FakeEngine, failure: Exception, path: str, ask: dict[str, Any]
) -> None:
    engine.script = [*SCRIPTS["stop"][:2], failure]
    reply = client.post(path, json={**ask, "stream": True})
    assert reply.status_code == 200
    *chunks, last, done, rest = reply.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    body = ErrorReply.model_validate_json(last.removeprefix("data: "))
    assert body.error.type == "server_error"
    assert body.error.code == getattr(failure, "code", None)
    assert any("北京" in chunk for chunk in chunks)
    assert engine.running == 0


@pytest.mark.parametrize(
    ("path", "ask"), [(COMPLETIONS, ASK), (CHAT, TALK), (COMPLETIONS, {"prompt": ["a", "b"]})]
)
def test_failure_before_the_first_token_has_its_status_in_a_stream_too(
    client: TestClient, engine: FakeEngine, path: str, ask: dict[str, Any]
) -> None:
    engine.script = [APIError(503, "Full.", code="server_overloaded", headers={"Retry-After": "1"})]
    reply = client.post(
        path, json={**ask, "stream": True}, headers={"Origin": "http://demo.example"}
    )
    assert error(reply, 503).code == "server_overloaded"
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["access-control-allow-origin"] == "*"


def test_the_engine_is_free_after_a_failure_in_a_batch(
    client: TestClient, engine: FakeEngine
) -> None:
    engine.script = [Delta(0, "x", (1,)), RuntimeError("boom")]
    error(client.post(COMPLETIONS, json={"prompt": ["a", "b", "c"]}), 500)
    assert engine.running == 0


def test_the_log_of_an_unexpected_failure_has_the_requests_id(
    client: TestClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.script = [ValueError("unexpected")]
    for stream in (False, True):
        caplog.clear()
        client.post(COMPLETIONS, json={**ASK, "stream": stream}, headers={"X-Request-Id": "abc-1"})
        [record] = [record for record in caplog.records if record.exc_info]
        assert "abc-1" in record.getMessage()
