"""Browsers: what pages of other origins may ask and read."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient


def test_a_browser_may_ask(client: TestClient) -> None:
    headers = {"Origin": "http://demo.example", "Access-Control-Request-Method": "POST",
               "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    reply = client.options("/v1/chat/completions", headers=headers)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "authorization" in reply.headers["access-control-allow-headers"].lower()


@pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing", "/v1/models/none"])
def test_every_reply_can_be_read_by_a_browser(client: TestClient, path: str) -> None:
    reply = client.get(path, headers={"Origin": "http://demo.example"})
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "X-Ignored-Parameters" in reply.headers["access-control-expose-headers"]


def test_only_allowed_origins_are_told_so(serve: Callable[..., TestClient]) -> None:
    client = serve(allowed_origins=("http://a.example",), allow_credentials=True)
    assert client.get("/health", headers={"Origin": "http://a.example"}).headers[
        "access-control-allow-credentials"
    ]
    assert (
        "access-control-allow-origin"
        not in client.get("/health", headers={"Origin": "http://b.example"}).headers
    )


def test_a_refused_preflight_is_an_error_like_any(serve: Callable[..., TestClient]) -> None:
    client = serve(allowed_origins=("http://a.example",))
    headers = {"Origin": "http://b.example", "Access-Control-Request-Method": "POST"}
    reply = client.options("/v1/chat/completions", headers=headers)
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert reply.headers["vary"].startswith("Origin")


PRIVATE = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Private-Network": "true",
}


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        ({}, "https://chat.example"),
        ({}, "null"),
        ({"api_key": ["a key"]}, "https://chat.example"),
        ({"allow_credentials": True}, "https://chat.example"),
        ({"allowed_origins": ("https://chat.example",)}, "https://chat.example"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/tokenize"]
)
def test_a_public_page_may_ask_a_server_in_a_private_network(
    serve: Callable[..., TestClient], settings: dict[str, Any], origin: str, path: str
) -> None:
    headers = {
        **PRIVATE,
        "Origin": origin,
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    reply = serve(**settings).options(path, headers=headers)
    assert (reply.status_code, reply.headers["access-control-allow-private-network"]) == (
        200,
        "true",
    )
    assert reply.headers["access-control-allow-origin"] in ("*", origin)
    del headers["Access-Control-Request-Private-Network"]
    reply = serve(**settings).options(path, headers=headers)
    assert (reply.status_code, "access-control-allow-private-network" in reply.headers) == (
        200,
        False,
    )


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        ({"allowed_origins": ("https://a.example",)}, {"Origin": "https://b.example"}),
        (
            {"allowed_origins": ("https://a.example",), "allow_credentials": True},
            {"Origin": "null"},
        ),
        ({"allowed_methods": ("GET",)}, {"Origin": "https://a.example"}),
        (
            {"allowed_headers": ("authorization",)},
            {"Origin": "https://a.example", "Access-Control-Request-Headers": "x-other"},
        ),
    ],
    ids=str,
)
def test_a_refused_preflight_grants_no_private_network(
    serve: Callable[..., TestClient], settings: dict[str, Any], headers: dict[str, str]
) -> None:
    reply = serve(**settings).options("/v1/completions", headers={**PRIVATE, **headers})
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "access-control-allow-private-network" not in reply.headers
