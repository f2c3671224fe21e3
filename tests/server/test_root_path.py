"""Behind a proxy with a prefix: every path works with it and without it, whatever the proxy leaves of it."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import Mount, Route

from prompts.encoder import SentencePieceEncoder
from tests.support.app_on_fake_engine import listening
from tests.support.fake_engine import FakeEngine
from tests.support.replies import error, events

ROOT_PATH = "/llm/api"
KEY = {"Authorization": "Bearer a key"}
ASKS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": "a"},
    "/v1/responses": {"input": "a"},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [5]},
}
READ = ["/v1/models", "/v1/models/{}", "/health", "/metrics", "/version", "/docs", "/openapi.json",
        "/static-offline-docs/swagger-ui.css"]  # fmt: skip
PAGE = ["/", "/page/{}"]
UNKNOWN = ["/v1/responses/{}"]
"""Routes on which nothing is found."""
SPELLINGS = ["{}", "/llm/api{}", "//llm//api/{}/", "{}/", "/{}//", "/llm/api{}/"]
NAMES = ("a/b", "llm/api/v1/models", "/data/llm")


@pytest.fixture(scope="module")
def client(demo_encoder: SentencePieceEncoder) -> Iterator[httpx.Client]:
    settings: dict[str, Any] = {
        "root_path": "llm//api/",
        "api_key": ["a key"],
        "served_model_name": NAMES,
    }
    with (
        listening(FakeEngine(), demo_encoder, **settings) as url,
        httpx.Client(base_url=url, headers=KEY) as client,
    ):
        yield client


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_route_is_there_with_and_without_the_prefix(
    client: httpx.Client, spelling: str
) -> None:
    for path in READ:
        reply = client.get(f"{client.base_url}{spelling.format(path.format(NAMES[0]))}")
        assert reply.status_code == 200, path
    for path, content in ASKS.items():
        url = f"{client.base_url}{spelling.format(path)}"
        assert client.post(url, json=content).status_code == 200, path
        assert client.get(url).status_code == 405, path
        assert client.post(url, json={**content, "messages": 1, "tokens": "a"}).status_code in (
            200,
            400,
        )
    stream = client.post(
        f"{client.base_url}{spelling.format('/v1/completions')}",
        json={"prompt": "a", "stream": True},
    )
    assert events(stream.text)[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/chat/completions", "See /v1/chat/completions: the base URL of this server ends in /v1."),
        ("/v1/embeddings", "It makes no embeddings: ask another server for them."),
        ("/v1/nothing", "Those that it has are at /docs."),
    ],
)
def test_an_unknown_path_is_named_with_what_to_do(
    client: httpx.Client, path: str, advice: str
) -> None:
    for sent in (path, f"/llm/api{path}"):
        told = error(client.post(sent), 404).message
        assert told == f"This server has no path '{sent}'. {advice}"


def test_no_route_is_left_out_here(client: httpx.Client, serve: Callable[..., TestClient]) -> None:
    app = serve().app
    assert isinstance(app, FastAPI)
    routes = [route for route in app.routes if isinstance(route, Route | Mount)]
    assert len(routes) == len(app.routes)
    paths = {route.path for route in routes} - {"/docs/oauth2-redirect", "/static-offline-docs"}
    assert {re.sub("{.*}", "{}", path) for path in paths} <= {*READ, *ASKS, *PAGE, *UNKNOWN}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_found_by_a_name_that_looks_like_the_prefix(
    client: httpx.Client, spelling: str, name: str
) -> None:
    path = spelling.format(f"/v1/models/{name}")
    assert client.get(f"{client.base_url}{path}").json()["id"] == name


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_key_is_wanted_with_and_without_the_prefix(client: httpx.Client, spelling: str) -> None:
    for path in [*READ, *ASKS, "/unknown", "/health/x", "/llm/api/health", "/llm"]:
        reply = client.get(
            f"{client.base_url}{spelling.format(path)}", headers={"Authorization": "Bearer other"}
        )
        is_health = path == "/health" or (path == "/llm/api/health" and "llm" not in spelling)
        assert reply.status_code == (200 if is_health else 401), path


@pytest.mark.parametrize(
    "path",
    [
        "/unknown",
        "/llm/api/unknown",
        "/llm/api/llm/api/version",
        "/llm/version",
        "/llm/apiversion",
        "/llmx/api",
    ],
)
def test_other_paths_are_not_found(client: httpx.Client, path: str) -> None:
    reply = client.get(path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["", "/", "/llm/api", "/llm/api/", "//llm/api//"])
def test_the_root_is_one_path(client: httpx.Client, path: str) -> None:
    reply = client.get(f"{client.base_url}{path}", follow_redirects=True)
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.url.path.endswith("/")


def test_the_docs_lead_to_paths_that_are_there(client: httpx.Client) -> None:
    assert client.get("/openapi.json").json()["servers"] == [{"url": ROOT_PATH}]
    for page in ("/docs", f"{ROOT_PATH}/docs"):
        text = client.get(page).text
        paths = re.findall(r"""(?:src|href)=["'](/[^"']+)|url: '([^']+)'""", text)
        for path in (first or second for first, second in paths):
            assert path.startswith(ROOT_PATH)
            assert client.get(path).status_code == 200
        assert len(paths) >= 3


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/v1/v1/models", "/version", "/v1/version", "/v1/models/a", "/v1/v1/models/a"],
)
def test_a_prefix_that_begins_a_route_hides_none(
    demo_encoder: SentencePieceEncoder, path: str
) -> None:
    with listening(FakeEngine(), demo_encoder, root_path="/v1", served_model_name=("a",)) as url:
        assert httpx.get(f"{url}{path}").status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/llm/api/v1/models", "/llm/api/llm/api/v1/models"])
def test_a_server_that_puts_no_prefix_before_the_path_is_understood_too(
    serve: Callable[..., TestClient], path: str
) -> None:
    client = TestClient(serve().app, root_path=ROOT_PATH)
    assert client.get(path).status_code == 200
