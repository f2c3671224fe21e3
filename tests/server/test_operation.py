"""In operation, on real sockets: keys, what may arrive and how fast, what is told of requests, the server's end."""

import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import openai_api_server_vllm
from generation import Delta
from server import access_log
from server import connection as http_connection
from settings import Settings, StartError, read_keys
from tests.support.app_on_fake_engine import listening, serving
from tests.support.bodies import ASK, LONG, MODES
from tests.support.fake_engine import FakeEngine
from tests.support.paths import ROOT
from tests.support.polling import wait_for
from tests.support.replies import error, events, numbers
from tests.support.server_process import BATCH, ROOM, Server, connect
from tests.support.wire import HEAD, exchange, parsed, posted, received

KEYS = ["first key", "zweiter-Schlüssel"]


@pytest.fixture
def guarded(serve):
    return serve(api_key=KEYS)


def bearer(key: str) -> dict[str, bytes]:
    return {"Authorization": f"Bearer {key}".encode()}


def test_every_route_but_health_wants_a_key(serve, guarded):
    paths = {
        route.path.replace("{model_id:path}", "a/b")
        for route in guarded.app.routes
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
    for path in spellings - {"/health"}:
        for method in ("GET", "POST", "HEAD", "DELETE"):
            reply = guarded.request(method, f"http://testserver{path}")
            assert reply.status_code == 401, (method, path)
    refused = error(guarded.get("/v1/models"), 401)
    assert (refused.type, refused.code) == ("invalid_request_error", "invalid_api_key")
    for path in ("/health", "//health", "/health/"):
        assert guarded.get(f"http://testserver{path}").status_code == 200
    assert serve(api_key=KEYS, root_path="/api").get("/health").status_code == 200


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(guarded, key):
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
def test_what_is_no_key_does_not_open(guarded, sent):
    assert (
        error(guarded.get("/v1/models", headers={"Authorization": sent}), 401).code
        == "invalid_api_key"
    )


def test_a_browser_can_read_the_refusal_and_ask_before(guarded):
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


def test_keys_come_from_flags_and_the_environment(monkeypatch):
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
def test_blanks_around_a_key_are_no_part_of_it(given, variable, keys):
    assert read_keys(given, variable) == keys


@pytest.mark.parametrize("key", ["", "  ", "\n", "\ufeff", "k1\nk2", "k\x00"])
def test_a_key_that_no_client_can_send_ends_the_start(key):
    with pytest.raises(StartError, match="key"):
        read_keys(["k1", key], None)


@pytest.mark.parametrize("variable", ["", " ", ",", " , \n", "\ufeff"])
@pytest.mark.parametrize("given", [[], ["k1"]])
def test_a_variable_without_a_key_ends_the_start(capsys, monkeypatch, given, variable):
    monkeypatch.setattr(sys, "argv", ["server", *(f"--api-key={key}" for key in given)])
    monkeypatch.setenv("VLLM_API_KEY", variable)
    assert openai_api_server_vllm.main() == 1
    assert capsys.readouterr().err.startswith("error: VLLM_API_KEY is set, but holds no key")


def test_keys_stay_out_of_the_log(guarded, lines):
    for sent in (KEYS[1], "wrong-marker"):
        guarded.get("/v1/models", headers=bearer(sent))
        guarded.get(f"/v1/models?key={sent}", headers=bearer(sent))
    assert len(lines()) == 4
    assert not [line for line in lines() if KEYS[1] in line or "wrong-marker" in line]


def test_keys_stay_out_of_what_is_shown():
    settings = Settings(api_key=KEYS, host="0.0.0.0")
    from server.console import banner

    assert not [
        key
        for key in KEYS
        if key in repr(settings) or key in banner(settings, "alpaca-2", "SentencePiece", 1, {})
    ]


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
    from server.console import banner

    assert (
        "no --api-key" in banner(Settings(**settings), "alpaca-2", "SentencePiece", 1, {})
    ) == is_open


def test_a_body_announced_too_large_is_refused_unread(serve):
    client = serve(max_body_bytes=1000)
    assert "1000 bytes" in error(client.post("/v1/completions", content=b" " * 1001), 413).message
    assert client.post("/v1/completions", content=json.dumps(ASK).ljust(1000)).status_code == 200


def test_a_body_that_grows_too_large_is_refused(demo_encoder):
    with listening(FakeEngine(), demo_encoder, max_body_bytes=1000) as url:
        chunk = b"258\r\n" + b" " * 600 + b"\r\n"
        heard = exchange(url, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk)
        assert b" 413 " in heard.split(b"\r\n")[0]
        assert b"connection: close" in heard.lower()
        assert httpx.get(f"{url}/health").status_code == 200


def test_a_body_shorter_than_announced_is_waited_for_and_given_up(demo_encoder, monkeypatch):
    monkeypatch.setattr(http_connection, "ARRIVAL_SECONDS", 0.2)
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


def test_a_body_that_is_held_up_by_the_request_before_it_is_not_late(demo_encoder, monkeypatch):
    monkeypatch.setattr(http_connection, "ARRIVAL_SECONDS", 0.2)
    engine = FakeEngine(delay=0.3)
    with listening(engine, demo_encoder) as url:
        began = time.monotonic()
        first = posted("/v1/completions", ASK)
        second = posted("/v1/completions", {**ASK, "user": "x" * 4_000_000}, "Connection: close")
        heard = exchange(url, first + second)
        assert heard.count(b"HTTP/1.1 200 ") == 2
        assert time.monotonic() - began > 2 * 0.3


def test_a_connection_is_closed_if_the_rest_of_an_answered_request_does_not_come(
    demo_encoder, monkeypatch
):
    monkeypatch.setattr(http_connection, "ARRIVAL_SECONDS", 0.2)
    with listening(FakeEngine(), demo_encoder, api_key=KEYS) as url:
        began = time.monotonic()
        heard = exchange(url, HEAD + b"Content-Length: 100\r\n\r\n{")
        assert b" 401 " in heard.split(b"\r\n")[0]
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("pieces", [[HEAD], [b"P"], [HEAD + b"X: y"], [HEAD, *[b"X: y\r\n"] * 30]])
def test_a_head_that_does_not_come_is_given_up(demo_encoder, monkeypatch, pieces):
    monkeypatch.setattr(http_connection, "ARRIVAL_SECONDS", 0.3)
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
        assert error(parsed(heard), 431).type == "invalid_request_error"
        assert httpx.get(f"{url}/health", headers={"X": "y" * 60_000}).status_code == 200


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"{}\r\n\r\n"]
)
def test_what_is_no_http_gets_the_one_shape_of_errors(demo_encoder, noise):
    with listening(FakeEngine(), demo_encoder) as url:
        heard = exchange(url, noise)
        assert b" 400 " in heard.split(b"\r\n")[0]
        assert "HTTP" in error(parsed(heard), 400).message


