"""Keys: which requests want one, where they are read from, and that nobody is shown them."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import openai_api_server_vllm
from settings import Settings, StartError, read_keys
from tests.support.bodies import ASK
from tests.support.loaded import LOADED
from tests.support.replies import error

KEYS = ["first key", "zweiter-Schlüssel"]


@pytest.fixture
def guarded(serve: Callable[..., TestClient]) -> TestClient:
    return serve(api_key=KEYS)


def bearer(key: str) -> dict[str, bytes]:
    return {"Authorization": f"Bearer {key}".encode()}


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/metrics", "/docs"])
def test_an_options_request_without_a_key_learns_nothing(guarded: TestClient, path: str) -> None:
    """A browser's preflight carries no key, and is answered by CORS alone."""
    asks = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
    assert guarded.options(path, headers=asks).status_code == 200
    error(guarded.options(path), 405)


def test_every_route_but_health_and_the_page_wants_a_key(
    serve: Callable[..., TestClient], guarded: TestClient
) -> None:
    app = guarded.app
    assert isinstance(app, FastAPI)
    paths = {
        route.path.replace("{model_id:path}", "a/b")
        for route in app.routes
        if hasattr(route, "path")
    }
    assert {
        "/v1/completions",
        "/tokenize",
        "/docs",
        "/openapi.json",
        "/health",
        "/version",
    } <= paths
    spellings = {
        *paths,
        "/unknown",
        "/V1/models",
        "/v1//models",
        "//v1/models/",
        "/healthy",
        "/health/x",
        "/HEALTH",
    }
    for path in spellings - {"/health", "/"}:
        for method in ("GET", "POST", "HEAD", "DELETE"):
            reply = guarded.request(method, f"http://testserver{path}")
            assert reply.status_code == 401, (method, path)
    refused = error(guarded.get("/v1/models"), 401)
    assert (refused.type, refused.code) == ("invalid_request_error", "invalid_api_key")
    for path in ("/health", "//health", "/health/"):
        assert guarded.get(f"http://testserver{path}").status_code == 200
    assert serve(api_key=KEYS, root_path="/api").get("/health").status_code == 200
    for path in ("/", "/page/main.js", "//page//main.js/"):
        assert guarded.get(f"http://testserver{path}").status_code == 200
    for path in ("/page", "/page/other.js", "/page/../settings.py", "/page/index.html/x"):
        assert guarded.get(f"http://testserver{path}").status_code == 401
    assert serve(api_key=KEYS, page=False).get("/").status_code == 401


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(guarded: TestClient, key: str) -> None:
    assert guarded.get("/v1/models", headers=bearer(key)).status_code == 200
    assert (
        guarded.get("/v1/models", headers={"Authorization": f"bearer  {key} ".encode()}).status_code
        == 200
    )
    assert guarded.post("/v1/completions", headers=bearer(key), json=ASK).status_code == 200


@pytest.mark.parametrize(
    "sent",
    ["", "Bearer", "Bearer ", "Bearer first", "first key", "Basic first key", "Bearer x" * 999],
)
def test_what_is_no_key_does_not_open(guarded: TestClient, sent: str) -> None:
    assert (
        error(guarded.get("/v1/models", headers={"Authorization": sent}), 401).code
        == "invalid_api_key"
    )


def test_a_browser_can_read_the_refusal_and_ask_before(guarded: TestClient) -> None:
    origin = {"Origin": "http://example.org"}
    refused = guarded.get("/v1/models", headers=origin)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
    asked = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    assert guarded.options("/v1/completions", headers=asked).status_code == 200
    assert guarded.options("/v1/completions").status_code == 405


def test_keys_come_from_flags_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(
        openai_api_server_vllm, "serve", lambda settings, others: seen.append(settings)
    )
    monkeypatch.setattr(sys, "argv", ["server", "--api-key", "a", "b", "--api-key=c"])
    monkeypatch.setenv("VLLM_API_KEY", "d,e,")
    assert openai_api_server_vllm.main() == 0
    assert seen[0].api_key == [*"abcde"]


@pytest.mark.parametrize(
    ("given", "variable", "keys"),
    [
        ([], None, []),
        ([], "k1, k2", ["k1", "k2"]),
        ([], "k1\n", ["k1"]),
        ([], "\ufeffk1\r\n", ["k1"]),
        ([], "k1\nk2\n\n", ["k1", "k2"]),
        ([], " ,k1,, ", ["k1"]),
        (["k1\n", " k2\t"], None, ["k1", "k2"]),
        (["my key", "钥匙"], "k3", ["my key", "钥匙", "k3"]),
    ],
)
def test_blanks_around_a_key_are_no_part_of_it(
    given: list[str], variable: str | None, keys: list[str]
) -> None:
    assert read_keys(given, variable) == keys


@pytest.mark.parametrize("key", ["", "  ", "\n", "\ufeff", "k1\nk2", "k\x00"])
def test_a_key_that_no_client_can_send_ends_the_start(key: str) -> None:
    with pytest.raises(StartError, match="key"):
        read_keys(["k1", key], None)


@pytest.mark.parametrize("variable", ["", " ", ",", " , \n", "\ufeff"])
@pytest.mark.parametrize("given", [[], ["k1"]])
def test_a_variable_without_a_key_ends_the_start(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    variable: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["server", *(f"--api-key={key}" for key in given)])
    monkeypatch.setenv("VLLM_API_KEY", variable)
    assert openai_api_server_vllm.main() == 1
    assert capsys.readouterr().err.startswith("error: VLLM_API_KEY is set, but holds no key")


def test_keys_stay_out_of_the_log(guarded: TestClient, lines: Callable[[], list[str]]) -> None:
    for sent in (KEYS[1], "wrong-marker"):
        guarded.get("/v1/models", headers=bearer(sent))
        guarded.get(f"/v1/models?key={sent}", headers=bearer(sent))
    assert len(lines()) == 4
    assert not [line for line in lines() if KEYS[1] in line or "wrong-marker" in line]


def test_keys_stay_out_of_what_is_shown() -> None:
    settings = Settings(api_key=KEYS, host="0.0.0.0")
    from server.console import banner

    assert not [key for key in KEYS if key in repr(settings) or key in banner(settings, LOADED)]


@pytest.mark.parametrize(
    ("settings", "is_open"),
    [
        ({}, False),
        ({"host": "127.0.0.1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "192.168.1.5"}, True),
        ({"host": "0.0.0.0", "api_key": KEYS}, False),
    ],
)
def test_an_open_server_says_so(settings: dict[str, Any], is_open: bool) -> None:
    from server.console import banner

    assert ("no --api-key" in banner(Settings(**settings), LOADED)) == is_open
