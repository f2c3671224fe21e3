"""`python -m tools.quantize`: what it writes, how far off the weights are, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from settings import DEMO_MODEL, StartError
from tests.support.model_directory import change, copy_of_demo_model
from tests.support.paths import ALPACA_2_TOKENIZER, ROOT
from tools.quantize import CLIPS, GROUP, SCHEMES, quantize

LINEAR = 7 * 4
"""Of the demo model's four layers."""


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: weight
        for file in folder.glob("*.safetensors")
        for name, weight in load_file(file).items()
    }


def unpacked(packed: torch.Tensor, columns: int) -> torch.Tensor:
    """The signed four bits of each eighth of an int32, the lowest first."""
    shifts = torch.arange(0, 32, 4)
    nibbles = (packed.unsqueeze(2) >> shifts) & 0xF
    return nibbles.reshape(packed.shape[0], -1)[:, :columns] - 8


def restored(found: dict[str, torch.Tensor], name: str, scheme: str) -> torch.Tensor:
    """A weight as it is computed with."""
    scale = found[f"{name}_scale"].float()
    if scheme == "int8":
        return found[name].float() * scale
    rows, columns = found[f"{name}_shape"].tolist()
    steps = unpacked(found[f"{name}_packed"], columns).float().reshape(rows, -1, GROUP)
    return (steps * scale.unsqueeze(2)).reshape(rows, columns)


@pytest.fixture(scope="module", params=SCHEMES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A scheme, and the demo model in it."""
    out = tmp_path_factory.mktemp(request.param) / "model"
    quantize(DEMO_MODEL, out, request.param)
    return request.param, out


def test_weights_are_close_and_the_rest_is_as_it_was(made: tuple[str, Path]) -> None:
    scheme, out = made
    found, before = weights_of(out), weights_of(DEMO_MODEL)
    linear = [name.removesuffix("_scale") for name in found if name.endswith("_scale")]
    assert len(linear) == LINEAR
    for name, weight in before.items():
        if name not in linear:
            assert torch.equal(found[name], weight), name
            continue
        values = weight.float()
        error = (restored(found, name, scheme) - values).abs()
        largest = values.abs().amax()
        assert error.max() <= largest * (1 / 127 if scheme == "int8" else 1.1 - min(CLIPS)), name
        assert error.square().mean().sqrt() < values.square().mean().sqrt() * (
            0.02 if scheme == "int8" else 0.15
        )


def test_the_config_says_how(made: tuple[str, Path]) -> None:
    scheme, out = made
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    before = json.loads((DEMO_MODEL / "config.json").read_text(encoding="utf-8"))
    told = config.pop("quantization_config")
    assert config == before
    assert told["quant_method"] == "compressed-tensors"
    assert told["ignore"] == ["lm_head"]
    weights = told["config_groups"]["group_0"]["weights"]
    assert weights["num_bits"] == (8 if scheme == "int8" else 4)
    assert (out / "tokenizer.model").read_bytes() == (DEMO_MODEL / "tokenizer.model").read_bytes()


def test_the_files_are_smaller(made: tuple[str, Path]) -> None:
    scheme, out = made
    size = {
        folder: sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for folder in (DEMO_MODEL, out)
    }
    assert size[out] < size[DEMO_MODEL] * (0.75 if scheme == "int8" else 0.65)


@pytest.mark.skipif(
    not ALPACA_2_TOKENIZER.is_file(), reason="the real model's tokenizer is not there"
)
def test_a_model_with_the_vocabulary_of_alpaca_2(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=55_296,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = LlamaForCausalLM(config).to(torch.float16)
    model.save_pretrained(tmp_path / "model", max_shard_size="10MB")
    (tmp_path / "model" / "tokenizer.model").write_bytes(ALPACA_2_TOKENIZER.read_bytes())
    command = [sys.executable, "-m", "tools.quantize", "--model", str(tmp_path / "model")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    out = tmp_path / "model-int8"
    assert str(out) in done.stderr
    assert "weight/s" in done.stderr
    found = weights_of(out)
    assert found["model.embed_tokens.weight"].shape == (55_296, 128)
    for name, weight in model.state_dict().items():
        if name.endswith("proj.weight"):
            assert (restored(found, name, "int8") - weight.float()).abs().max() < 0.001
    assert (out / "tokenizer.model").is_file()


def test_what_cannot_be_quantised_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    twice = copy_of_demo_model(tmp_path / "twice")
    change(twice / "config.json", quantization_config={"quant_method": "awq"})
    with pytest.raises(StartError, match="quantised already"):
        quantize(twice, tmp_path / "out", "int8")
    with pytest.raises(StartError, match="is there already"):
        quantize(DEMO_MODEL, twice, "int8")
    part = tmp_path / "mine.part"  # may be a user's own
    part.mkdir()
    with pytest.raises(StartError, match=r"mine\.part is there already"):
        quantize(DEMO_MODEL, tmp_path / "mine", "int8")
    part.rmdir()
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=96,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    ).save_pretrained(tmp_path / "odd")
    with pytest.raises(StartError, match="which 128 does not divide"):
        quantize(tmp_path / "odd", tmp_path / "out", "int4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd", "twice"]


def test_no_weight_is_lost(made: tuple[str, Path]) -> None:
    _, out = made
    index = json.loads((out / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert set(index["weight_map"]) == set(weights_of(out))
    bare = {
        name.removesuffix("_packed").removesuffix("_scale").removesuffix("_shape")
        for name in weights_of(out)
    }
    assert bare == set(weights_of(DEMO_MODEL))
