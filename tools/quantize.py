"""Quantises a model's weights to 8 or 4 bits: `python -m tools.quantize --model DIR --scheme int8`.

The result is in the format of compressed-tensors (https://github.com/neuralmagic/compressed-tensors), which vLLM reads.
Each weight is rounded to the nearest step; no data is needed. Embedding and output layer stay as they are. One file of
weights is in memory at a time.

int8 (W8A8): weights of 8 bits with a scale for each row; activations are rounded to 8 bits as they come, with a scale
for each token. int4 (W4A16): weights of 4 bits with a scale for each 128 of a row, of which that with the smallest
squared error of some is taken; activations stay.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from tqdm import tqdm

from model_files import LINEAR_MODULES, read_json_object, weight_files
from settings import StartError
from tools.checkpoints import (
    CONFIG_FILES,
    TOKENIZER_FILES,
    Weights,
    copy_files,
    load,
    shapes_of,
    write_json,
    write_weights,
    writing,
)
from tools.command import run

GROUP = 128
"""Weights of a row that share a scale in W4A16."""
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Where the largest weight of a group may be cut in W4A16, as a part of it."""
INT8_WEIGHTS = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "channel",
    "dynamic": False,
}
INT8_ACTIVATIONS = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "token",
    "dynamic": True,
}
INT4_WEIGHTS = {
    "num_bits": 4,
    "type": "int",
    "symmetric": True,
    "strategy": "group",
    "group_size": GROUP,
    "dynamic": False,
}
SCHEMES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any] | None]] = {
    "int8": ("int-quantized", INT8_WEIGHTS, INT8_ACTIVATIONS),
    "int4": ("pack-quantized", INT4_WEIGHTS, None),
}
"""Of each scheme, its format, and how weights and activations are quantised, in compressed-tensors' words."""


def quantize(model: Path, out: Path, scheme: str) -> None:
    """Write a quantised model to the folder `out`, which must not be there yet; raises StartError."""
    with writing(out) as folder:
        config = read_json_object(model / "config.json")
        if "quantization_config" in config:
            raise StartError(f"{model} is quantised already.")
        shards = weight_files(model)
        shapes = shapes_of(shards)
        linear = {name for name in shapes if _module_of(name) in LINEAR_MODULES}
        if not linear:
            raise StartError(f"{model} is no LLaMA: it has none of {', '.join(LINEAR_MODULES)}.")
        if scheme == "int4" and (odd := [name for name in linear if shapes[name][1] % GROUP]):
            raise StartError(
                f"{odd[0]} has rows of {shapes[odd[0]][1]}, which {GROUP} does not divide."
            )
        write_weights(folder, _quantized_shards(shards, linear, scheme, len(shapes)), len(shards))
        copy_files(model, folder, (*CONFIG_FILES, *TOKENIZER_FILES))
        write_json(folder / "config.json", {**config, "quantization_config": to_config(scheme)})


def to_config(scheme: str) -> dict[str, Any]:
    """Return the `quantization_config` of a config.json."""
    written, weights, activations = SCHEMES[scheme]
    group = {
        "targets": ["Linear"],
        "weights": dict(weights),
        "input_activations": activations and dict(activations),
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": written,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


def _module_of(name: str) -> str:
    """Return the last part of the name of the module that a weight belongs to; empty if it is no weight."""
    module, _, kind = name.rpartition(".")
    return module.rpartition(".")[2] if kind == "weight" else ""


def _quantized_shards(
    shards: list[Path], linear: set[str], scheme: str, count: int
) -> Iterator[Weights]:
    with tqdm(total=count, unit="weight") as bar:
        for shard in shards:
            weights: Weights = {}
            for name, weight in load(shard).items():
                if name not in linear:
                    weights[name] = weight.contiguous()
                elif scheme == "int8":
                    weights |= _to_int8(name, weight)
                else:
                    weights |= _to_int4(name, weight)
                bar.update()
            yield weights


def _to_int8(name: str, weight: torch.Tensor) -> Weights:
    """Round a weight of shape (rows, columns) with a scale for each row."""
    values = weight.float()
    scales = values.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
    rounded = (values / scales).round().clamp(-128, 127).to(torch.int8)
    return {name: rounded, f"{name}_scale": scales.to(weight.dtype)}


def _to_int4(name: str, weight: torch.Tensor) -> Weights:
    """Round a weight of shape (rows, columns) with a scale for each `GROUP` of a row, and pack eight to an int32."""
    rows, columns = weight.shape
    groups = weight.float().reshape(rows, columns // GROUP, GROUP)
    largest = groups.abs().amax(dim=2, keepdim=True).clamp(min=1e-8)
    best = torch.full_like(largest, torch.inf)
    scales = largest / 7
    for clip in CLIPS:
        tried = largest * clip / 7
        error = (_rounded(groups, tried) * tried - groups).square().sum(dim=2, keepdim=True)
        scales = torch.where(error < best, tried, scales)
        best = torch.minimum(error, best)
    scales = scales.to(weight.dtype)
    rounded = _rounded(groups, scales.float()).to(torch.int8).reshape(rows, columns)
    return {
        f"{name}_packed": pack_to_int32(rounded, 4),
        f"{name}_scale": scales.squeeze(2),
        f"{name}_shape": torch.tensor([rows, columns]),
    }


def _rounded(groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return (groups / scales).round().clamp(-8, 7)


def main() -> int:
    """Run the command and return its exit status: 0, or 1 for a StartError."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.quantize", description="Quantise a model's weights to 8 or 4 bits."
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="folder, in Hugging Face's format"
    )
    parser.add_argument("--out", type=Path, help="folder to write (the model's, with the scheme)")
    parser.add_argument("--scheme", choices=SCHEMES, default="int8", help="(int8)")
    arguments = parser.parse_args()
    model: Path = arguments.model.resolve()
    out = arguments.out or model.with_name(f"{model.name}-{arguments.scheme}")
    return run(
        lambda: quantize(model, out, arguments.scheme),
        failed=f"{model} cannot be quantised",
        done=f"{out} is the quantised model: serve it with --model {out}",
    )


if __name__ == "__main__":
    sys.exit(main())
