"""Bodies and heads that are too large, refused as soon as that is known."""

import json
from collections.abc import Callable

import httpx
import pytest
from fastapi.testclient import TestClient

from prompts.encoder import SentencePieceEncoder
from tests.support.app_on_fake_engine import listening
from tests.support.bodies import ASK
from tests.support.fake_engine import FakeEngine
from tests.support.replies import error
from tests.support.wire import HEAD, exchange, parsed


def test_a_body_announced_too_large_is_refused_unread(serve: Callable[..., TestClient]) -> None:
    client = serve(max_body_bytes=1000)
    assert "1000 bytes" in error(client.post("/v1/completions", content=b" " * 1001), 413).message
    assert client.post("/v1/completions", content=json.dumps(ASK).ljust(1000)).status_code == 200


@pytest.mark.parametrize(
    ("line", "status"), [(b"GET /health", b"413"), (b"POST /v1/nothing", b"404")]
)
def test_what_reads_no_body_does_not_wait_for_one_that_is_announced_too_large(
    demo_encoder: SentencePieceEncoder, line: bytes, status: bytes
) -> None:
    with listening(FakeEngine(), demo_encoder, max_body_bytes=1000) as url:
        head = (
            line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n"
        )
        assert exchange(url, head).startswith(b"HTTP/1.1 " + status)


def test_a_body_that_grows_too_large_is_refused(demo_encoder: SentencePieceEncoder) -> None:
    with listening(FakeEngine(), demo_encoder, max_body_bytes=1000) as url:
        chunk = b"258\r\n" + b" " * 600 + b"\r\n"
        heard = exchange(url, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk)
        assert b" 413 " in heard.split(b"\r\n")[0]
        assert b"connection: close" in heard.lower()
        assert httpx.get(f"{url}/health").status_code == 200


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
def test_a_head_that_is_too_large_is_cut_off(
    demo_encoder: SentencePieceEncoder, pieces: list[bytes]
) -> None:
    with listening(FakeEngine(), demo_encoder) as url:
        heard = exchange(url, *pieces)
        assert b" 431 " in heard.split(b"\r\n")[0]
        assert error(parsed(heard), 431).type == "invalid_request_error"
        assert httpx.get(f"{url}/health", headers={"X": "y" * 60_000}).status_code == 200
