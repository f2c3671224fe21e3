"""Log-probabilities of the real engine: the model's own, streamed or not."""

import httpx
import pytest
import torch
from transformers import LlamaForCausalLM

from prompts.encoder import SentencePieceEncoder
from settings import DEMO_MODEL
from tests.support.questions import CAPITAL
from tests.support.replies import events

pytestmark = pytest.mark.engine


def test_log_probabilities_change_no_text_and_are_the_models(
    http: httpx.Client, demo_encoder: SentencePieceEncoder
) -> None:
    """The same text with and without; the values are transformers' on the same ids."""
    fields = {"prompt": CAPITAL, "temperature": 0, "repetition_penalty": 1.0}
    plain = http.post("/v1/completions", json=fields).json()["choices"][0]
    choice = http.post("/v1/completions", json={**fields, "logprobs": 3}).json()["choices"][0]
    assert choice["text"] == plain["text"]
    space, *answer = [*demo_encoder.encode([choice["text"]]), 2]
    prompt = [*http.post("/tokenize", json={"prompt": CAPITAL}).json()["tokens"], space]
    model = LlamaForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
    expected = torch.log_softmax(logits, -1)[range(len(answer)), answer].tolist()
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=0.1)
    assert all(len(top) == 3 for top in choice["logprobs"]["top_logprobs"])
    scored = {"prompt": prompt + answer, "echo": True, "max_tokens": 0, "logprobs": 1}
    log = http.post("/v1/completions", json=scored).json()["choices"][0]["logprobs"]
    assert log["token_logprobs"][0] is None
    assert log["token_logprobs"][len(prompt) :] == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("limit", range(1, 12))
def test_streamed_log_probabilities_are_those_of_the_plain_reply(
    http: httpx.Client, limit: int
) -> None:
    """Bytes of rare characters are made likely, so that tokens are parts of characters."""
    bias = {str(token_id): 12.0 for token_id in range(3, 259)}
    body = {"messages": "😀龘", "temperature": 1.2, "seed": limit, "max_tokens": limit, "logit_bias": bias,
            "logprobs": True, "top_logprobs": 2, "top_k": -1}  # fmt: skip
    plain = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    chunks = events(http.post("/v1/chat/completions", json={**body, "stream": True}).text)
    joined = [
        token
        for chunk in chunks
        for token in chunk["choices"][0].get("logprobs", {}).get("content", [])
    ]
    content = plain["logprobs"]["content"]
    assert [(token["token"], token["bytes"]) for token in joined] == [
        (token["token"], token["bytes"]) for token in content
    ]
    spelt = b"".join(bytes(token["bytes"]) for token in content)
    assert spelt.decode(errors="replace").startswith(plain["message"]["content"])
    assert len(content) == limit
