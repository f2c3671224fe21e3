"""Questions to the demo model, put to a real server."""

from typing import Any

import httpx

from tests.support.bodies import COMPLETIONS
from tests.support.replies import events

MODEL = "chinese-llama-alpaca-2"
CAPITAL = "告诉我中国的首都在哪里"
COMPARISON = "告诉我中国和美国分别各有哪些优点缺点"
STORIES: list[Any] = [{"role": "user", "content": "给我讲一些有关杭州的故事吧"}]
WEST_LAKE = [
    *STORIES,
    {"role": "assistant", "content": "好的，请问您对杭州有什么特别的偏好吗？"},
    {"role": "user", "content": "我比较喜欢和西湖，可以给我讲一下西湖吗"},
]

WORDS = "What is the capital of Japan?"
WAYS: list[dict[str, Any]] = [
    {},
    {"n": 2},
    {"n": 2, "temperature": 1.0, "seed": 5},
    {"best_of": 3, "n": 2, "seed": 5, "temperature": 1.0},
]


def complete(http: httpx.Client, prompt: str | list[Any] = CAPITAL, **fields: Any) -> list[str]:
    """The texts of a plain completion."""
    reply = http.post("/v1/completions", json={"model": MODEL, "prompt": prompt, **fields})
    assert reply.status_code == 200, reply.text
    return [choice["text"] for choice in reply.json()["choices"]]


def texts_of(
    http: httpx.Client, path: str, **fields: Any
) -> tuple[list[str], dict[str, int], list[str]]:
    """Of each choice its text, and why it ended; plain and streamed are the same."""
    ask = {
        "prompt": WORDS,
        "messages": WORDS,
        "temperature": 0,
        "repetition_penalty": 1.0,
        **fields,
    }
    del ask["messages" if path == COMPLETIONS else "prompt"]
    plain = http.post(path, json=ask)
    assert plain.status_code == 200, plain.text
    choices, usage = plain.json()["choices"], plain.json()["usage"]
    texts = [
        choice["text"] if path == COMPLETIONS else choice["message"]["content"]
        for choice in choices
    ]
    reasons = [choice["finish_reason"] for choice in choices]
    *chunks, last = events(
        http.post(
            path, json={**ask, "stream": True, "stream_options": {"include_usage": True}}
        ).text
    )
    streamed, ended = [""] * len(texts), [""] * len(texts)
    for chunk in chunks:
        [choice] = chunk["choices"]
        streamed[choice["index"]] += (
            choice["text"] if path == COMPLETIONS else choice["delta"].get("content", "")
        )
        ended[choice["index"]] = choice["finish_reason"] or ended[choice["index"]]
    assert (streamed, ended, last["usage"]) == (texts, reasons, usage)
    return texts, usage, reasons