def test_noise_after_a_request_ends_it_without_a_second_head(demo_encoder):
    engine = FakeEngine(script=[Delta(0, "a", (5,))] * 1000, delay=0.01)
    with listening(engine, demo_encoder) as url:
        body = json.dumps({**ASK, "stream": True}).encode()
        ask = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        heard = exchange(url, ask, b"\x16\x03noise")
        assert heard.count(b"HTTP/1.1 ") == 1
        assert wait_for(lambda: engine.running == 0, 1)


SECRET = "秘密-marker"
SLOW = [Delta(0, "字", (5,)) for _ in range(100)] + [Delta(0, "", (2,), "stop")]


@pytest.mark.parametrize(
    ("sent", "is_taken"),
    [
        ("abc-123 ~", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("schön", False),
        ("a\tb", False),
    ],
)
def test_the_id_of_a_request_is_taken_or_made(client, lines, sent, is_taken):
    reply = client.post("/v1/completions", json=ASK, headers={"X-Request-Id": sent.encode()})
    made = reply.headers["x-request-id"]
    assert (made == sent) == is_taken
    assert (reply.json()["id"] == f"cmpl-{made}") == (not is_taken)
    assert 1 <= len(made) <= 128
    assert f"id={made} " in lines()[-1]


def test_every_reply_has_an_id(guarded, serve, engine):
    engine.script = [RuntimeError("broken")]
    client = serve()
    origin = {"Origin": "http://example.org", "Access-Control-Request-Method": "POST"}
    replies = [
        guarded.get("/v1/models"),
        client.get("/unknown"),
        client.put("/v1/completions"),
        client.post("/v1/completions", content=b"{"),
        client.post("/v1/completions", json=ASK),
        client.options("/v1/completions", headers=origin),
    ]
    assert [reply.status_code for reply in replies] == [401, 404, 405, 400, 500, 200]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert len({*ids}) == len(ids)
    assert (
        "X-Request-Id"
        in client.get("/health", headers=origin).headers["access-control-expose-headers"]
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_has_one_line_without_its_text(serve, lines, caplog, stream):
    client = serve(log_format="json")
    ask = {"messages": SECRET, "stream": stream, "user": SECRET, SECRET: 1, "stop": SECRET}
    client.post("/v1/chat/completions", json=ask, headers={"X-Request-Id": "mine"})
    client.post("/v1/chat/completions", json={**ask, "n": SECRET})
    client.post(f"/v1/{SECRET}", json=ask)
    answered, refused, unknown = map(json.loads, lines())
    assert answered == {
        **{
            "time": answered["time"],
            "id": "mine",
            "method": "POST",
            "path": "/v1/chat/completions",
            "status": 200,
        },
        **{
            "prompt_tokens": answered["prompt_tokens"],
            "generated_tokens": 4,
            "first_token_s": answered["first_token_s"],
        },
        **{"finish_reason": "stop", "total_s": answered["total_s"]},
    }
    assert abs(answered["time"] - time.time()) < 60
    assert 0 <= answered["first_token_s"] <= answered["total_s"] < 10
    assert answered["prompt_tokens"] > 20
    assert (refused["status"], unknown["status"], unknown["path"]) == (400, 404, "other")
    assert SECRET not in caplog.text
    assert not [line for line in lines() if SECRET in line]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_prompts_and_replies_are_shown_if_asked_for_cut_short(serve, lines, log_format, stream):
    client = serve(log_requests=True, log_format=log_format)
    ask = {"prompt": [f"{SECRET}\n\x1b[2J", "字" * 1500, *"abc"], "stream": stream}
    client.post("/v1/completions", json=ask)
    client.post("/v1/completions", json={**ask, "n": SECRET})
    shown, refused = lines()
    assert len(shown) < 3000
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert SECRET not in refused
    if log_format == "json":
        told = json.loads(shown)
        assert f"{SECRET}\n\x1b[2J [/INST]" in told["prompts"][0]
        assert told["replies"] == ["北京。"] * 4
    else:
        assert SECRET in shown
        assert "replies=['北京。', '北京。', '北京。', '北京。']" in shown


def test_a_client_that_left_is_noted(demo_encoder, lines):
    with listening(FakeEngine(delay=2), demo_encoder) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/completions", json=ASK, timeout=0.3)
        assert wait_for(lines, 2)
    assert " status=499 " in lines()[0]


def test_metrics_count(client, engine):
    before = numbers(client)
    prompt_tokens = client.post("/v1/completions", json=ASK).json()["usage"]["prompt_tokens"]
    client.post("/v1/completions", json={**ASK, "stream": True})
    client.post("/v1/completions", json={"prompt": 1})
    after = numbers(client)

    def gained(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert gained('http_requests_total{method="POST",path="/v1/completions",status="200"}') == 2
    assert gained('http_requests_total{method="POST",path="/v1/completions",status="400"}') == 1
    assert gained("prompt_tokens_total") == 2 * prompt_tokens
    assert gained("generated_tokens_total") == 8
    assert gained("time_to_first_token_seconds_count") == 2
    assert gained('http_request_duration_seconds_count{path="/v1/completions"}') == 3
    assert after["http_requests_in_flight"] == 1  # this one


def test_a_request_that_takes_too_long_is_ended(demo_encoder):
    engine = FakeEngine(SLOW, delay=2)
    with listening(engine, demo_encoder, request_timeout=0.5) as url:
        refused = error(httpx.post(f"{url}/v1/completions", json=ASK), 504)
        assert (refused.type, refused.code) == ("server_error", "request_timeout")
        assert wait_for(lambda: engine.running == 0, 1)
        engine.delay = 0.05
        *said, last = events(httpx.post(f"{url}/v1/completions", json={**ASK, "stream": True}).text)
        assert 2 < len(said) < 12
        assert last["error"]["code"] == "request_timeout"
        assert wait_for(lambda: engine.running == 0, 1)


@pytest.mark.parametrize("ask", [ASK, {**ASK, "stream": True}], ids=["plain", "streamed"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_without_a_limit_of_time_a_request_takes_as_long_as_it_likes(demo_encoder, path, ask):
    with listening(FakeEngine(delay=0.2), demo_encoder, request_timeout=0) as url:
        reply = httpx.post(f"{url}{path}", json={**ask, "messages": "a"})
    assert (reply.status_code, '"stop"' in reply.text, "error" in reply.text) == (200, True, False)


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "/health", None),
        ("POST", "/v1/completions", ASK),
        ("POST", "/v1/completions", {**ASK, "stream": True}),
        ("POST", "/v1/chat/completions", {"messages": 1}),
        ("GET", "/unknown", None),
        ("HEAD", "/health", None),
    ],
)
def test_without_time_for_idle_connections_each_reply_closes_its_own(
    demo_encoder, method, path, content
):
    with listening(FakeEngine(delay=0.05), demo_encoder, timeout_keep_alive=0) as url:
        body = b"" if content is None else json.dumps(content).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        for pieces in ([head + body], [head[:20], head[20:], body], [(head + body) * 2]):
            heard = exchange(url, *pieces).lower()
            assert heard.count(b"http/1.1 ") == heard.count(b"connection: close") == 1
        with httpx.Client(base_url=url) as client:
            for _ in range(3):
                reply = client.request(method, path, json=content)
                assert reply.headers["connection"] == "close"


def test_without_time_for_idle_connections_a_new_one_is_waited_for(demo_encoder, monkeypatch):
    monkeypatch.setattr(http_connection, "ARRIVAL_SECONDS", 0.5)
    with listening(FakeEngine(), demo_encoder, timeout_keep_alive=0) as url:
        assert exchange(url, b"", HEAD.replace(b"POST", b"GET"), b"\r\n", pause=0.2)
        began = time.monotonic()
        assert exchange(url) == b""
        assert 0.3 < time.monotonic() - began < 3


@pytest.mark.parametrize("stream", [True, False])
def test_without_time_to_drain_running_requests_are_told_at_once(demo_encoder, stream):
    engine = FakeEngine(SLOW, delay=0.3)
    heard = []
    with serving(engine, demo_encoder, drain_timeout=0) as (url, server):
        asking = in_threads(
            2,
            lambda: heard.append(
                httpx.post(f"{url}/v1/completions", json={**ASK, "stream": stream}, timeout=30)
            ),
        )
        assert wait_for(lambda: engine.running == 2, 5)
        time.sleep(0.5 if stream else 0)
        began = time.monotonic()
        server.handle_exit(signal.SIGTERM, None)
        for thread in asking:
            thread.join(10)
        assert time.monotonic() - began < 2
        assert wait_for(lambda: server.should_exit, 2)
    for reply in heard:
        assert reply.status_code == (200 if stream else 503)
        error = events(reply.text)[-1]["error"] if stream else reply.json()["error"]
        assert error["code"] == "shutting_down"


def in_threads(count: int, work) -> list[threading.Thread]:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("is_late", [False, True])
def test_a_signal_lets_running_requests_end_or_tells_them(demo_encoder, is_late):
    engine = FakeEngine(SLOW, delay=0.02)
    heard = []
    with serving(engine, demo_encoder, drain_timeout=0.5 if is_late else 30) as (url, server):
        streams = in_threads(
            8,
            lambda: heard.append(
                httpx.post(f"{url}/v1/completions", json={**ASK, "stream": True}, timeout=30).text
            ),
        )
        assert wait_for(lambda: engine.running == 8, 5)
        server.handle_exit(signal.SIGTERM, None)
        assert error(httpx.get(f"{url}/health"), 503).code == "shutting_down"
        refused = httpx.post(f"{url}/v1/completions", json=ASK)
        assert error(refused, 503).code == "shutting_down"
        assert refused.headers["retry-after"]
        for stream in streams:
            stream.join(10)
        assert wait_for(lambda: server.should_exit, 2)
    for text in heard:
        last = events(text)[-1]
        assert (
            last["error"]["code"] == "shutting_down"
            if is_late
            else last["choices"][0]["finish_reason"] == "stop"
        )
    assert len(heard) == 8


def test_the_death_of_the_engine_ends_the_server(demo_encoder):
    engine = FakeEngine()
    with serving(engine, demo_encoder) as (_, server):
        engine.is_dead = True
        assert wait_for(lambda: server.should_exit, 2)


@contextmanager
def busy(
    streams: int, tokens: int
) -> Iterator[tuple[Server, list[list[str]], list[threading.Thread]]]:
    """A real server with streams that have begun, the events that each has heard in the end, and who listens."""
    server = Server("--port", "0")
    server.wait_for_banner()
    body = json.dumps(
        {"prompt": "讲一个故事", "stream": True, "max_tokens": tokens, "min_tokens": tokens}
    ).encode()
    heard: list[list[str]] = [[] for _ in range(streams)]

    def listen(connection: socket.socket, lines: list[str]) -> None:
        text = b"".join(iter(lambda: received(connection), b"")).decode()
        lines += re.findall("data: .*", text)

    connections = [
        socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), 60) for _ in heard
    ]
    for connection in connections:
        connection.sendall(
            HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert connection.recv(12) == b"HTTP/1.1 200"
    listeners = [
        threading.Thread(target=listen, args=pair) for pair in zip(connections, heard, strict=True)
    ]
    for listener in listeners:
        listener.start()
    try:
        yield server, heard, listeners
    finally:
        server.process.kill()
        server.process.wait()


@pytest.mark.engine
def test_ctrl_c_amid_streams_lets_all_end():
    """As SIGTERM does; a terminal sends it to all processes of the command."""
    with busy(32, 400) as (server, heard, listeners):
        os.killpg(server.process.pid, signal.SIGINT)
        time.sleep(0.3)
        assert error(httpx.get(f"{server.url}/health"), 503).code == "shutting_down"
        assert (
            error(httpx.post(f"{server.url}/v1/completions", json=ASK), 503).code == "shutting_down"
        )
        for listener in listeners:
            listener.join(60)
        assert server.process.wait(10) == 0
        assert {lines[-1] for lines in heard} == {"data: [DONE]"}
        for lines in heard:
            ends = [
                json.loads(line.removeprefix("data: "))["choices"][0]["finish_reason"]
                for line in lines[:-1]
            ]
            assert ends == [None] * (len(ends) - 1) + ["length"]


@pytest.mark.engine
def test_the_engine_does_not_outlive_a_killed_server():
    with busy(1, 1900) as (server, _, _):
        processes = _engine_processes(server.process.pid).values()
        assert len(processes) >= 2
        server.process.kill()
        server.process.wait()
        assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), 10)


