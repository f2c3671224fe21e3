"""Requests of every kind, and what of their answers has to be the same behind a front as at the server itself.

The servers run with `FLAGS` on a seeded engine (`seeded_engine.py`).
"""

import gzip
import http.client
import io
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.bodies import ASK, CHAT, COMPLETIONS, RESPONSES, TALK
from tests.support.seeded_engine import BROKEN, CHOICES, SCORED

KEY = "front-key"
MODEL = "a/model"
MAX_BODY_BYTES = 1024 * 1024
FLAGS = ("--api-key", KEY, "--served-model-name", MODEL, "--max-body-bytes", str(MAX_BODY_BYTES))
AUTHORISED = {"Authorization": f"Bearer {KEY}"}
STREAM = {"stream": True}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "你好"}]}]
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
PREFLIGHT = {
    "Authorization": "",
    "Origin": "https://chat.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}
JSON_TYPE = {"Content-Type": "application/json"}

HEADERS_THAT_MATTER = (
    "content-type", "x-ignored-parameters", "x-request-id", "retry-after", "www-authenticate", "allow", "location",
    "cache-control", "etag", "vary", "content-security-policy", "x-content-type-options", "referrer-policy",
    "access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers",
    "access-control-expose-headers", "access-control-max-age",
)  # fmt: skip
OWN = (
    (re.compile(r'"((?:[a-z]+_)?id)":\s*"(cmpl-|chatcmpl-|resp_|msg_|rs_|call_|fc_)?\w{16,}"'), r'"\1":"\2"'),
    (re.compile(r'"(created|created_at|completed_at)":\s*\d+(\.\d+)?'), r'"\1":0'),
)  # fmt: skip
"""What each reply has of its own: ids and times."""
MADE_ID = re.compile(r"\w{22}")
"""An `X-Request-Id` that the server has made."""


@dataclass(frozen=True)
class Ask:
    """A request. A header of `AUTHORISED` that is empty here is left out."""

    method: str = "POST"
    path: str = COMPLETIONS
    body: dict[str, Any] | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_chunked: bool = False
    wire: str = ""
    """The version of HTTP, for a request that is written to a socket; with 1.1 its body waits for `100 Continue`."""


@dataclass(frozen=True)
class Answer:
    """What of an answer has to be the same."""

    status: int
    headers: Mapping[str, str]
    body: str


def get(path: str, **headers: str) -> Ask:
    return Ask("GET", path, None, {name.replace("_", "-"): text for name, text in headers.items()})


KINDS: dict[str, Ask] = {
    "chat": Ask(path=CHAT, body=TALK),
    "streamed chat": Ask(path=CHAT, body={**TALK, **STREAM}),
    "completion": Ask(body=ASK),
    "streamed completion": Ask(body={**ASK, **STREAM}),
    "messages as a string": Ask(path=CHAT, body={"messages": "你好"}),
    "content as a list": Ask(path=CHAT, body={"messages": PARTS}),
    "token ids": Ask(body={"prompt": [1, 5, 6]}),
    "several prompts": Ask(body={"prompt": ["你好", "再见"]}),
    "choices": Ask(body={**ASK, "n": 2, "seed": CHOICES}),
    "streamed choices": Ask(path=CHAT, body={**TALK, **STREAM, "n": 2, "seed": CHOICES}),
    "beams": Ask(body={**ASK, "num_beams": 2}),
    "log-probabilities": Ask(body={**ASK, "logprobs": 2, "seed": SCORED}),
    "log-probabilities of a chat": Ask(
        path=CHAT, body={**TALK, **STREAM, "logprobs": True, "top_logprobs": 2, "seed": SCORED}
    ),
    "echo": Ask(body={**ASK, "echo": True}),
    "stop strings": Ask(body={**ASK, "stop": ["。"]}),
    "tools": Ask(path=CHAT, body={**TALK, "tools": [{"type": "function", "function": WEATHER}]}),
    "response": Ask(path=RESPONSES, body={"input": "你好"}),
    "streamed response": Ask(path=RESPONSES, body={"input": "你好", **STREAM}),
    "usage in a stream": Ask(body={**ASK, **STREAM, "stream_options": {"include_usage": True}}),
    "failure in a stream": Ask(body={**ASK, **STREAM, "seed": BROKEN}),
    "failure of a plain reply": Ask(body={**ASK, "seed": BROKEN}),
    "no room": Ask(body={"prompt": ["a"] * 5, "n": 128}),
    "tokenize": Ask(path="/tokenize", body={"prompt": "你好"}),
    "detokenize": Ask(path="/detokenize", body={"tokens": [1, 500, 501]}),
    "models": get("/v1/models"),
    "a model": get(f"/v1/models/{MODEL}"),
    "a model, its slash encoded": get(f"/v1/models/{MODEL.replace('/', '%2F')}"),
    "unknown model": Ask(body={**ASK, "model": "gpt-4"}),
    "unknown path": get("/v1/nothing"),
    "slashes too many": get("/v1//models/"),
    "wrong method": Ask("PUT", body=ASK),
    "health": get("/health"),
    "head of health": Ask("HEAD", "/health"),
    "version": get("/version"),
    "preflight": Ask("OPTIONS", CHAT, None, PREFLIGHT),
    "page of another origin": get("/v1/models", Origin="https://chat.example"),
    "wrong key": Ask(body=ASK, headers={"Authorization": "Bearer wrong"}),
    "no key": Ask(body=ASK, headers={"Authorization": ""}),
    "malformed JSON": Ask(body=b'{"prompt": ', headers=JSON_TYPE),
    "wrong field": Ask(path=CHAT, body={**TALK, "temperature": "warm"}),
    "unknown field": Ask(body={**ASK, "typo": 1}),
    "an id of the client's": Ask(body=ASK, headers={"X-Request-Id": "client-7"}),
    "compressed body": Ask(
        body=gzip.compress(json.dumps(ASK).encode(), mtime=0),
        headers={"Content-Encoding": "gzip", **JSON_TYPE},
    ),
    "chunked body": Ask(body=ASK, is_chunked=True),
    "body of 300 KB": Ask(body={**ASK, "padding": "x" * 300_000}),
    "body too large": Ask(body={**ASK, "padding": "x" * MAX_BODY_BYTES}),
    "chunked body too large": Ask(body={**ASK, "padding": "x" * MAX_BODY_BYTES}, is_chunked=True),
    "100 Continue": Ask(body=ASK, wire="1.1"),
    "HTTP/1.0": Ask(body=ASK, wire="1.0"),
    "stream for HTTP/1.0": Ask(body={**ASK, **STREAM}, wire="1.0"),
    "the page": Ask("GET", "/", None, {"Authorization": ""}),
    "a file of the page": Ask("GET", "/page/main.js", None, {"Authorization": ""}),
    "documentation": get("/docs"),
    "OpenAPI document": get("/openapi.json"),
}
"""By their names."""


def answers(base_url: str, host: str = "server.example") -> dict[str, Answer]:
    """What a server, or the front of several, answers to each kind of request."""
    with httpx.Client(base_url=base_url, timeout=30, trust_env=False) as client:
        return {
            name: wire_answer(base_url, ask, host) if ask.wire else answer(client, ask, host)
            for name, ask in KINDS.items()
        }


def answer(client: httpx.Client, ask: Ask, host: str) -> Answer:
    body = to_bytes(ask)
    content = iter([body[:10], body[10:]]) if ask.is_chunked else body
    headers = {**to_headers(ask), "Host": host}
    reply = client.request(ask.method, ask.path, content=content, headers=headers)
    return to_answer(reply.status_code, reply.headers, reply.text)


def wire_answer(base_url: str, ask: Ask, host: str) -> Answer:
    """The answer to a request on a connection of its own, whose body follows its head if the server wants it."""
    url, body = httpx.URL(base_url), to_bytes(ask)
    fields = {**to_headers(ask), "Host": host, "Content-Length": len(body), "Connection": "close"}
    if ask.wire == "1.1":
        fields["Expect"] = "100-continue"
    head = f"{ask.method} {ask.path} HTTP/{ask.wire}\r\n"
    head += "".join(f"{name}: {text}\r\n" for name, text in fields.items()) + "\r\n"
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(head.encode())
        if ask.wire == "1.1":
            assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        heard = b"".join(iter(lambda: connection.recv(65536), b""))
    reply = http.client.HTTPResponse(Heard(heard), method=ask.method)  # type: ignore[arg-type]
    reply.begin()
    return to_answer(reply.status, httpx.Headers(reply.getheaders()), reply.read().decode())


class Heard:
    """Bytes in place of the socket that `http.client` would read."""

    def __init__(self, heard: bytes) -> None:
        self._heard = heard

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._heard)


def to_bytes(ask: Ask) -> bytes:
    return (
        ask.body
        if isinstance(ask.body, bytes)
        else json.dumps(ask.body).encode()
        if ask.body
        else b""
    )


def to_headers(ask: Ask) -> dict[str, str]:
    content_type = JSON_TYPE if isinstance(ask.body, dict) else {}
    headers = {**AUTHORISED, **content_type, **ask.headers}
    return {name: text for name, text in headers.items() if text}


def to_answer(status: int, headers: Mapping[str, str], body: str) -> Answer:
    """An answer without what each has of its own."""
    kept = {name: headers[name] for name in HEADERS_THAT_MATTER if name in headers}
    if "x-request-id" in kept:
        kept["x-request-id"] = MADE_ID.sub("made", kept["x-request-id"])
    for pattern, replacement in OWN:
        body = pattern.sub(replacement, body)
    return Answer(status, kept, body)
