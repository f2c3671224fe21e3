"""Adapters of the demo model, and what peft makes of them."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from settings import DEMO_MODEL
from tests.support.bodies import COMPLETIONS

PROMPT = [1, *range(300, 340)]
"""Token ids, so that all models are asked the same whatever their templates."""


def write_adapter(folder: Path, seed: int, rank: int) -> Path:
    """Write an adapter of the demo model whose answers are others than the base model's."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    targets = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    adapted.save_pretrained(str(folder))
    return folder


def logprobs_of(http: httpx.Client, model: str, prompt: Sequence[int] = PROMPT) -> list[float]:
    """Of the prompt's tokens but the first."""
    body = {"prompt": prompt, "echo": True, "max_tokens": 0, "logprobs": 1, "model": model}
    choice = http.post(COMPLETIONS, json=body).json()["choices"][0]
    found: list[float] = choice["logprobs"]["token_logprobs"][1:]
    return found


def pefts_logprobs(folder: Path | None, prompt: Sequence[int] = PROMPT) -> list[float]:
    """Those of the prompt's tokens but the first, with an adapter or without, in float32."""
    reference = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    if folder is not None:
        reference = PeftModel.from_pretrained(reference, str(folder))
    with torch.no_grad():
        rows = torch.log_softmax(reference(input_ids=torch.tensor([prompt])).logits[0], -1)
    return [rows[at, token].item() for at, token in enumerate(prompt[1:])]
