"""Merges an adapter (LoRA) into its base model, shard by shard: `python -m tools.merge BASE ADAPTER OUT`.

Chinese-LLaMA-2's and Chinese-Alpaca-2's LoRA releases extend the vocabulary, so their embedding and output layer are
trained whole; they replace those of the base model, whose other weights get the update of LoRA
(https://arxiv.org/abs/2106.09685): W + scaling · B A. The result is that of peft's `merge_and_unload`. One shard of the
base model is in memory at a time, and the weights that the adapter trained whole.
"""

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor
from tqdm import tqdm

from adapter_files import AdapterFiles, read_adapter
from model_files import read_json_object, weight_files
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

EMBEDDING, OUTPUT = "model.embed_tokens", "lm_head"
MOST_SPARE_ROWS = 512
"""Rows of an embedding that belong to no piece: it is filled up to a round number, and there may be added tokens."""


def merge(base: Path, adapter_folder: Path, out: Path) -> None:
    """Write the model `base` with an adapter merged into it to the folder `out`, which must not be there yet.

    The weights keep the base model's type. Raises StartError if the folders do not fit together; `out` is complete or
    is not there.
    """
    with writing(out) as folder:
        if not (base / "config.json").is_file():
            raise StartError(f"{base} is no model: it has no config.json.")
        base_config = read_json_object(base / "config.json")
        if base_config.get("quantization_config"):
            raise StartError(
                f"{base} is quantised: merge into the weights before, and quantise then."
            )
        adapter = read_adapter(adapter_folder)
        shards = weight_files(base)
        shapes = shapes_of(shards)
        config = _merged_config(base, base_config, adapter, shapes)
        tokenizer = adapter_folder if (adapter_folder / "tokenizer.model").is_file() else base
        _check_tokenizer(tokenizer, config["vocab_size"], is_grown=EMBEDDING in adapter.whole)
        write_weights(folder, _merged_shards(shards, adapter, shapes), len(shards))
        copy_files(base, folder, CONFIG_FILES)
        copy_files(tokenizer, folder, TOKENIZER_FILES)
        write_json(folder / "config.json", config)


def _merged_config(
    base: Path,
    base_config: Mapping[str, Any],
    adapter: AdapterFiles,
    shapes: Mapping[str, list[int]],
) -> dict[str, Any]:
    """Return the config.json of the merged model; raises StartError if the adapter is not one of this base model."""
    config = dict(base_config)
    is_transposed = bool(adapter.config.get("fan_in_fan_out"))
    for module in adapter.factors:
        update = [*adapter.update_shape(module)]
        expected = shapes.get(f"{module}.weight")
        _check_shape(module, update[::-1] if is_transposed else update, expected, adapter, base)
    rows = {}
    for module, name in adapter.whole.items():
        shape, expected = adapter.shapes[name], shapes.get(f"{module}.weight")
        if module in (EMBEDDING, OUTPUT):
            rows[module] = shape[0]
            tied = shapes.get(f"{EMBEDDING}.weight") if config.get("tie_word_embeddings") else None
            expected = [shape[0], *(expected or tied or [])[1:]]
        _check_shape(module, shape, expected, adapter, base)
    if rows:
        if len({rows.get(module, config["vocab_size"]) for module in _outer_modules(config)}) > 1:
            raise StartError(
                f"{adapter.folder} has embedding and output layer of unequal rows: {rows}, of {config['vocab_size']}."
            )
        config["vocab_size"] = max(rows.values())
        config["tie_word_embeddings"] = (
            bool(config.get("tie_word_embeddings")) and OUTPUT not in rows
        )
    return config


def _outer_modules(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the modules with a row for each token; with tied embeddings, that is one."""
    return (EMBEDDING,) if config.get("tie_word_embeddings") else (EMBEDDING, OUTPUT)


def _check_shape(
    module: str, shape: list[int], expected: list[int] | None, adapter: AdapterFiles, base: Path
) -> None:
    if shape != expected:
        found = f"shape {expected}" if expected else "no such weight"
        raise StartError(
            f"{adapter.folder} is of another base model: it is made for {module} of shape {shape}, "
            f"and {base} has {found}."
        )


def _check_tokenizer(folder: Path, rows: int, *, is_grown: bool) -> None:
    """Raise StartError if the tokenizer has more pieces than the merged embedding rows.

    And if the embedding `is_grown`, by many rows more than there are pieces: then the adapter's tokenizer is missing.
    """
    file = folder / "tokenizer.model"
    if not file.is_file():
        return
    pieces = SentencePieceProcessor(model_file=str(file)).vocab_size()
    if pieces > rows:
        raise StartError(
            f"The tokenizer of {folder} has {pieces:,} pieces, and the merged model {rows:,} rows."
        )
    if is_grown and rows - pieces > MOST_SPARE_ROWS:
        raise StartError(
            f"The tokenizer of {folder} has {pieces:,} pieces for {rows:,} rows: that of the adapter is missing."
        )


def _merged_shards(
    shards: list[Path], adapter: AdapterFiles, names: Collection[str]
) -> Iterator[Weights]:
    """Merge one file of weights after the other; `names`: those of all weights of the base model.

    A weight that the adapter has and the base model has not, as an output layer that was tied, goes to the first file.
    """
    added = [f"{module}.weight" for module in adapter.whole if f"{module}.weight" not in names]
    trained = load(adapter.weights)
    with tqdm(total=len(names) + len(added), unit="weight") as bar:
        for shard in shards:
            weights = load(shard)
            for name in [*weights, *added]:
                weights[name] = _merged(name, weights.get(name), adapter, trained)
                bar.update()
            added = []
            yield weights


def _merged(
    name: str, weight: torch.Tensor | None, adapter: AdapterFiles, trained: Weights
) -> torch.Tensor:
    """Return a weight of the merged model: the adapter's where that was trained whole, else with its update.

    The update is computed in float32, as peft does on a CPU, and rounded once to the weight's own type.
    """
    module = name.removesuffix(".weight")
    if module in adapter.whole:
        whole = trained[adapter.whole[module]]
        return (whole if weight is None else whole.to(weight.dtype)).contiguous()
    assert weight is not None
    if module not in adapter.factors:
        return weight.contiguous()
    first, second = (trained[adapter.factors[module][factor]].float() for factor in "AB")
    update = second @ first
    if adapter.config.get("fan_in_fan_out"):
        update = update.T
    return update.mul_(adapter.scaling(module)).add_(weight).to(weight.dtype).contiguous()


def main() -> int:
    """Run the command and return its exit status: 0, or 1 for a StartError."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.merge",
        description="Merge an adapter (LoRA) into its base model, shard by shard.",
    )
    parser.add_argument(
        "base", type=Path, help="folder of the base model, in Hugging Face's format"
    )
    parser.add_argument("adapter", type=Path, help="folder of the adapter")
    parser.add_argument("out", type=Path, help="folder to write, which is not there yet")
    arguments = parser.parse_args()
    return run(
        lambda: merge(arguments.base, arguments.adapter, arguments.out),
        failed=f"{arguments.adapter} cannot be merged",
        done=f"{arguments.out} is the merged model: serve it with --model {arguments.out}",
    )


if __name__ == "__main__":
    sys.exit(main())
