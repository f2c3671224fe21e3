"""Of each request an id and a line, without its text; the terminal that the lines go to."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import httpx
import pytest
from fastapi.testclient import TestClient

from prompts.encoder import SentencePieceEncoder
from server import console
from settings import Settings
from tests.support.app_on_fake_engine import listening
from tests.support.bodies import ASK
from tests.support.fake_engine import FakeEngine
from tests.support.paths import ROOT
from tests.support.polling import wait_for
from tests.support.server_process import Server

SECRET = "秘密-marker"


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
def test_the_id_of_a_request_is_taken_or_made(
    client: TestClient, lines: Callable[[], list[str]], sent: str, is_taken: bool
) -> None:
    reply = client.post("/v1/completions", json=ASK, headers={"X-Request-Id": sent.encode()})
    made = reply.headers["x-request-id"]
    assert (made == sent) == is_taken
    assert (reply.json()["id"] == f"cmpl-{made}") == (not is_taken)
    assert 1 <= len(made) <= 128
    assert f"id={made} " in lines()[-1]


def test_every_reply_has_an_id(serve: Callable[..., TestClient], engine: FakeEngine) -> None:
    engine.script = [RuntimeError("broken")]
    client = serve()
    origin = {"Origin": "http://example.org", "Access-Control-Request-Method": "POST"}
    replies = [
        serve(api_key=["a key"]).get("/v1/models"),
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
def test_a_request_has_one_line_without_its_text(
    serve: Callable[..., TestClient],
    lines: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
    stream: bool,
) -> None:
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
            "model": "chinese-llama-alpaca-2",
        },
        **{
            "prompt_tokens": answered["prompt_tokens"],
            "generated_tokens": 4,
            "first_token_s": answered["first_token_s"],
        },
        **{"finish_reason": "stop", "ignored": "%E7%A7%98%E5%AF%86-marker"},
        "total_s": answered["total_s"],
    }
    assert abs(answered["time"] - time.time()) < 60
    assert 0 <= answered["first_token_s"] <= answered["total_s"] < 10
    assert answered["prompt_tokens"] > 20
    assert (refused["status"], unknown["status"], unknown["path"]) == (400, 404, "other")
    assert SECRET not in caplog.text
    assert not [line for line in lines() if SECRET in line]


@pytest.mark.parametrize(
    ("path", "ask"),
    [
        ("/v1/completions", ASK),
        ("/v1/completions", {**ASK, "stream": True}),
        ("/v1/chat/completions", {"messages": "你好"}),
        ("/tokenize", ASK),
    ],
)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_is_ignored_is_in_the_line_as_in_the_header(
    serve: Callable[..., TestClient],
    lines: Callable[[], list[str]],
    log_format: str,
    path: str,
    ask: dict[str, object],
) -> None:
    client = serve(log_format=log_format)
    sent = {"typo": 1, "b\nid=1 ": 2, **{f"f{at}": 3 for at in range(20)}}
    client.post(path, json={**ask, **sent})
    client.post(path, json=ask)
    told, quiet = lines()
    shown = f"typo,b%0Aid=1%20,{','.join(f'f{at}' for at in range(8))},and 12 more"
    assert (json.loads(told)["ignored"] if log_format == "json" else told).count(shown) == 1
    assert log_format == "json" or f" ignored={shown} total_s=" in told
    assert "ignored" not in quiet


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_prompts_and_replies_are_shown_if_asked_for_cut_short(
    serve: Callable[..., TestClient], lines: Callable[[], list[str]], log_format: str, stream: bool
) -> None:
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


def test_a_client_that_left_is_noted(
    demo_encoder: SentencePieceEncoder, lines: Callable[[], list[str]]
) -> None:
    with listening(FakeEngine(delay=2), demo_encoder) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/completions", json=ASK, timeout=0.3)
        assert wait_for(lines, 2)
    assert " status=499 " in lines()[0]


@pytest.mark.parametrize(
    "last", ["", "time.sleep(0.5); print('later', file=sys.stderr, flush=True)"]
)
def test_the_log_is_whole_and_in_order_at_the_end(last: str) -> None:
    """Its lines are written some at a time, soon."""
    script = """
import sys, time
from settings import Settings
from server.console import log_writer
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


def test_a_terminal_that_fails_once_shows_the_next_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def show(line: str) -> None:
        shown.append(line)
        if line == "first":
            raise OSError("no space left")

    monkeypatch.setattr(console, "print_stderr", show)
    log = console.log_writer(Settings())
    assert log is not None
    for line in ("first", "second"):
        log(line)
        assert wait_for(partial(shown.__contains__, line), 2)


@pytest.mark.engine
def test_a_terminal_that_has_stopped_stops_no_request() -> None:
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
