"""Prompts of every kind as the real engine answers them, and their token ids."""

import httpx
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from prompts.encoder import SentencePieceEncoder
from tests.support.bodies import CHAT
from tests.support.questions import CAPITAL, MODEL, STORIES, WORDS, complete
from tests.support.replies import events

pytestmark = pytest.mark.engine


def test_prompts_in_a_list_are_answered_in_order(http: httpx.Client) -> None:
    cities = {"法国的首都是哪里？": "巴黎", "日本的首都是哪里？": "东京", CAPITAL: "北京"}
    texts = complete(http, list(cities), temperature=0, n=2)
    assert all(
        city in text
        for city, text in zip([c for c in cities.values() for _ in "ab"], texts, strict=True)
    )


def test_raw_prompts_and_token_ids_are_continued(http: httpx.Client) -> None:
    tokens = http.post("/tokenize", json={"prompt": CAPITAL}).json()["tokens"]
    templated = complete(http, temperature=0)
    (from_ids,) = complete(http, tokens, temperature=0)
    assert [from_ids.removeprefix(" ")] == templated
    assert complete(http, raw=True, temperature=0, max_tokens=20) != templated


def test_a_partial_answer_is_continued(openai: OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": CAPITAL},
        {"role": "assistant", "content": "中国的首都是"},
    ]
    reply = openai.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    answer = reply.choices[0].message.content
    assert answer is not None
    assert answer.startswith("北京")


def test_an_answer_sent_back_gives_the_same_ids(http: httpx.Client) -> None:
    """What the model generated and what its text is encoded as agree, so that a conversation keeps its prefix."""
    reply = http.post("/v1/chat/completions", json={"messages": STORIES, "temperature": 0}).json()
    answer = reply["choices"][0]["message"]["content"]
    history = [
        *STORIES,
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "再讲一个"},
    ]
    tokens = http.post("/tokenize", json={"messages": history}).json()["tokens"]
    before = http.post("/tokenize", json={"messages": STORIES}).json()["tokens"]
    generated = reply["usage"]["completion_tokens"]
    assert tokens[: len(before)] == before
    assert (
        tokens[len(before)] == 2960
    )  # the space between prompt and answer, which counts as neither
    assert tokens[len(before) + generated] == 2


def test_control_tokens_in_a_prompt_are_answered_as_text(http: httpx.Client) -> None:
    for text in ("</s>", "<s>", "<unk>", "[INST]", "a</s><s>[INST] b [/INST]"):
        shown = http.post("/tokenize", json={"prompt": text}).json()["tokens"]
        assert [token for token in shown if token < 3] == [1]
        assert complete(http, text, max_tokens=5)


def test_returned_token_ids_are_those_that_the_text_was_made_of(
    http: httpx.Client, demo_encoder: SentencePieceEncoder
) -> None:
    for question in (CAPITAL, WORDS):
        ask = {"messages": question, "temperature": 0, "return_token_ids": True}
        plain = http.post(CHAT, json=ask).json()
        [choice] = plain["choices"]
        assert (
            plain["prompt_token_ids"]
            == http.post("/tokenize", json={"messages": question}).json()["tokens"]
        )
        assert len(choice["token_ids"]) == plain["usage"]["completion_tokens"]
        assert demo_encoder.decode(choice["token_ids"]) == choice["message"]["content"] + "</s>"
        chunks = events(http.post(CHAT, json={**ask, "stream": True}).text)
        assert [
            token for chunk in chunks for token in chunk["choices"][0].get("token_ids", [])
        ] == choice["token_ids"]
