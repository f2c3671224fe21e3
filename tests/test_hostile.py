"""A hundred hostile requests at once, of each kind: each is refused or answered, and a stream beside them flows on."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest
from conftest import ROOM, Server, posted, wait_for

pytestmark = pytest.mark.engine

CROWD = 100
WORST_GAP = 0.25
"""Seconds between two pieces of a stream."""
MEGABYTES = 8 * 2**20 - 1000
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def asked(path: str, content: dict | str | bytes) -> bytes:
    return posted(path, content, "Connection: close")


def filled(before: str, unit: str, after: str, size: int = MEGABYTES) -> str:
    return before + unit * (size // len(unit.encode())) + after


def completion(**fields: object) -> bytes:
    return asked(COMPLETIONS, {"prompt": "a", "max_tokens": 2, **fields})


WELL = {
    "type": "object",
    "properties": {f"p{at}": {"type": "string", "pattern": "^[a-z]{1,50}$"} for at in range(200)},
}
KINDS = {
    "a word of 8 MB": ({400}, asked(COMPLETIONS, filled('{"prompt": "', "a", '"}'))),
    "Chinese of 8 MB": ({400}, asked(COMPLETIONS, filled('{"prompt": "', "字", '"}'))),
    "8 MB to a chat": ({400}, asked(CHAT, filled('{"messages": "', "a ", '"}'))),
    "a word that is nearly too long": ({400}, completion(prompt="a" * 28_000)),
    "8 MB of spaces": ({200, 503}, asked(COMPLETIONS, filled('{"max_tokens": 1, "prompt": "a"', " ", "}"))),
    "8 MB that is no JSON": ({400}, asked(COMPLETIONS, b"\0" * MEGABYTES)),
    "8 MB of brackets": ({413}, asked(COMPLETIONS, filled('{"prompt": ', "[", ""))),
    "nested as deep as may be": ({400}, asked(COMPLETIONS, filled('{"prompt": ', "[", "", 250_000))),
    "many numbers": ({400}, asked(COMPLETIONS, filled('{"prompt": [', "1,", "1]}", 2 * 250_000))),
    "many prompts": ({400}, asked(COMPLETIONS, filled('{"prompt": [', "[1],", "[1]]}", 4 * 125_000))),
    "as many prompts as may be": ({400}, completion(prompt=["a"] * 2048)),
    "as many messages as may be": ({400}, asked(CHAT, {"messages": [{"role": "user"}, {"role": "assistant"}] * 2048})),
    "many messages": (
        {400}, asked(CHAT, filled('{"messages": [', '{"role":"user"},', '{"role":"user"}]}', 1_200_000)),
    ),
    "many fields": ({400}, completion(**{f"field {at}": at for at in range(120_000)})),
    "many biases": ({400}, completion(logit_bias=dict.fromkeys(range(120_000), 1))),
    "many parts": ({400}, asked(CHAT, {"messages": [{"role": "user", "content": ["a"] * 250_000}]})),
    "many calls": ({400}, asked(CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"name": 1}] * 80_000}]})),
    "tokens of 1 MB": ({200}, asked("/tokenize", filled('{"prompt": "', "a", '"}', 2**20 - 100))),
    "tokens of a large body": ({413}, asked("/tokenize", filled('{"prompt": "', "a", '"}'))),
    "text of many tokens": ({200}, asked("/detokenize", {"tokens": [1000] * 170_000})),
    "text of too many tokens": ({413}, asked("/detokenize", {"tokens": [1000] * 250_000})),
    "a batch for all room": ({200, 503}, completion(prompt=["a"] * (ROOM - 1))),
    "many choices": ({200, 503}, completion(n=ROOM - 1)),
    "many beams": ({200, 503}, completion(num_beams=16, n=16)),
    "long stop strings": ({200, 503}, completion(stop=["字" * 1024] * 16, n=16)),
    "long lists of tokens": (
        {200, 503},
        completion(stop_token_ids=[*range(2, 1026)], logit_bias=dict.fromkeys(range(2, 1026), 1), n=16),
    ),
    "too many choices": ({400}, completion(n=10**9)),
    "a large schema": (
        {200, 400, 503}, completion(response_format={"type": "json_schema", "json_schema": {"schema": WELL}}),
    ),
    "a regex that explodes": ({200, 400, 503}, completion(structured_outputs={"regex": "((a{1,200}){1,200}){1,99}"})),
    "another that explodes": ({200, 400, 503}, completion(structured_outputs={"regex": "(.*a.*){40}b"})),
    "a grammar that goes in circles": (
        {200, 400, 503}, completion(structured_outputs={"grammar": "start: start start | \"a\""}),
    ),
    "large choices": (
        {200, 400, 503}, completion(structured_outputs={"choice": [f"{at}" + "字" * 1000 for at in range(1000)]}),
    ),
    "a length that lies": ({413}, asked(COMPLETIONS, "{}").replace(b"Length: 2", b"Length: 1000000000000")),
    "no length": ({400, 408}, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    "a head without end": ({431}, b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000),
    "noise": ({400}, bytes(range(256)) * 100),
    "an unknown path": ({404}, asked("/" + "a" * 60_000, "{}")),
}  # fmt: skip


def answer_to(url: httpx.URL, sent: bytes) -> bytes:
    """How it begins, when all has come; the server may end the connection before it has heard everything."""
    with socket.create_connection((url.host, url.port), timeout=120) as connection:
        begun = b""
        with suppress(ConnectionError):
            connection.sendall(sent)
        with suppress(ConnectionError):
            while piece := connection.recv(2**20):
                begun = begun or piece
        return begun


@contextmanager
def stream_beside(server: Server) -> Iterator[list[float]]:
    """The gaps of streams that run meanwhile, one after the other."""
    url, gaps, is_over = httpx.URL(server.url), [], threading.Event()
    ask = asked(
        COMPLETIONS,
        {"prompt": "讲一个故事", "stream": True, "max_tokens": 1900, "min_tokens": 1900},
    )

    def listen() -> None:
        while not is_over.is_set():
            with socket.create_connection((url.host, url.port), timeout=60) as connection:
                connection.sendall(ask)
                assert connection.recv(12) == b"HTTP/1.1 200"
                last = time.monotonic()
                while not is_over.is_set() and connection.recv(65536):
                    now = time.monotonic()
                    gaps.append(now - last)
                    last = now

    listener = threading.Thread(target=listen)
    listener.start()
    assert wait_for(lambda: len(gaps) > 20, 20)
    try:
        yield gaps
    finally:
        is_over.set()
        listener.join()


def worst_gap_beside(server: Server, sent: bytes, statuses: set[int]) -> float:
    url = httpx.URL(server.url)
    with stream_beside(server) as gaps, ThreadPoolExecutor(CROWD) as crowd:
        del gaps[:]
        answers = [*crowd.map(lambda _: answer_to(url, sent), range(CROWD))]
        time.sleep(0.1)
        worst = max(gaps)
    assert {int(answer.split(maxsplit=2)[1]) for answer in answers if answer} <= statuses
    assert any(answers)
    return worst


@pytest.mark.parametrize(("statuses", "sent"), KINDS.values(), ids=KINDS)
def test_a_crowd_of_hostile_requests_holds_no_stream_up(server, http, statuses, sent):
    """The best of three crowds: the machine has stalls of its own."""
    gaps: list[float] = []
    while len(gaps) < 3 and not any(gap < WORST_GAP for gap in gaps):
        gaps.append(worst_gap_beside(server, sent, statuses))
    assert min(gaps) < WORST_GAP, gaps
    assert http.get("/health").status_code == 200
