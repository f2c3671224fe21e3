"""Log-probabilities in both shapes: tokens join to the text, in one piece or in many."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from api.logprobs import MIN_LOGPROB
from generation import Delta, FinishReason, TokenLogprob
from prompts.encoder import SentencePieceEncoder, TokenizerEncoder
from protocol import ChatCompletion, Completion
from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.fake_engine import FakeEngine
from tests.support.replies import events

EOS = 2
Speak = Callable[..., list[Delta]]


def spoken(
    encoder: SentencePieceEncoder, text: str, finish_reason: FinishReason = "stop", cut: int = 0
) -> list[Delta]:
    """One token a delta, text only when its characters are whole, as an engine does; `cut` of them left out.

    The space that belongs to the template is left out, with its token if it has one of its own.
    """
    ids = [*encoder.encode([text]), *([EOS] if not cut and finish_reason == "stop" else [])]
    has_lead_token = ids[0] in encoder.ids_spelt_as(" ")
    ids = ids[has_lead_token:]
    deltas, sent = [], ""
    for at, token_id in enumerate(ids):
        whole = b"".join(
            encoder.token_bytes(other) for other in ids[: at + 1] if other != EOS
        ).decode(errors="ignore")
        whole = (whole if has_lead_token else whole[1:])[: len(text) - cut]
        log = TokenLogprob(token_id, -float(at), [(token_id, -float(at)), (EOS, -math.inf)])
        deltas.append(Delta(0, whole[len(sent) :], (token_id,), logprobs=[log]))
        sent = whole
    if not has_lead_token:
        deltas[0].cut = " "
    deltas[-1].finish_reason = finish_reason
    return deltas


@pytest.fixture
def speak(engine: FakeEngine, demo_encoder: SentencePieceEncoder) -> Speak:
    def script(text: str, finish_reason: FinishReason = "stop", cut: int = 0) -> list[Delta]:
        deltas = spoken(demo_encoder, text, finish_reason, cut)
        engine.script = deltas
        return deltas

    return script


def spelt(content: list[dict[str, Any]]) -> str:
    return b"".join(bytes(token["bytes"]) for token in content).decode()


@pytest.mark.parametrize("text", ["北京。", "龘😀 a👨‍👩‍👧", "好", "Hello  world\n"])
@pytest.mark.parametrize(("finish_reason", "cut"), [("stop", 0), ("length", 0), ("stop", 1)])
def test_bytes_join_to_the_text_plain_and_streamed(
    client: TestClient, speak: Speak, text: str, finish_reason: FinishReason, cut: int
) -> None:
    speak(text, finish_reason, cut=cut)
    body = {"messages": "a", "logprobs": True, "top_logprobs": 2}
    choice = client.post(CHAT, json=body).json()["choices"][0]
    assert choice["message"]["content"] == text[: len(text) - cut]
    assert spelt(choice["logprobs"]["content"]) == choice["message"]["content"]
    chunks = events(client.post(CHAT, json={**body, "stream": True}).text)
    content = [
        token
        for chunk in chunks
        for token in chunk["choices"][0].get("logprobs", {}).get("content", [])
    ]
    assert content == choice["logprobs"]["content"]


def test_each_chunk_has_the_tokens_of_its_own_text(client: TestClient, speak: Speak) -> None:
    speak("北京😀龘。")
    body = {"messages": "a", "logprobs": True, "stream": True}
    for chunk in events(client.post(CHAT, json=body).text):
        delta = chunk["choices"][0]["delta"]
        assert spelt(chunk["choices"][0].get("logprobs", {"content": []})["content"]) == delta.get(
            "content", ""
        )


def test_the_end_of_a_text_comes_with_the_finish_reason(
    client: TestClient, engine: FakeEngine, speak: Speak
) -> None:
    """However many tokens come at once."""
    deltas = speak("北京。")
    ids = tuple(token_id for delta in deltas for token_id in delta.token_ids)
    logprobs = [log for delta in deltas for log in delta.logprobs or ()]
    engine.script = [Delta(0, "北京。", ids, "stop", logprobs=logprobs)]
    body = {"messages": "a", "logprobs": True, "stream": True}
    choices = [chunk["choices"][0] for chunk in events(client.post(CHAT, json=body).text)]
    read = [
        (choice["delta"].get("content"), spelt(choice["logprobs"]["content"]))
        for choice in choices
        if "logprobs" in choice
    ]
    assert read == [("北京。", "北京。"), (None, "")]
    assert choices[-1]["finish_reason"] == "stop"


def test_the_shape_of_chat(client: TestClient, speak: Speak) -> None:
    deltas = speak("好😀")
    reply = client.post(CHAT, json={"messages": "a", "logprobs": True, "top_logprobs": 2})
    choice = ChatCompletion.model_validate(reply.json()).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.refusal is None
    assert [token.logprob for token in choice.logprobs.content] == [
        -float(at) for at in range(len(deltas))
    ]
    last = choice.logprobs.content[-1]
    assert (last.token, last.bytes) == ("</s>", [])
    assert [(top.token, top.logprob) for top in last.top_logprobs] == [
        ("</s>", last.logprob),
        ("</s>", MIN_LOGPROB),
    ]
    assert [len(token.bytes) for token in choice.logprobs.content[-5:-1]] == [1, 1, 1, 1]
    assert json.loads(reply.text)["choices"][0]["logprobs"]["content"][-2]["token"] == "\ufffd"


def test_the_shape_of_completions(client: TestClient, speak: Speak) -> None:
    speak("好😀。")
    body = {"prompt": "a", "logprobs": 2}
    choice = Completion.model_validate(client.post(COMPLETIONS, json=body).json()).choices[0]
    log = choice.logprobs
    assert log is not None
    assert log.tokens[-6:] == [
        "bytes:\\xf0",
        "bytes:\\x9f",
        "bytes:\\x98",
        "bytes:\\x80",
        "。",
        "</s>",
    ]
    assert log.text_offset[-6:] == [1, 1, 1, 1, 2, 3]
    assert (
        len(log.tokens) == len(log.token_logprobs) == len(log.top_logprobs) == len(log.text_offset)
    )
    assert log.top_logprobs[-2] == {"。": log.token_logprobs[-2], "</s>": MIN_LOGPROB}
    chunks = [
        chunk["choices"][0]["logprobs"]
        for chunk in events(client.post(COMPLETIONS, json={**body, "stream": True}).text)
    ]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [item for chunk in chunks for item in chunk[name]] == getattr(log, name)


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_has_the_prompts_tokens_too(
    client: TestClient, speak: Speak, stream: bool, demo_encoder: SentencePieceEncoder
) -> None:
    speak("好。")
    body = {"prompt": "你好😀", "raw": True, "echo": True, "logprobs": 1, "stream": stream}
    reply = client.post(COMPLETIONS, json=body)
    choices = (
        [chunk["choices"][0] for chunk in events(reply.text)] if stream else reply.json()["choices"]
    )
    text = "".join(choice["text"] for choice in choices)
    tokens, offsets, values, tops = (
        [item for choice in choices for item in choice["logprobs"][name]]
        for name in ("tokens", "text_offset", "token_logprobs", "top_logprobs")
    )
    prompt_ids = demo_encoder.encode([demo_encoder.bos_id, "你好😀"])
    assert text == "你好😀好。"
    assert tokens[0] == "<s>"
    assert values[0] is tops[0] is None
    assert values[1 : len(prompt_ids)] == [-float(at) for at in range(1, len(prompt_ids))]
    assert offsets[len(prompt_ids)] == 3
    assert offsets == sorted(offsets)
    names = [
        token for token in tokens if token not in ("<s>", "</s>") and not token.startswith("bytes:")
    ]
    assert "".join(names).replace(" ", "") == text.replace("😀", "").replace(" ", "")


def test_a_prompt_is_scored_without_a_reply(client: TestClient, engine: FakeEngine) -> None:
    reply = client.post(
        COMPLETIONS, json={"prompt": [1, 300, 301], "echo": True, "logprobs": 1, "max_tokens": 0}
    ).json()
    log = reply["choices"][0]["logprobs"]
    assert log["token_logprobs"] == [None, -1.0, -2.0]
    assert reply["choices"][0]["text"].startswith("<s>")
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 0
    assert engine.asked == []


def test_without_them_there_are_none(client: TestClient, speak: Speak) -> None:
    speak("好。")
    assert client.post(COMPLETIONS, json={"prompt": "a"}).json()["choices"][0]["logprobs"] is None
    assert (
        client.post(COMPLETIONS, json={"prompt": "a", "logprobs": False}).json()["choices"][0][
            "logprobs"
        ]
        is None
    )
    assert client.post(CHAT, json={"messages": "a"}).json()["choices"][0]["logprobs"] is None
    assert (
        "logprobs"
        not in events(client.post(CHAT, json={"messages": "a", "stream": True}).text)[1]["choices"][
            0
        ]
    )


def test_zero_of_the_likeliest(client: TestClient, speak: Speak) -> None:
    for delta in speak("好。"):
        delta.logprobs = [TokenLogprob(delta.token_ids[0], -0.25)]
    log = client.post(COMPLETIONS, json={"prompt": "a", "logprobs": 0}).json()["choices"][0][
        "logprobs"
    ]
    assert all(
        top == {token: -0.25} for token, top in zip(log["tokens"], log["top_logprobs"], strict=True)
    )
    content = client.post(CHAT, json={"messages": "a", "logprobs": True}).json()["choices"][0][
        "logprobs"
    ]["content"]
    assert all(token["top_logprobs"] == [] for token in content)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_the_likeliest_are_as_many_as_asked_for(
    client: TestClient, speak: Speak, path: str
) -> None:
    """The first token begins with the template's space: named alike, without it, by itself and among the likeliest."""
    deltas = speak("The end.")
    assert deltas[0].cut == " "
    if path == COMPLETIONS:
        log = client.post(path, json={"prompt": "a", "logprobs": 2}).json()["choices"][0][
            "logprobs"
        ]
        assert [len(top) for top in log["top_logprobs"]] == [2] * (len(log["tokens"]) - 1) + [1]
        assert all(
            token in top for token, top in zip(log["tokens"], log["top_logprobs"], strict=True)
        )
    else:
        body = {"messages": "a", "logprobs": True, "top_logprobs": 2}
        content = client.post(path, json=body).json()["choices"][0]["logprobs"]["content"]
        assert [len(token["top_logprobs"]) for token in content] == [2] * len(content)
        assert all(
            token["token"] in [top["token"] for top in token["top_logprobs"]] for token in content
        )


