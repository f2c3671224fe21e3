"""Requests of all kinds, and the texts of what is answered."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any

import httpx

from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.replies import events
from tests.support.server_process import Server

QUESTIONS = (
    "中国的首都在哪里？",
    "比较中国和美国。",
    "杭州有什么名胜？",
    "法国的首都是哪里？",
    "讲一个故事",
    "1+1等于几？",
    "日本在哪个洲？",
    "谢谢",
)
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 20}},
    "required": ["answer"],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"stream": True},
    {"stream": True, "n": 2, "repetition_penalty": 1.3},
    {"num_beams": 2},
    {"num_beams": 3, "n": 2, "stream": True},
    {"response_format": FORMAT},
    {"response_format": FORMAT, "stream": True},
    {"logit_bias": {"438": -100, "300": 5}, "presence_penalty": 1.0, "stop": ["。"]},
    {"logprobs": 3, "max_tokens": 20},
    {"min_tokens": 30, "frequency_penalty": 0.5, "stream": True},
)


def asks() -> list[tuple[str, dict[str, Any]]]:
    made: list[tuple[str, dict[str, Any]]] = []
    for question, kind in zip(cycle(QUESTIONS), islice(cycle(KINDS), 64), strict=False):
        is_chat = len(made) % 3 == 0 and "logprobs" not in kind
        sent = {"messages": question} if is_chat else {"prompt": question}
        made.append(
            (CHAT if is_chat else COMPLETIONS, {"temperature": 0, "max_tokens": 60, **sent, **kind})
        )
    return made


def texts(reply: httpx.Response) -> list[str]:
    """Of each choice."""
    assert reply.status_code == 200, reply.text
    is_stream = reply.headers["content-type"].startswith("text/event-stream")
    made: dict[int, str] = {}
    for body in events(reply.text) if is_stream else [reply.json()]:
        for choice in body["choices"]:
            piece = choice.get("message", choice.get("delta", {}))
            made[choice["index"]] = made.get(choice["index"], "") + (
                choice.get("text") or piece.get("content") or ""
            )
    return [made[index] for index in sorted(made)]


def answers(
    server: Server, asked: Sequence[tuple[str, dict[str, Any]]], at_once: int
) -> list[list[str]]:
    with (
        httpx.Client(base_url=server.url, timeout=120) as client,
        ThreadPoolExecutor(at_once) as pool,
    ):
        return [*pool.map(lambda ask: texts(client.post(ask[0], json=ask[1])), asked)]
