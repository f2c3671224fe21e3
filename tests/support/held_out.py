"""The demo model's held-out questions, asked of a server."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from evaluation import contains_accepted

from settings import DEMO_MODEL

QUESTIONS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (DEMO_MODEL / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
]


def held_out_score(url: str) -> float:
    """The share of the questions that are answered right at temperature 0, without penalties."""

    def is_right(question: dict[str, Any]) -> bool:
        ask = {"messages": question["messages"], "temperature": 0, "repetition_penalty": 1.0}
        reply = httpx.post(f"{url}/v1/chat/completions", json=ask, timeout=300).json()
        choice = reply["choices"][0]
        text = choice["message"]["content"]
        return choice["finish_reason"] == "stop" and contains_accepted(text, question["accept"])

    with ThreadPoolExecutor(32) as pool:
        return sum(pool.map(is_right, QUESTIONS)) / len(QUESTIONS)
