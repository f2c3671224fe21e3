"""The long contexts of the Alpaca-2 project, 16K and 64K: announced as trained, and read as transformers reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from settings import DEMO_MODEL
from tests.support.bodies import COMPLETIONS
from tests.support.model_directory import change, copy_of_demo_model
from tests.support.server_process import Server

pytestmark = pytest.mark.engine

CONFIGS: dict[int, dict[str, Any]] = {
    16384: {"type": "linear", "factor": 4.0},
    65536: {
        "type": "yarn",
        "factor": 16.0,
        "original_max_position_embeddings": 4096,
        "finetuned": True,
    },
}
"""`max_position_embeddings` and `rope_scaling` in the config.json of Chinese-Alpaca-2-7B-16K and -64K."""
LONG_PROMPT = [1, *(300 + at * at % 4000 for at in range(5999))]
"""More than the 4,096 tokens of the base model."""


@pytest.fixture(scope="module", params=CONFIGS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A model with one of these configs and the demo model's weights: its context, its folder and its server."""
    length = request.param
    folder = copy_of_demo_model(tmp_path_factory.mktemp("long") / "model")
    change(
        folder / "config.json",
        max_position_embeddings=length,
        rope_scaling=CONFIGS[length],
        rope_parameters=...,
        rope_theta=10000.0,
    )
    server = Server(
        "--port", "0", "--model", str(folder), "--prompt-template", "alpaca-2", "--enforce-eager"
    )
    server.wait_for_banner()
    yield length, folder, server
    assert server.stop() == 0


def test_the_context_announced_is_the_trained_one(served: Any) -> None:
    length, _, server = served
    [model] = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert model["max_model_len"] == length
    assert f"context {length} tokens" in "".join(server.shown)


def test_text_beyond_the_base_length_is_read_as_transformers_reads_it(served: Any) -> None:
    _, folder, server = served
    body = {"prompt": LONG_PROMPT, "echo": True, "max_tokens": 0, "logprobs": 0}
    reply = httpx.post(f"{server.url}{COMPLETIONS}", json=body, timeout=300).json()
    found = torch.tensor(reply["choices"][0]["logprobs"]["token_logprobs"][1:])
    scaled = logprobs(folder)
    assert (found - scaled).abs().mean() < 0.1
    unscaled = logprobs(DEMO_MODEL)
    assert (found - unscaled)[4096:].abs().mean() > 0.5


def logprobs(folder: Path) -> torch.Tensor:
    """Those of the long prompt's tokens but the first, by transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([LONG_PROMPT])
    with torch.no_grad():
        rows = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)
    return rows.gather(1, ids[0, 1:, None])[:, 0]
