"""Bodies that are asked with in many tests."""

from typing import Any

COMPLETIONS, CHAT, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
ASK = {"prompt": "你好"}
TALK = {"messages": [{"role": "user", "content": "你好"}]}
LONG: dict[str, Any] = {"max_tokens": 1900, "min_tokens": 1900}
"""As many tokens as there is room for, nearly."""
MODES: dict[str, dict[str, Any]] = {
    "stream": {**LONG, "stream": True},
    "plain": LONG,
    "n": {**LONG, "n": 8, "stream": True},
    "plain n": {**LONG, "n": 8},
    "greedy n": {**LONG, "n": 8, "temperature": 0},
    "batch": {**LONG, "prompt": ["a", "b", "c"]},
    "streamed batch": {**LONG, "prompt": ["a", "b", "c"], "stream": True},
    "beams": {"max_tokens": 1900, "num_beams": 4, "ignore_eos": True},
    "batch of beams": {
        "max_tokens": 1900,
        "prompt": ["a", "b"],
        "num_beams": 4,
        "ignore_eos": True,
    },
    "streamed beams": {"max_tokens": 1900, "num_beams": 4, "ignore_eos": True, "stream": True},
    "best of": {**LONG, "best_of": 4},
    "structured": {
        "max_tokens": 1900,
        "stream": True,
        "structured_outputs": {"regex": "[a-z]{3000}"},
    },
    "scores": {**LONG, "echo": True, "logprobs": 2, "stream": True},
}
"""Long requests of every kind, without their prompts."""
