"""Compressed bodies: read like any other under the same limit, or refused in a way that tells the client what to do."""

import gzip
import json
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from errors import APIError
from prompts.encoder import SentencePieceEncoder
from server.content_coding import MAX_MEMBERS, decompress
from tests.support.app_on_fake_engine import listening
from tests.support.fake_engine import FakeEngine
from tests.support.replies import error

ASKS = {
    "/v1/completions": {"prompt": "告诉我中国的首都在哪里"},
    "/v1/chat/completions": {"messages": "你好"},
    "/v1/responses": {"input": "你好"},
    "/tokenize": {"prompt": "你好"},
    "/detokenize": {"tokens": [1, 500, 501]},
}


OWN_FIELDS = ("id", "created", "created_at", "completed_at")
"""What each reply has of its own."""


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


def members(body: bytes) -> bytes:
    return gzip.compress(body[:10]) + gzip.compress(b"") + gzip.compress(body[10:])


def same(body: bytes) -> bytes:
    return body


CODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "in capitals": ("GZip", gzip.compress),
    "its old name": ("x-gzip", gzip.compress),
    "members": ("gzip", members),
    "zlib": ("deflate", zlib.compress),
    "zlib, stored": ("deflate", lambda body: zlib.compress(body, 0)),
    "raw deflate": ("deflate", raw_deflate),
    "identity": ("identity", same),
    "no name": ("", same),
}


def content(reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = json.loads(
        reply.content,
        object_hook=lambda fields: {
            name: value for name, value in fields.items() if name not in OWN_FIELDS
        },
    )
    return found


@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize(("coding", "code"), CODERS.values(), ids=CODERS)
def test_a_compressed_body_is_read_like_any_other(
    client: TestClient, path: str, coding: str, code: Callable[[bytes], bytes]
) -> None:
    body = json.dumps(ASKS[path]).encode()
    plain = client.post(path, content=body)
    headers = {"Content-Encoding": coding}
    assert content(client.post(path, content=code(body), headers=headers)) == content(plain)
    with_mark = code(b"\xef\xbb\xbf" + body)
    assert client.post(path, content=with_mark, headers=headers).status_code == 200


def test_a_compressed_request_is_streamed_and_its_faults_are_named(client: TestClient) -> None:
    headers = {"Content-Encoding": "gzip"}
    sent = gzip.compress(json.dumps({"messages": "a", "stream": True}).encode())
    assert client.post("/v1/chat/completions", content=sent, headers=headers).text.endswith(
        "data: [DONE]\n\n"
    )
    sent = gzip.compress(b'{"prompt": "a", "n": 0}')
    assert error(client.post("/v1/completions", content=sent, headers=headers), 400).param == "n"
    sent = gzip.compress(b'{"prompt"')
    assert (
        "JSON" in error(client.post("/v1/completions", content=sent, headers=headers), 400).message
    )


@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (["br"], "'br'"),
        (["zstd"], "'zstd'"),
        (["compress"], "'compress'"),
        (["gzip, deflate"], "'gzip, deflate'"),
        (["gzip", "gzip"], "'gzip, gzip'"),
        (["gzip, identity"], "'gzip, identity'"),
        (["x" * 5000], "'" + "x" * 40 + "'"),
        (["gz\xefp"], "Content-Encoding is"),
        (["b\tr"], "Content-Encoding is"),
    ],
)
def test_another_coding_is_named_and_told_which_are_read(
    client: TestClient, path: str, sent: list[str], told: str
) -> None:
    headers = [("Content-Encoding", coding.encode("latin-1")) for coding in sent]
    reply = client.post(
        path, content=b"\x28\xb5\x2f\xfd", headers=[*headers, ("Origin", "http://a.example")]
    )
    assert told in error(reply, 415).message
    assert reply.headers["accept-encoding"] == "gzip, deflate"
    assert reply.headers["access-control-allow-origin"] == "*"
    assert len(reply.content) < 1000


