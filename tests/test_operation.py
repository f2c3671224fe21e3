"""In operation, on real sockets: keys, and how much may arrive and how fast."""

import json
import socket
import time

import httpx
import pytest
from conftest import listening, wait_for
from fake_engine import FakeEngine

import middleware
from generation import Delta
from settings import Settings

KEYS = ["first key", "zweiter-Schlüssel"]
ASK = {"prompt": "a", "max_tokens": 5}
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


def error(reply: httpx.Response, status: int) -> dict:
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    return reply.json()["error"]


@pytest.fixture
def guarded(serve):
    return serve(api_key=KEYS)


def bearer(key: str) -> dict[str, bytes]:
    return {"Authorization": f"Bearer {key}".encode()}


def test_every_route_but_health_wants_a_key(serve, guarded):
    paths = {route.path.replace("{model_id:path}", "a/b") for route in guarded.app.routes if hasattr(route, "path")}
    assert {"/v1/completions", "/tokenize", "/docs", "/openapi.json", "/health", "/version"} <= paths
    spellings = {*paths, "/unknown", "/V1/models", "/v1//models", "//v1/models/", "/healthy", "/health/x", "/HEALTH"}
    for path in spellings - {"/health"}:
        for method in ("GET", "POST", "HEAD", "DELETE"):
            reply = guarded.request(method, f"http://testserver{path}")
            assert reply.status_code == 401, (method, path)
    refused = error(guarded.get("/v1/models"), 401)
    assert (refused["type"], refused["code"]) == ("invalid_request_error", "invalid_api_key")
    for path in ("/health", "//health", "/health/"):
        assert guarded.get(f"http://testserver{path}").status_code == 200
    assert serve(api_key=KEYS, root_path="/api").get("/health").status_code == 200


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(guarded, key):
    assert guarded.get("/v1/models", headers=bearer(key)).status_code == 200
    assert guarded.get("/v1/models", headers={"Authorization": f"bearer  {key} ".encode()}).status_code == 200
    assert guarded.post("/v1/completions", headers=bearer(key), json=ASK).status_code == 200


@pytest.mark.parametrize(
    "sent", ["", "Bearer", "Bearer ", "Bearer first", "first key", "Basic first key", "Bearer x" * 999]
)
def test_what_is_no_key_does_not_open(guarded, sent):
    assert error(guarded.get("/v1/models", headers={"Authorization": sent}), 401)["code"] == "invalid_api_key"


def test_a_browser_can_read_the_refusal_and_ask_before(guarded):
    origin = {"Origin": "http://example.org"}
    refused = guarded.get("/v1/models", headers=origin)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
    asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert guarded.options("/v1/completions", headers=asked).status_code == 200
    assert guarded.options("/v1/completions").status_code == 405


def test_keys_stay_out_of_what_is_shown():
    settings = Settings(api_key=KEYS, host="0.0.0.0")
    from startup import banner

    assert not [key for key in KEYS if key in repr(settings) or key in banner(settings, "alpaca-2", 1)]


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
def test_an_open_server_says_so(settings, is_open):
    from startup import banner

    assert ("no --api-key" in banner(Settings(**settings), "alpaca-2", 1)) == is_open


def test_a_body_announced_too_large_is_refused_unread(serve):
    client = serve(max_body_bytes=1000)
    assert "1000 bytes" in error(client.post("/v1/completions", content=b" " * 1001), 413)["message"]
    assert client.post("/v1/completions", content=json.dumps(ASK).ljust(1000)).status_code == 200


def exchange(url: str, *pieces: bytes, pause: float = 0.05) -> bytes:
    """What comes back for the pieces, until the server closes."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                break  # it has been closed already
            time.sleep(pause)
        heard = b""
        try:
            while piece := connection.recv(65536):
                heard += piece
        except OSError:
            pass
        return heard


def test_a_body_that_grows_too_large_is_refused(demo_encoder):
    with listening(FakeEngine(), demo_encoder, max_body_bytes=1000) as url:
        chunk = b"258\r\n" + b" " * 600 + b"\r\n"
        heard = exchange(url, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk)
        assert b" 413 " in heard.split(b"\r\n")[0]
        assert b"connection: close" in heard.lower()
        assert httpx.get(f"{url}/health").status_code == 200


def test_a_body_shorter_than_announced_is_waited_for_and_given_up(demo_encoder, monkeypatch):
    monkeypatch.setattr(middleware, "ARRIVAL_SECONDS", 0.2)
    engine = FakeEngine()
    with listening(engine, demo_encoder) as url:
        heard = exchange(url, HEAD + b'Content-Length: 100\r\n\r\n{"prompt": ')
        assert b" 408 " in heard.split(b"\r\n")[0]
        drop_by_drop = [b" "] * 20
        began = time.monotonic()
        heard = exchange(url, HEAD + b"Content-Length: 100\r\n\r\n", *drop_by_drop)
        assert b" 408 " in heard.split(b"\r\n")[0]
        assert time.monotonic() - began < 3
        assert not engine.asked


@pytest.mark.parametrize("pieces", [[HEAD], [b"P"], [HEAD + b"X: y"], [HEAD, *[b"X: y\r\n"] * 30]])
def test_a_head_that_does_not_come_is_given_up(demo_encoder, monkeypatch, pieces):
    monkeypatch.setattr(middleware, "ARRIVAL_SECONDS", 0.3)
    with listening(FakeEngine(), demo_encoder) as url:
        began = time.monotonic()
        assert b" 408 " in exchange(url, *pieces).split(b"\r\n")[0]
        assert time.monotonic() - began < 3


def test_a_silent_connection_is_closed(demo_encoder):
    with listening(FakeEngine(), demo_encoder, timeout_keep_alive=1) as url:
        for pieces in ([], [b"\r\n"]):
            began = time.monotonic()
            assert exchange(url, *pieces) == b""
            assert 0.5 < time.monotonic() - began < 3


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n"],
        [HEAD + b"X: ", *[b"y" * 20_000] * 25],
        [HEAD + b"X: y\r\n" * 12_000 + b"\r\n"],
        [b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\n\r\n"],
    ],
    ids=["one field", "no end", "many fields", "path"],
)
def test_a_head_that_is_too_large_is_cut_off(demo_encoder, pieces):
    with listening(FakeEngine(), demo_encoder) as url:
        heard = exchange(url, *pieces)
        assert b" 431 " in heard.split(b"\r\n")[0]
        assert (
            error(httpx.Response(431, content=heard.split(b"\r\n\r\n", 1)[1]), 431)["type"] == "invalid_request_error"
        )
        assert httpx.get(f"{url}/health", headers={"X": "y" * 60_000}).status_code == 200


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"{}\r\n\r\n"])
def test_what_is_no_http_gets_the_one_shape_of_errors(demo_encoder, noise):
    with listening(FakeEngine(), demo_encoder) as url:
        heard = exchange(url, noise)
        assert b" 400 " in heard.split(b"\r\n")[0]
        assert "HTTP" in error(httpx.Response(400, content=heard.split(b"\r\n\r\n", 1)[1]), 400)["message"]


def test_noise_after_a_request_ends_it_without_a_second_head(demo_encoder):
    engine = FakeEngine(script=[Delta(0, "a", (5,))] * 1000, delay=0.01)
    with listening(engine, demo_encoder) as url:
        body = json.dumps({**ASK, "stream": True}).encode()
        ask = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        heard = exchange(url, ask, b"\x16\x03noise")
        assert heard.count(b"HTTP/1.1 ") == 1
        assert wait_for(lambda: engine.running == 0, 1)
