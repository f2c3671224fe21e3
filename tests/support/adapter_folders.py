"""Folders of adapters, whose files are read without vLLM."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from settings import DEMO_MODEL

HIDDEN = json.loads((DEMO_MODEL / "config.json").read_text())["hidden_size"]


def write_adapter(folder: Path, columns: int = HIDDEN, **config: object) -> Path:
    """Write an adapter of one module of the demo model."""
    folder.mkdir()
    described = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {
        f"{module}.lora_A.weight": torch.ones(4, columns),
        f"{module}.lora_B.weight": torch.ones(HIDDEN, 4),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    return folder