@pytest.mark.engine
def test_a_second_signal_ends_at_once():
    with busy(4, 1900) as (server, heard, listeners):
        processes = _engine_processes(server.process.pid).values()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 128 + signal.SIGTERM
        assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), 10)
        for listener in listeners:
            listener.join(10)
        assert all(lines and lines[-1] != "data: [DONE]" for lines in heard)


def _children(pid: int) -> list[int]:
    try:
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except FileNotFoundError:
        return []


def _engine_processes(pid: int) -> dict[str, int]:
    """By what they call themselves."""
    found = {}
    for child in _children(pid):
        name = Path(f"/proc/{child}/comm").read_text().strip()
        found |= {name: child, **_engine_processes(child)}
    return found


@pytest.mark.engine
@pytest.mark.parametrize("name", ["VLLM::EngineCor", "VLLM::Worker"])
def test_a_dead_engine_is_told_and_ends_the_process(name):
    with busy(8, 1900) as (server, heard, listeners):
        processes = _engine_processes(server.process.pid)
        os.kill(processes[name], signal.SIGKILL)
        began = time.monotonic()
        assert server.process.wait(10) == 1
        assert time.monotonic() - began < 5
        for listener in listeners:
            listener.join(10)
        for lines in heard:
            failure, done = lines[-2:]
            assert json.loads(failure.removeprefix("data: "))["error"]["code"] == "engine_dead"
            assert done == "data: [DONE]"
        server.reader.join(10)
        assert "error: The engine has died.\n" in server.lines


