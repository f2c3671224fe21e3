"""What a model's files say, and starts that end because of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from model_files import trained_length
from settings import DEMO_MODEL, Settings

LINEAR = {"type": "linear", "factor": 4.0}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model, weights and all."""
    copy = tmp_path / "chinese-alpaca-2"
    copy.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.model",
                 "tokenizer_config.json", "special_tokens_map.json"):  # fmt: skip
        shutil.copy(DEMO_MODEL / name, copy)
    return copy


def change(file: Path, **changes: Any) -> None:
    """Other values in a JSON file, `...` for none."""
    found = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps({key: value for key, value in found.items() if value is not ...}), encoding="utf-8")


@pytest.mark.parametrize(
    ("length", "scaling", "trained"),
    [
        (16384, LINEAR, 16384),  # Chinese-LLaMA-2-16K, Chinese-Alpaca-2-16K
        (16384, {"rope_type": "linear", "factor": 4}, 16384),
        (8192, {"type": "linear", "factor": 4.0}, 8192),  # of LLaMA
        (32768, {"type": "linear", "factor": 8.0}, 32768),  # LLaMA-2-7B-32K
        (65536, {"type": "linear", "factor": 8.0}, 65536),  # of LLaMA-3
        (16384, {**LINEAR, "original_max_position_embeddings": 4096}, 16384),
        (12288, {"type": "linear", "factor": 2.0, "original_max_position_embeddings": 6144}, 12288),
        (4096, LINEAR, None),  # vicuna-7b-v1.5-16k: vLLM counts 16384
        (2048, LINEAR, None),  # superhot-8k: vLLM counts 8192
        (4096, {**LINEAR, "original_max_position_embeddings": 4096}, None),
        (12288, {"type": "linear", "factor": 2.0}, None),
        (16384, {"type": "linear", "factor": 1.0}, None),
        (16384, {"type": "linear", "factor": None}, None),
        (16384, {"type": "linear"}, None),
        (16384, {"type": "dynamic", "factor": 4.0}, None),
        (131072, {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, None),
        (65536, {"factor": 16.0, "finetuned": True, "original_max_position_embeddings": 4096, "type": "yarn"}, None),
        (2048, {"rope_theta": 10000.0, "rope_type": "default"}, None),
        (4096, None, None),
        (None, LINEAR, None),
    ],
)
def test_a_linear_scaling_is_counted_once(length, scaling, trained):
    for key in ("rope_scaling", "rope_parameters"):
        assert trained_length({"max_position_embeddings": length, key: scaling}) == trained
    assert (
        trained_length({"max_position_embeddings": length, "rope_scaling": None, "rope_parameters": scaling}) == trained
    )


@pytest.mark.engine
@pytest.mark.parametrize(
    ("others", "length"),
    [
        ([], 16384),
        (["--max-model-len", "65536"], 65536),
        (["--max-model-len=512"], 512),
        (["--hf-overrides", '{"rope_scaling": null, "rope_parameters": null}'], None),
        (["--hf-overrides", '{"max_position_embeddings": 4096}'], None),
    ],
)
def test_vllm_is_told_the_trained_length_unless_the_user_says_more(model, capsys, others, length):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from engine import to_engine_args

    change(model / "config.json", max_position_embeddings=16384, rope_scaling=LINEAR, rope_parameters=...)
    assert to_engine_args(Settings(model=str(model)), others).max_model_len == length
    shown = capsys.readouterr().err
    assert shown.count("Context of 16384 tokens") == (not others)
    assert not others or shown == ""
