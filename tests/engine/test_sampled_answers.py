"""How tokens are chosen: seeds, several choices, the best of some, biases, penalties."""

from typing import Any

import httpx
import pytest
import torch
from transformers import LlamaForCausalLM

from prompts.encoder import SentencePieceEncoder
from settings import DEMO_MODEL
from tests.support.questions import CAPITAL, complete
from tests.support.replies import events
from tests.support.server_process import ROOM
from tests.support.strings import varied_strings

pytestmark = pytest.mark.engine


def test_the_same_seed_gives_the_same_text(http: httpx.Client) -> None:
    fields: dict[str, Any] = {
        "raw": True,
        "temperature": 2.0,
        "top_p": 1.0,
        "top_k": -1,
        "max_tokens": 12,
    }
    texts = [complete(http, "从前", **fields, seed=seed)[0] for seed in (7, 7, 7, 8, 9, 10)]
    assert len(set(texts[:3])) == 1
    assert len(set(texts[2:])) > 1


def test_many_seeded_prompts_at_once_are_answered(http: httpx.Client) -> None:
    """More tokens than one step of the engine reads: a prompt of which it read a part once ended a CPU engine."""
    prompts = [f"{number}：{'杭州西湖的故事' * 30}" for number in range(ROOM)]
    ask = {"prompt": prompts, "raw": True, "seed": 5, "max_tokens": 2, "temperature": 1}
    choices = http.post("/v1/completions", json=ask).json()["choices"]
    assert len(choices) == ROOM
    assert http.get("/health").status_code == 200


def test_n_choices_differ_when_sampled_and_agree_when_greedy(http: httpx.Client) -> None:
    sampled = complete(
        http, "从前", raw=True, n=4, temperature=2.0, top_p=1.0, top_k=-1, max_tokens=12
    )
    assert len(set(sampled)) > 1
    greedy = complete(http, n=4, temperature=0)
    assert greedy == complete(http, temperature=0) * 4
    assert complete(http, n=2, do_sample=False) == greedy[:2]


def log_probability(model: LlamaForCausalLM, prompt: list[int], answer: list[int]) -> float:
    """Sum over the answer's tokens, by transformers."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
    return float(logits.log_softmax(-1)[range(len(answer)), answer].sum())


def test_best_of_returns_the_likeliest(
    http: httpx.Client, demo_encoder: SentencePieceEncoder
) -> None:
    """The choices of one seed are scored by transformers: those that `best_of` picks lead."""
    model = LlamaForCausalLM.from_pretrained(DEMO_MODEL)
    prompt = http.post("/tokenize", json={"prompt": "从前", "raw": True}).json()["tokens"]
    fields: dict[str, Any] = {"prompt": prompt, "temperature": 1.5, "top_p": 1.0, "top_k": 20, "max_tokens": 8,
                              "seed": 3, "repetition_penalty": 1.0}  # fmt: skip
    reply = http.post("/v1/completions", json={**fields, "n": 8}).json()
    scores = {}
    assert demo_encoder.eos_id is not None
    for choice in reply["choices"]:
        # The dummy prefix that encoding adds to a text is no token of this one.
        ids = [*demo_encoder.encode([f"从前{choice['text']}"])[len(prompt) - 1 :]]
        ids += [demo_encoder.eos_id] if choice["finish_reason"] == "stop" else []
        scores[choice["text"]] = log_probability(model, prompt, ids)
    assert len(scores) > 3
    best = http.post("/v1/completions", json={**fields, "n": 2, "best_of": 8}).json()
    top = [choice["text"] for choice in best["choices"]]
    assert set(top) <= set(scores)
    # The texts are encoded again here, and vLLM computes in bfloat16: a near tie may fall the other way.
    assert scores[top[0]] >= max(scores.values()) - 0.5
    assert scores[top[0]] >= scores[top[1]] - 0.5
    assert best["usage"]["completion_tokens"] <= 16
    stream = http.post("/v1/completions", json={**fields, "n": 2, "best_of": 8, "stream": True})
    joined = ["", ""]
    for chunk in events(stream.text):
        joined[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert joined == top


def test_logit_bias_moves_tokens(http: httpx.Client) -> None:
    token = http.post("/tokenize", json={"prompt": "西", "raw": True}).json()["tokens"][-1]
    (text,) = complete(
        http, logit_bias={str(token): 100}, max_tokens=4, repetition_penalty=1.0, temperature=0
    )
    assert text.strip() == "西" * 4
    reply = http.post("/v1/completions", json={"prompt": "a", "logit_bias": {"9999999": 1}})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "logit_bias")


@pytest.mark.parametrize("penalty", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_penalties_make_repetition_rarer(http: httpx.Client, penalty: str) -> None:
    """Of two hundred tokens, all unlikely after the prompt, one wins again and again; not under a penalty."""
    prompts = [f"从前{text}" for text in varied_strings(1500)[100:1500:70]]
    fields: dict[str, Any] = {"temperature": 0, "raw": True, "max_tokens": 32, "repetition_penalty": 1.0,
                              "logit_bias": {str(token_id): 100 for token_id in range(600, 800)}}  # fmt: skip
    without, with_it = (
        complete(http, prompts, **fields),
        complete(http, prompts, **{**fields, penalty: 2.0}),
    )
    assert sum(len(set(text)) for text in with_it) > 1.1 * sum(len(set(text)) for text in without)


def test_top_p_0_is_greedy(http: httpx.Client) -> None:
    likeliest = complete(http, CAPITAL, temperature=0)
    for seed in range(3):
        assert complete(http, CAPITAL, top_p=0, temperature=2.0, top_k=0, seed=seed) == likeliest