@pytest.mark.parametrize(
    "last", ["", "time.sleep(0.5); print('later', file=sys.stderr, flush=True)"]
)
def test_the_log_is_whole_and_in_order_at_the_end(last):
    """Its lines are written some at a time, soon."""
    script = """
import sys, time
from settings import Settings
from server.access_log import log_writer
assert log_writer(Settings(log_level="error")) is None
log = log_writer(Settings())
for number in range(5000):
    log(f"line {number}")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script + last],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stderr.splitlines() == [f"line {number}" for number in range(5000)] + [
        "later"
    ] * bool(last)


def test_a_terminal_that_fails_once_shows_the_next_lines(monkeypatch):
    shown: list[str] = []

    def show(line):
        shown.append(line)
        if line == "first":
            raise OSError("no space left")

    monkeypatch.setattr(access_log, "show", show)
    log = access_log.log_writer(Settings())
    for line in ("first", "second"):
        log(line)
        assert wait_for(lambda line=line: line in shown, 2)


@pytest.mark.engine
def test_a_terminal_that_has_stopped_stops_no_request():
    """Nobody reads the pipe that the log goes to, and it is full long before the last request."""
    server = Server("--port", "0", "--log-format", "json")
    server.reader = threading.Thread(target=lambda: None)
    try:
        server.wait_for_banner()
        with httpx.Client(base_url=server.url, timeout=5) as client:
            for _ in range(2000):
                assert client.get("/version").status_code == 200
    finally:
        server.process.kill()
        server.process.wait()


def in_engine(http: httpx.Client) -> list[float]:
    """Unfinished, running and waiting requests."""
    told = numbers(http)
    return [
        told[name]
        for name in (
            "engine_requests_unfinished",
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
        )
    ]


@pytest.mark.engine
@pytest.mark.parametrize("fields", MODES.values(), ids=MODES)
def test_leaving_frees_the_engine_within_a_second(server, http, fields):
    assert wait_for(lambda: in_engine(http) == [0, 0, 0], 5)
    shown = len(server.lines)
    with connect(server) as connection:
        connection.sendall(posted("/v1/completions", {"prompt": "讲一个故事", **fields}))
        assert wait_for(lambda: all(in_engine(http)[:2]), 20)
        time.sleep(0.3)
        assert all(in_engine(http)[:2])
    assert wait_for(lambda: in_engine(http) == [0, 0, 0], 1)
    all_room = {"prompt": "a", "n": ROOM, "max_tokens": 1}
    assert http.post("/v1/completions", json=all_room).status_code == 200
    assert "Traceback" not in "".join(server.lines[shown:])


@pytest.mark.engine
@pytest.mark.parametrize("stream", [False, True])
def test_leaving_while_others_are_served_costs_nothing(server, http, stream):
    """A client whose request waits for room in the batch takes it away; those before it go on."""
    before = numbers(http)["generated_tokens_total"]
    with connect(server) as running:
        running.sendall(
            posted("/v1/completions", {**LONG, "prompt": "讲一个故事", "n": BATCH, "stream": True})
        )
        assert wait_for(lambda: in_engine(http) == [BATCH, BATCH, 0], 20)
        with connect(server) as waiting:
            waiting.sendall(posted("/v1/completions", {**LONG, "prompt": "你好", "stream": stream}))
            assert wait_for(lambda: in_engine(http) == [BATCH + 1, BATCH, 1], 5)
        assert wait_for(lambda: in_engine(http) == [BATCH, BATCH, 0], 1)
        assert numbers(http)["generated_tokens_total"] == before
    assert wait_for(lambda: in_engine(http) == [0, 0, 0], 1)


@pytest.mark.engine
def test_a_full_server_refuses_at_once_while_what_runs_goes_on(server, http):
    """Each refusal within 50 ms, by the median: no other work is done for it."""
    ask = {"prompt": ["讲一个故事"] * ROOM, "max_tokens": 200, "min_tokens": 200, "stream": True}
    with connect(server) as running:
        running.sendall(posted("/v1/completions", ask, "Connection: close"))
        assert running.recv(12) == b"HTTP/1.1 200"
        took = []
        for _ in range(30):
            began = time.monotonic()
            reply = http.post("/v1/completions", json={"prompt": "a" * 5000})
            took.append(time.monotonic() - began)
            assert error(reply, 503).code == "server_overloaded"
            assert int(reply.headers["retry-after"]) >= 1
        heard = b"".join(iter(lambda: received(running), b"")).decode()
    assert statistics.median(took) < 0.05
    ends = re.findall('"finish_reason":"(.*?)"', heard)
    assert ends == ["length"] * ROOM
    assert heard.count("data: {") > ROOM * 100
    assert "data: [DONE]" in heard


@pytest.mark.engine
def test_the_engine_is_seen(http):
    with http.stream(
        "POST", "/v1/completions", json={**LONG, "prompt": "你好", "stream": True}
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert wait_for(lambda: numbers(http)["vllm:num_requests_running"] == 1, 2)
        assert 0 < numbers(http)["vllm:kv_cache_usage_perc"] < 1
    assert wait_for(lambda: numbers(http)["vllm:kv_cache_usage_perc"] == 0, 2)