def test_half_a_character_at_the_end_is_no_text(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    deltas = spoken(demo_encoder, "好龘", "length")[:-1]
    deltas[-1].finish_reason = "length"
    engine.script = deltas
    choice = client.post(CHAT, json={"messages": "a", "logprobs": True}).json()["choices"][0]
    assert choice["message"]["content"] == spelt(choice["logprobs"]["content"]) == "好"
    assert len(choice["logprobs"]["content"]) == len(deltas)


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_stands_before_each_choice_of_each_prompt(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder, stream: bool
) -> None:
    one = spoken(demo_encoder, "好。")
    engine.script = [replace(delta, index=index) for index in range(2) for delta in one]
    body = {
        "prompt": ["你好", [1, 300]],
        "raw": True,
        "n": 2,
        "echo": True,
        "logprobs": 0,
        "stream": stream,
    }
    reply = client.post(COMPLETIONS, json=body)
    pieces = (
        [chunk["choices"][0] for chunk in events(reply.text)] if stream else reply.json()["choices"]
    )
    second = demo_encoder.decode([1, 300])
    for index, prompt in enumerate(["你好", "你好", second, second]):
        own = [piece for piece in pieces if piece["index"] == index]
        assert "".join(piece["text"] for piece in own) == f"{prompt}好。"
        offsets = [offset for piece in own for offset in piece["logprobs"]["text_offset"]]
        assert offsets[-len(one)] == len(prompt)
        assert sum(len(piece["logprobs"]["tokens"]) for piece in own) == len(one) + (
            2 if index > 1 else 3
        )


def test_a_stop_token_that_is_shown_or_not_is_counted(client: TestClient, speak: Speak) -> None:
    for skips in (True, False):
        deltas = speak("好。")
        body = {"messages": "a", "logprobs": True, "skip_special_tokens": skips}
        content = client.post(CHAT, json=body).json()["choices"][0]["logprobs"]["content"]
        assert len(content) == len(deltas)
        assert (content[-1]["token"], content[-1]["bytes"]) == ("</s>", [])


def test_a_byte_level_tokenizer_spells_its_bytes() -> None:
    tokens = Tokenizer(
        BPE(
            vocab={name: at for at, name in enumerate(["<|end|>", "å¥", "½", "Ġa", "A"])}, merges=[]
        )
    )
    tokens.pre_tokenizer, tokens.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    encoder = TokenizerEncoder(
        PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<|end|>")
    )
    assert encoder.decode_each([1, 2, 3, 4]) == ["好".encode()[:2], "好".encode()[2:], b" a", b"A"]
    assert encoder.token_bytes(0) == b"<|end|>"
    assert encoder.token_bytes(99) == b""