BODY = json.dumps(ASKS["/v1/completions"]).encode()
BROKEN = {
    "plain JSON": ("gzip", BODY),
    "nothing": ("gzip", b""),
    "deflate of nothing": ("deflate", b""),
    "cut": ("gzip", gzip.compress(BODY)[:-1]),
    "cut in half": ("gzip", gzip.compress(BODY)[:20]),
    "zlib, cut": ("deflate", zlib.compress(BODY)[:-1]),
    "raw, cut": ("deflate", raw_deflate(BODY)[:-3]),
    "a wrong sum": ("gzip", gzip.compress(BODY)[:-8] + bytes(8)),
    "something after it": ("gzip", gzip.compress(BODY) + b"more"),
    "a second member, cut": ("gzip", gzip.compress(BODY) + gzip.compress(b"more")[:-1]),
    "zlib and more": ("deflate", zlib.compress(BODY) + b"more"),
    "raw and more": ("deflate", raw_deflate(BODY) * 2),
    "the other one": ("gzip", zlib.compress(BODY)),
    "gzip as deflate": ("deflate", gzip.compress(BODY)),
    "many members": ("gzip", gzip.compress(b" ") * MAX_MEMBERS + gzip.compress(BODY)),
}


@pytest.mark.parametrize(("coding", "sent"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
def test_broken_and_cut_bodies_are_a_400(
    client: TestClient, path: str, coding: str, sent: bytes
) -> None:
    message = error(
        client.post(path, content=sent, headers={"Content-Encoding": coding}), 400
    ).message
    assert coding in message


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize", "/detokenize"]
)
def test_the_limit_holds_for_what_is_sent_and_for_what_comes_out(
    serve: Callable[..., TestClient], path: str
) -> None:
    client = serve(max_body_bytes=1000)
    body = json.dumps(ASKS[path]).encode()
    for code, coding in (
        (gzip.compress, "gzip"),
        (zlib.compress, "deflate"),
        (raw_deflate, "deflate"),
    ):
        headers = {"Content-Encoding": coding}
        assert client.post(path, content=code(body.ljust(1000)), headers=headers).status_code == 200
        assert (
            "1000 bytes"
            in error(
                client.post(path, content=code(body.ljust(1001)), headers=headers), 413
            ).message
        )
    stored = gzip.compress(body.ljust(990), 0)
    assert len(stored) > 1000
    assert (
        "1000 bytes"
        in error(
            client.post(path, content=stored, headers={"Content-Encoding": "gzip"}), 413
        ).message
    )
    two = gzip.compress(body.ljust(600)) + gzip.compress(b" " * 600)
    error(client.post(path, content=two, headers={"Content-Encoding": "gzip"}), 413)


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_the_limit_of_a_question_about_tokens_holds_for_what_comes_out(
    client: TestClient, path: str
) -> None:
    sent = gzip.compress(json.dumps(ASKS[path]).encode().ljust(2**20 + 1))
    error(client.post(path, content=sent, headers={"Content-Encoding": "gzip"}), 413)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """256 MiB of spaces, in a quarter of a MiB."""
    compressor = zlib.compressobj(9, wbits=31)
    return b"".join(compressor.compress(b" " * 2**20) for _ in range(256)) + compressor.flush()


def test_a_bomb_costs_neither_memory_nor_time(bomb: bytes) -> None:
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(APIError, match="8388608"):
        decompress(bomb, "gzip", 8 * 2**20)
    taken, peak = time.monotonic() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 1
    assert peak < 3 * 8 * 2**20


def test_a_crowd_of_tiny_members_costs_no_time() -> None:
    began = time.monotonic()
    with pytest.raises(APIError, match="members"):
        decompress(gzip.compress(b"") * 400_000, "gzip", 8 * 2**20)
    assert time.monotonic() - began < 1


def test_bombs_hold_nobody_up(demo_encoder: SentencePieceEncoder, bomb: bytes) -> None:
    """They are read beside the loop: others are answered meanwhile."""
    with listening(FakeEngine(), demo_encoder, max_body_bytes=64 * 2**20) as url:
        statuses: list[int] = []

        def send() -> None:
            reply = httpx.post(
                f"{url}/v1/completions",
                content=bomb,
                headers={"Content-Encoding": "gzip"},
                timeout=60,
            )
            statuses.append(reply.status_code)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        took: list[float] = []
        with httpx.Client(base_url=url) as others:
            while not took or any(thread.is_alive() for thread in threads):
                began = time.monotonic()
                assert others.get("/health").status_code == 200
                took.append(time.monotonic() - began)
        assert statuses == [413] * 4
        assert max(took[1:] or [0]) < 0.2
