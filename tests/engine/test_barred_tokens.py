"""Words that may not be in an answer, and tokens that alone may."""

import json
from typing import Any

import httpx
import pytest

from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.questions import CAPITAL, WORDS, complete, texts_of

pytestmark = pytest.mark.engine


def test_bad_words_are_not_in_the_answer(http: httpx.Client) -> None:
    """By the ids that the model writes them in: where they begin the answer, after a space, and in its midst."""
    for question, words in (
        (CAPITAL, ["北京"]),
        (CAPITAL, ["首都", "中国"]),
        (WORDS, ["The"]),
        (WORDS, ["Tokyo", " is"]),
    ):
        ask = {"temperature": 0, "repetition_penalty": 1.0, "prompt": question}
        usual, _, _ = texts_of(http, COMPLETIONS, **ask)
        for ways in (
            {},
            {"n": 2, "temperature": 0.7, "seed": 3},
            {"best_of": 2, "temperature": 0.7, "seed": 3},
        ):
            texts, _, _ = texts_of(http, COMPLETIONS, **{**ask, **ways, "bad_words": words})
            assert not any(word in text for text in texts for word in words)
        assert all(word in usual[0] for word in words)


def test_only_allowed_tokens_are_generated(http: httpx.Client) -> None:
    ids = http.post("/tokenize", json={"prompt": "北京上海", "raw": True}).json()["tokens"][2:]
    for path in (COMPLETIONS, CHAT):
        ask = {"prompt": CAPITAL, "messages": CAPITAL, "max_tokens": 3, "return_token_ids": True}
        del ask["messages" if path == COMPLETIONS else "prompt"]
        for ways in ({}, {"temperature": 0}, {"n": 3, "temperature": 2}, {"best_of": 3}):
            for choice in http.post(path, json={**ask, **ways, "allowed_token_ids": ids}).json()[
                "choices"
            ]:
                assert set(choice["token_ids"]) <= set(ids)
                assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    "fields",
    [
        {"allowed_token_ids": [2961], "bad_words": ["a"]},
        {"allowed_token_ids": [2], "min_tokens": 5},
        {"allowed_token_ids": [0]},
        {"allowed_token_ids": [4599, 4599], "logit_bias": {"4599": -100}},
        {"bad_words": ["</s>", "<s>", " ", "\n", "▁"]},
        {"bad_words": ["字" * 1024] * 64},
        {"truncate_prompt_tokens": 1},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_no_combination_of_barred_tokens_ends_the_engine(
    http: httpx.Client, fields: dict[str, Any], temperature: float
) -> None:
    reply = http.post(
        COMPLETIONS, json={"prompt": CAPITAL, "max_tokens": 8, "temperature": temperature, **fields}
    )
    assert reply.status_code in (200, 400)
    assert http.get("/health").status_code == 200
    assert complete(http, CAPITAL, temperature=0) == ["中国的首都是北京。"]


def test_a_token_outside_the_vocabulary_is_not_allowed(http: httpx.Client) -> None:
    reply = http.post(COMPLETIONS, json={"prompt": CAPITAL, "allowed_token_ids": [5, 4600]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "allowed_token_ids")
