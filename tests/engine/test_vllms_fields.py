"""Fields of vLLM's own server: `stop_reason`, `cache_salt`, `priority`, tokens and counters of the prefix cache."""

import re
from typing import Any

import httpx
import pytest

from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.replies import error, events, numbers
from tests.support.server_process import Server

pytestmark = pytest.mark.engine

LONG = [1, *(300 + at % 1000 for at in range(400))]
"""More than two blocks of a cache on a CPU, of 128 tokens each."""


def completed(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    reply = http.post(COMPLETIONS, json={"max_tokens": 24, "temperature": 0, **fields})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_the_reason_of_a_stop_is_named(http: httpx.Client) -> None:
    asked = {"prompt": "告诉我中国的首都在哪里", "return_token_ids": True}
    whole = completed(http, **asked)["choices"][0]
    assert (whole["finish_reason"], "stop_reason" in whole) == ("stop", False)
    by_text = completed(http, **asked, stop="北京")["choices"][0]
    assert (by_text["finish_reason"], by_text["stop_reason"]) == ("stop", "北京")
    token = whole["token_ids"][2]
    by_token = completed(http, **asked, stop_token_ids=[token])["choices"][0]
    assert (by_token["finish_reason"], by_token["stop_reason"]) == ("stop", token)
    by_length = completed(http, **asked, max_tokens=1)["choices"][0]
    assert "stop_reason" not in by_length


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_streams_name_it_in_their_last_piece(http: httpx.Client, path: str) -> None:
    asked = {"messages": "中国的首都在哪里"} if path == CHAT else {"prompt": "中国的首都在哪里"}
    with http.stream(
        "POST", path, json={**asked, "temperature": 0, "stop": "北京", "stream": True}
    ) as stream:
        pieces = [choice for event in events(stream.read().decode()) for choice in event["choices"]]
    assert [piece.get("stop_reason") for piece in pieces if piece["finish_reason"]] == ["北京"]
    assert not [piece for piece in pieces[:-1] if "stop_reason" in piece]


def test_a_prompt_that_was_sent_before_is_not_computed_again(http: httpx.Client) -> None:
    prompt = [*LONG, 901]
    before = numbers(http)
    first = completed(http, prompt=prompt)
    again = completed(http, prompt=prompt)
    assert "prompt_tokens_details" not in first["usage"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 256
    assert again["choices"][0]["text"] == first["choices"][0]["text"]
    after = numbers(http)
    assert after["vllm:prefix_cache_hits_total"] - before["vllm:prefix_cache_hits_total"] >= 256
    queries = "vllm:prefix_cache_queries_total"
    assert after[queries] - before[queries] >= 2 * len(prompt)


def test_salts_keep_caches_apart(http: httpx.Client) -> None:
    prompt = [*LONG, 902]
    usages = [completed(http, prompt=prompt, cache_salt=salt)["usage"] for salt in ("a", "b", "a")]
    cached = [
        usage.get("prompt_tokens_details", {"cached_tokens": 0})["cached_tokens"]
        for usage in usages
    ]
    assert cached[0] == cached[1] == 0
    assert cached[2] >= 256


def test_priorities_need_a_server_that_schedules_by_them(http: httpx.Client) -> None:
    for fields in ({}, {"echo": True, "max_tokens": 0, "logprobs": 1}):
        refused = http.post(COMPLETIONS, json={"prompt": "a", "priority": -1, **fields})
        told = error(refused, 400)
        assert told.param == "priority"
        assert "--scheduling-policy priority" in told.message


def test_the_banner_says_what_the_model_takes(server: Server) -> None:
    """Of each token the cache has two vectors of 256 numbers of 16 bits in each of 4 layers."""
    [line] = [line for line in server.shown if line.startswith("  memory ")]
    found = re.search(
        r"weights 9\.2 MB \(their files\), KV cache (\S+) ([GM])B: (\S+) tokens, (\S+) requests of full",
        line,
    )
    assert found is not None, line
    size = float(found[1]) * {"G": 1e9, "M": 1e6}[found[2]]
    tokens, requests = int(found[3].replace(",", "")), float(found[4])
    assert tokens * 2 * 256 * 2 * 4 == pytest.approx(size, rel=0.05)
    assert requests == pytest.approx(tokens / 2048, abs=0.1)
