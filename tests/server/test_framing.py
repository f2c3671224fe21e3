"""Where a message ends, on real sockets: HTTP/1.0 gets no chunks, and what could be read in two ways is a 400."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from generation import Delta
from prompts.encoder import SentencePieceEncoder
from tests.support.app_on_fake_engine import listening
from tests.support.bodies import ASK, CHAT, COMPLETIONS, RESPONSES
from tests.support.fake_engine import FakeEngine
from tests.support.polling import wait_for
from tests.support.replies import error, events, typed_events
from tests.support.wire import HEAD, exchange, parsed

ASKS = {COMPLETIONS: {"prompt": "a"}, CHAT: {"messages": "a"}}
LONG = [*(Delta(0, "字", (5,)) for _ in range(50)), Delta(0, "", (2,), "stop")]


@pytest.fixture(scope="module")
def served(demo_encoder: SentencePieceEncoder) -> Iterator[tuple[FakeEngine, str]]:
    engine = FakeEngine()
    with listening(engine, demo_encoder) as url:
        yield engine, url


@pytest.fixture
def url(served: tuple[FakeEngine, str]) -> str:
    return served[1]


def head_and_body(url: str, sent: bytes) -> tuple[bytes, bytes]:
    """The head, in small letters, and the rest of what comes back until the server closes."""
    head, _, body = exchange(url, sent, pause=0).partition(b"\r\n\r\n")
    return head.lower(), body


def old(
    path: str,
    content: dict[str, Any] | None,
    *fields: str,
    method: str = "POST",
    version: str = "1.0",
) -> bytes:
    body = b"" if content is None else json.dumps(content).encode()
    length = () if content is None else (f"Content-Length: {len(body)}",)
    return (
        "\r\n".join((f"{method} {path} HTTP/{version}", *fields, *length, "", "")).encode() + body
    )


@pytest.mark.parametrize("version", ["1.0", "0.9"])
@pytest.mark.parametrize(
    "fields", [(), ("Connection: keep-alive",), ("Host: x", "Connection: Keep-Alive")], ids=str
)
@pytest.mark.parametrize("path", ASKS)
def test_an_old_client_gets_a_stream_without_chunks_up_to_the_end_of_the_connection(
    demo_encoder: SentencePieceEncoder, path: str, fields: tuple[str, ...], version: str
) -> None:
    engine = FakeEngine(LONG, delay=0.001)
    with listening(engine, demo_encoder) as url:
        head, body = head_and_body(
            url, old(path, {**ASKS[path], "stream": True}, *fields, version=version)
        )
    assert head.startswith(b"http/1.1 200 ")
    assert b"transfer-encoding" not in head
    assert b"content-length" not in head
    assert b"connection: close" in head
    chunks = [chunk["choices"][0] for chunk in events(body.decode())]
    assert (
        "".join(
            chunk.get("text") or chunk.get("delta", {}).get("content") or "" for chunk in chunks
        )
        == "字" * 50
    )


def test_an_old_client_gets_a_failure_in_a_stream_without_chunks(
    demo_encoder: SentencePieceEncoder,
) -> None:
    engine = FakeEngine([Delta(0, "a", (5,)), RuntimeError("broken")])
    with listening(engine, demo_encoder) as url:
        _, body = head_and_body(url, old(COMPLETIONS, {"prompt": "a", "stream": True}))
        assert events(body.decode())[-1]["error"]["type"] == "server_error"
        engine.script = [RuntimeError("broken")]
        head, body = head_and_body(url, old(COMPLETIONS, {"prompt": "a", "stream": True}))
        assert head.startswith(b"http/1.1 500 ")
        assert f"content-length: {len(body)}".encode() in head


def test_an_old_client_gets_the_stream_of_a_response_up_to_its_last_event(url: str) -> None:
    _, body = head_and_body(url, old(RESPONSES, {"input": "a", "stream": True}))
    assert typed_events(body.decode())[-1]["type"] == "response.completed"


def test_an_old_client_that_leaves_a_stream_frees_the_engine(
    demo_encoder: SentencePieceEncoder,
) -> None:
    engine = FakeEngine(LONG * 100, delay=0.01)
    with listening(engine, demo_encoder) as url:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port), timeout=5) as connection:
            connection.sendall(old(COMPLETIONS, {"prompt": "a", "stream": True}))
            assert connection.recv(100)
            assert engine.running == 1
        assert wait_for(lambda: engine.running == 0, 1)


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("POST", COMPLETIONS, {"prompt": "a"}),
        ("POST", COMPLETIONS, {"prompt": 1}),
        ("GET", "/health", None),
        ("HEAD", "/health", None),
        ("HEAD", "/v1/models", None),
        ("GET", "/docs", None),
        ("GET", "/static-offline-docs/swagger-ui.css", None),
        ("GET", "/unknown", None),
    ],
)
def test_other_replies_to_an_old_client_are_those_to_a_new_one(
    url: str, method: str, path: str, content: dict[str, Any] | None
) -> None:
    head, body = head_and_body(url, old(path, content, method=method))
    new = httpx.request(method, f"{url}{path}", json=content)
    assert head.startswith(f"http/1.1 {new.status_code} ".encode())
    assert f"content-length: {new.headers['content-length']}".encode() in head
    assert b"connection: close" in head
    assert len(body) == len(new.content)


def test_an_old_client_is_not_told_to_continue(url: str) -> None:
    head, body = head_and_body(url, old(COMPLETIONS, {"prompt": "a"}, "Expect: 100-continue"))
    assert head.startswith(b"http/1.1 200 ")
    assert json.loads(body)["choices"][0]["text"] == "北京。"


def test_a_new_client_gets_chunks_and_keeps_its_connection(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        for _ in range(2):
            reply = client.post(COMPLETIONS, json={"prompt": "a", "stream": True})
            assert reply.headers["transfer-encoding"] == "chunked"
            assert "connection" not in reply.headers


def refused(url: str, sent: bytes) -> str:
    """The message of a 400 in the one shape, which is all that comes before the connection is closed."""
    head, body = head_and_body(url, sent)
    assert head.startswith(b"http/1.1 400 ")
    assert b"connection: close" in head
    assert f"content-length: {len(body)}".encode() in head
    error = json.loads(body)["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)
    message: str = error["message"]
    return message


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        ("1.1", []),
        ("1.1", ["Host: x", "Host: x"]),
        ("1.1", ["Host: x", "Accept: */*", "host: y"]),
        ("1.0", ["Host: x", "Host: y"]),
        ("1.1", ["Host: x, y"]),
        ("1.1", ["Host: http://x/"]),
        ("1.1", ["Host: user@x"]),
        ("1.1", ["Host: x y"]),
        ("1.1", ["Host : x"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/health", COMPLETIONS])
def test_a_request_has_one_host(url: str, version: str, fields: list[str], path: str) -> None:
    content = None if path == "/health" else {"prompt": "a"}
    assert refused(
        url, old(path, content, *fields, version=version, method="POST" if content else "GET")
    )


@pytest.mark.parametrize(
    "host",
    ["", "x", "localhost:8000", "127.0.0.1", "[::1]:80", "a_b.example", "%2Ftmp%2Fx.sock", "x \t"],
)
def test_every_host_that_is_one_is_welcome(url: str, host: str) -> None:
    for spelt in (host, f"\t {host} \t"):
        sent = f"GET /health HTTP/1.1\r\nHost:{spelt}\r\nConnection: close\r\n\r\n".encode()
        assert head_and_body(url, sent)[0].startswith(b"http/1.1 200 ")


BODY = b'{"prompt": "a"}'
CHUNKS = b"f\r\n" + BODY + b"\r\n0\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"
AMBIGUOUS = {
    "two lengths": (["Content-Length: 15", "Content-Length: 16"], BODY),
    "one length twice": (["Content-Length: 15", "Content-Length: 15"], BODY),
    "a list of lengths": (["Content-Length: 15, 15"], BODY),
    "a length with a sign": (["Content-Length: +15"], BODY),
    "a negative length": (["Content-Length: -1"], BODY),
    "a length in hexadecimals": (["Content-Length: 0xf"], BODY),
    "no length in its field": (["Content-Length: "], BODY),
    "a length beyond all numbers": (["Content-Length: 99999999999999999999"], BODY),
    "a length before chunks": (["Content-Length: 4", CHUNKED], CHUNKS),
    "a length after chunks": ([CHUNKED, "Content-Length: 4"], CHUNKS),
    "chunked twice": ([CHUNKED, CHUNKED], CHUNKS),
    "chunked twice in a list": (["Transfer-Encoding: chunked, chunked"], CHUNKS),
    "chunked, but not last": (["Transfer-Encoding: chunked, gzip"], CHUNKS),
    "another coding before": (["Transfer-Encoding: gzip, chunked"], CHUNKS),
    "identity": (["Transfer-Encoding: identity"], BODY),
    "identity and a length": (["Transfer-Encoding: identity", "Content-Length: 15"], BODY),
    "a coding that nobody knows": (["Transfer-Encoding: xchunked"], CHUNKS),
    "a coding behind a control character": (["Transfer-Encoding: \x0bchunked"], CHUNKS),
    "a space before a colon": (["Transfer-Encoding : chunked"], CHUNKS),
    "a folded field": (["Transfer-Encoding:\r\n chunked"], CHUNKS),
    "a fold in another field": (["X: a\r\n b", "Content-Length: 15"], BODY),
    "a bare line feed": (["X: a\nContent-Length: 15"], BODY),
    "a bare carriage return": (["X: a\rContent-Length: 15"], BODY),
    "a zero": (["X: a\0b", "Content-Length: 15"], BODY),
    "a chunk's length in another way": ([CHUNKED], b"0x" + CHUNKS),
    "a negative chunk": ([CHUNKED], b"-" + CHUNKS),
    "a chunk beyond all numbers": ([CHUNKED], b"fffffffffffffffff" + CHUNKS),
    "a chunk with something behind its length": ([CHUNKED], CHUNKS.replace(b"f\r", b"f x\r", 1)),
    "a chunk that ends in a line feed": ([CHUNKED], CHUNKS.replace(b"\r\n", b"\n", 1)),
    "a chunk longer than its length": ([CHUNKED], b"e" + CHUNKS[1:]),
}


@pytest.mark.parametrize(("fields", "body"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_could_be_read_in_two_ways_is_a_400(
    served: tuple[FakeEngine, str], fields: list[str], body: bytes
) -> None:
    engine, url = served
    engine.asked.clear()
    head = "\r\n".join((f"POST {COMPLETIONS} HTTP/1.1", "Host: x", *fields, "", "")).encode()
    assert refused(url, head + body)
    assert not engine.asked


def test_chunks_from_an_old_client_are_a_400(url: str) -> None:
    head = f"POST {COMPLETIONS} HTTP/1.0\r\n{CHUNKED}\r\n\r\n".encode()
    assert "chunked" in refused(url, head + CHUNKS)


def test_well_formed_chunks_are_read(url: str) -> None:
    for chunks in (
        CHUNKS,
        CHUNKS.replace(b"f\r", b"F;a=b\r", 1),
        b"1\r\n{\r\ne\r\n" + BODY[1:] + b"\r\n0\r\nX: y\r\n\r\n",
    ):
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\nConnection: close\r\n\r\n"
        assert head_and_body(url, head.encode() + chunks)[0].startswith(b"http/1.1 200 ")


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"{}\r\n\r\n"]
)
def test_what_is_no_http_gets_the_one_shape_of_errors(
    demo_encoder: SentencePieceEncoder, noise: bytes
) -> None:
    with listening(FakeEngine(), demo_encoder) as url:
        heard = exchange(url, noise)
        assert b" 400 " in heard.split(b"\r\n")[0]
        assert "HTTP" in error(parsed(heard), 400).message


def test_noise_after_a_request_ends_it_without_a_second_head(
    demo_encoder: SentencePieceEncoder,
) -> None:
    engine = FakeEngine(script=[Delta(0, "a", (5,))] * 1000, delay=0.01)
    with listening(engine, demo_encoder) as url:
        body = json.dumps({**ASK, "stream": True}).encode()
        ask = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        heard = exchange(url, ask, b"\x16\x03noise")
        assert heard.count(b"HTTP/1.1 ") == 1
        assert wait_for(lambda: engine.running == 0, 1)
