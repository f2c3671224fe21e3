"""Adapters that cannot be served end the start in a sentence, before vLLM is imported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adapter_files import MERGE_HINT, check_servable, read_adapter
from model_files import read_config
from settings import AdapterModule, Settings, StartError, check_settings
from tests.support.adapter_folders import HIDDEN, write_adapter
from tests.support.server_process import run_command


def test_the_command_ends_with_a_sentence(tmp_path: Path) -> None:
    other = write_adapter(tmp_path / "other", columns=8)
    for path, told in (
        (tmp_path / "nothing", "error: There is no directory"),
        (tmp_path, f"error: {tmp_path} is no adapter: it has no adapter_config.json."),
        (other, f"error: {other} is of another base model: it updates"),
    ):
        ended = run_command("--lora-modules", f"poet={path}")
        assert ended.returncode == 1
        assert ended.stderr.startswith(told), ended.stderr
        assert "Importing vLLM" not in ended.stderr


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lora_modules": [AdapterModule("a", "/1"), AdapterModule("a", "/2")]}, "both be named a"),
        ({"lora_modules": [AdapterModule("b", "/1")], "served_model_name": ["b"]}, "be named b"),
        ({"allow_lora_updates": True}, "--allow-lora-updates needs --api-key"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(StartError, match=told):
        check_settings(Settings(**settings))


@pytest.mark.parametrize(
    ("module", "shape", "told"),
    [
        ("lm_head", (4600, HIDDEN), MERGE_HINT),
        ("model.layers.4.self_attn.q_proj", (HIDDEN, HIDDEN), "which the model does not have"),
        ("model.layers.0.self_attn.x_proj", (HIDDEN, HIDDEN), "which the model does not have"),
        ("model.layers.0.mlp.up_proj", (8, HIDDEN), "where the model has 768 × 256"),
    ],
)
def test_updates_of_what_the_model_has_not_are_refused(
    tmp_path: Path, module: str, shape: tuple[int, int], told: str
) -> None:
    folder, name = write_adapter(tmp_path / "a"), f"base_model.model.{module}"
    weights = {
        f"{name}.lora_A.weight": torch.ones(4, shape[1]),
        f"{name}.lora_B.weight": torch.ones(shape[0], 4),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(StartError, match=told):
        check_servable(read_adapter(folder), read_config(Settings()))


def test_a_config_that_names_whole_modules_is_enough(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", modules_to_save=["embed_tokens"])
    with pytest.raises(StartError, match="embed_tokens trained whole, which no adapter can bring"):
        check_servable(read_adapter(folder), read_config(Settings()))
