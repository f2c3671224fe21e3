"""Model folders in Hugging Face's format, read and written one file of weights at a time."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from model_files import read_shapes
from settings import StartError

CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)

Weights = dict[str, torch.Tensor]


def shapes_of(files: Sequence[Path]) -> dict[str, list[int]]:
    """Read the names and shapes of all weights of a model; raises StartError for an incomplete file."""
    return {name: shape for file in files for name, shape in read_shapes(file).items()}


def load(file: Path) -> Weights:
    """Map a file of weights into memory; of PyTorch's own format nothing but weights is read."""
    if file.suffix == ".safetensors":
        return load_file(file)
    weights: Weights = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    return weights


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes `out` when all is written; raises StartError if there is one already."""
    part = out.with_name(f"{out.name}.part")
    for folder in (out, part):  # the latter is left where an earlier run was killed
        if folder.exists():
            raise StartError(f"{folder} is there already: remove it, or name a new folder.")
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part)
        raise
    part.rename(out)


def write_weights(folder: Path, shards: Iterable[Weights], count: int) -> None:
    """Write weights to `count` safetensors files, each before the next is asked for, and their index; empties each."""
    weight_map: dict[str, str] = {}
    total = 0
    for number, weights in enumerate(shards, 1):
        file = f"model-{number:05}-of-{count:05}.safetensors"
        save_file(weights, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(weights, file)
        total += sum(weight.nbytes for weight in weights.values())
        weights.clear()  # else they stay in memory while the next ones are made
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write an object as a JSON file, as Hugging Face's libraries do."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    file.write_text(f"{text}\n", encoding="utf-8")


def copy_files(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy those files that are there."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
