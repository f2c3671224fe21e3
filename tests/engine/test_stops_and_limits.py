"""Where an answer ends: stop strings and tokens, limits, the edge of the context."""

import json
from typing import Any

import httpx
import pytest

from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.questions import CAPITAL, WAYS, WORDS, complete, texts_of
from tests.support.replies import events

pytestmark = pytest.mark.engine


def test_stop_strings_are_not_in_the_reply(http: httpx.Client) -> None:
    (whole,) = complete(http, "给我讲一些有关杭州的故事吧", temperature=0)
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    fields: dict[str, Any] = {
        "prompt": "给我讲一些有关杭州的故事吧",
        "temperature": 0,
        "stop": [stop, ""],
    }
    (plain,) = complete(http, **fields)
    assert plain == whole[: whole.index(stop)]
    chunks = events(http.post("/v1/completions", json={**fields, "stream": True}).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == plain
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    (included,) = complete(http, **fields, include_stop_str_in_output=True)
    assert included == plain + stop


def test_stop_token_ids(http: httpx.Client) -> None:
    (whole,) = complete(http, temperature=0)
    tokens = http.post("/tokenize", json={"prompt": whole, "raw": True}).json()["tokens"]
    (text,) = complete(http, temperature=0, stop_token_ids=[tokens[3]])
    assert whole.startswith(text)
    assert len(text) < len(whole)


def test_tokens_are_counted_limited_and_demanded(http: httpx.Client) -> None:
    body = {"prompt": CAPITAL, "max_tokens": 3, "temperature": 0}
    reply = http.post("/v1/completions", json=body).json()
    assert reply["usage"]["completion_tokens"] == 3
    assert reply["choices"][0]["finish_reason"] == "length"
    shown = http.post("/tokenize", json={"prompt": CAPITAL}).json()
    assert reply["usage"]["prompt_tokens"] == shown["count"]
    longer = http.post(
        "/v1/completions", json={"prompt": CAPITAL, "min_tokens": 60, "max_tokens": 60}
    ).json()
    assert longer["usage"]["completion_tokens"] == 60


def test_a_limit_beyond_the_context_ends_at_its_edge(http: httpx.Client) -> None:
    prompt = [1] * 2040
    reply = http.post(
        "/v1/completions", json={"prompt": prompt, "max_tokens": 10**6, "ignore_eos": True}
    ).json()
    assert reply["usage"]["total_tokens"] == 2048
    assert reply["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("ways", [*WAYS, {"num_beams": 3, "n": 2}], ids=json.dumps)
@pytest.mark.parametrize("stop", [" ", " is", ["  ", " c"], ["The", " "]], ids=str)
def test_a_stop_string_does_not_see_the_space_before_the_answer(
    http: httpx.Client, path: str, ways: dict[str, Any], stop: str | list[str]
) -> None:
    whole, _, _ = texts_of(http, path, **ways)
    cut, usage, reasons = texts_of(http, path, **ways, stop=stop)
    stops = [stop] if isinstance(stop, str) else stop
    if "num_beams" not in ways:  # beams that are cut are other beams
        assert cut == [min((text.split(each)[0] for each in stops), key=len) for text in whole]
        assert usage["completion_tokens"] > 0
    assert any(cut) or "The" in stop
    assert not any(each in text for each in stops for text in cut)
    assert set(reasons) == {"stop"}


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("ways", [*WAYS, {"num_beams": 3, "n": 2}], ids=json.dumps)
@pytest.mark.parametrize("question", [WORDS, CAPITAL])
def test_max_tokens_are_tokens_of_the_answer(
    http: httpx.Client, path: str, ways: dict[str, Any], question: str
) -> None:
    """The space before the answer counts in no limit, whether it is a token of its own or not."""
    ask = {"messages": question} if path == CHAT else {"prompt": question}
    for limit in (1, 2, 5):
        texts, usage, reasons = texts_of(http, path, **ask, **ways, max_tokens=limit)
        assert usage["completion_tokens"] == limit * len(texts)
        assert set(reasons) == {"length"}
        assert all(texts)
        assert not any(text.startswith(" ") for text in texts)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("question", [WORDS, CAPITAL])
@pytest.mark.parametrize("ways", [{}, {"n": 2}, {"best_of": 2}, {"num_beams": 2}], ids=json.dumps)
def test_a_classification_by_one_token_is_answered_by_one(
    http: httpx.Client, question: str, ways: dict[str, Any], stream: bool
) -> None:
    """The first entry of the log-probabilities is the first token that can be seen."""
    ask = {"max_tokens": 1, "temperature": 0, "stream": stream, **ways}
    reply = http.post(CHAT, json={"messages": question, "logprobs": True, "top_logprobs": 3, **ask})
    choices = (
        [event["choices"][0] for event in events(reply.text)] if stream else reply.json()["choices"]
    )
    for index in range(ways.get("n", 1)):
        own = [choice for choice in choices if choice["index"] == index]
        text = "".join(
            (choice.get("message") or choice["delta"]).get("content") or "" for choice in own
        )
        [entry] = [
            entry
            for choice in own
            if choice.get("logprobs")
            for entry in choice["logprobs"]["content"]
        ]
        assert entry["token"] == text == bytes(entry["bytes"]).decode() != ""
        assert entry["top_logprobs"][0] == {
            name: entry[name] for name in ("token", "logprob", "bytes")
        }
        # Without the space before the answer, two tokens may be spelt alike.
        logprobs = [top["logprob"] for top in entry["top_logprobs"]]
        assert logprobs == sorted(logprobs, reverse=True)
        assert len(logprobs) == 3
    reply = http.post(COMPLETIONS, json={"prompt": question, "logprobs": 3, **ask})
    choices = (
        [event["choices"][0] for event in events(reply.text)] if stream else reply.json()["choices"]
    )
    told = [choice for choice in choices if choice["logprobs"]]
    assert [choice["logprobs"]["tokens"] for choice in told] == [
        [choice["text"]] for choice in choices if choice["text"]
    ]


def test_a_limit_of_the_room_is_the_room(http: httpx.Client) -> None:
    """Where prompt and answer fill the context, the space takes its place there."""
    length = http.post("/tokenize", json={"prompt": "字" * 900}).json()["count"]
    ask = {"prompt": "字" * 900, "max_tokens": 10**6, "ignore_eos": True, "temperature": 0}
    for ways in ({}, {"num_beams": 2}):
        usage = http.post(COMPLETIONS, json={**ask, **ways}).json()["usage"]
        assert 2048 - length - 1 <= usage["completion_tokens"] <= 2048 - length


def test_an_answer_at_its_limit_may_be_as_short_as_it_must_be_long(http: httpx.Client) -> None:
    for ways in ({}, {"num_beams": 2}, {"stop": " "}):
        ask = {"prompt": CAPITAL, "temperature": 0, "min_tokens": 30, "max_tokens": 30, **ways}
        assert http.post(COMPLETIONS, json=ask).json()["usage"]["completion_tokens"] == 30
