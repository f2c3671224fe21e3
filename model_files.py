"""Reads a model's config and checks that its files are complete, before vLLM is imported.

Weight files are checked by their size and their header, without reading the weights.
"""

import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from settings import Settings, StartError, raising_start_error

MODEL_FILES = ("config.json", "params.json")
"""A directory with one of these is a model: Hugging Face's format, or Mistral's."""
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "tekken.json",
)
"""A directory with one of these has a tokenizer."""
JSON_FILES = ("config.json", "generation_config.json", "params.json", "tokenizer_config.json", "tokenizer.json",
              "special_tokens_map.json", "added_tokens.json")  # fmt: skip
INDEX_PATTERN = "*.index.json"
WEIGHT_PATTERNS = (
    ("consolidated*.safetensors", "consolidated.safetensors.index.json"),
    ("*.safetensors", "model.safetensors.index.json"),
    ("*.bin", "pytorch_model.bin.index.json"),
    ("*.pt", "pytorch_model.pt.index.json"),
    ("*.gguf", "model.gguf.index.json"),
)
"""The weight files that vLLM looks for, in its order, each with the index file that lists their shards."""
IGNORED_FILES = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt",
              "adapter_model.safetensors", "adapter_model.bin")  # fmt: skip
"""Files that the patterns match too, but that are no weights of the model: a trainer's state, an adapter."""
SHARD_NAME = re.compile(r"(.*-)\d{5}-of-(\d{5})(\..*)")
GIT_LFS_POINTER = b"version https://git-lfs"
ZIP_MAGIC = b"PK"
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""
LINEAR_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The last parts of the names of LLaMA's modules inside its layers that multiply by a matrix."""
LLAMA_TYPES = ("llama", "mistral", "mixtral")
"""The `model_type`s whose embedding is named `model.embed_tokens` and has to have `vocab_size` rows."""
UNSCALED_LENGTHS = (2048, 4096, 8192)
"""The `max_position_embeddings` of LLaMA, LLaMA-2 and LLaMA-3, without RoPE scaling."""


def check_model_files(settings: Settings, *, has_weights: bool = True) -> None:
    """Raise StartError for a model or tokenizer whose files are missing, incomplete or do not fit together.

    Looks at local directories; a model on Hugging Face is left to vLLM. `has_weights=False` skips the weights, for a
    load format that has them elsewhere or in other files.
    """
    model, tokenizer = Path(settings.model), Path(settings.tokenizer_path)
    _check_directory(settings.model, MODEL_FILES)
    if model.is_dir():
        _check_json_files(model)
        if has_weights:
            _check_weights(model, read_config(settings))
    _check_directory(settings.tokenizer_path, TOKENIZER_FILES)
    if tokenizer.is_dir():
        _check_json_files(tokenizer)
        if (tokenizer / "tokenizer.model").is_file():
            check_start(tokenizer / "tokenizer.model")


def find_file(name: str, file: str, revision: str | None) -> Path | None:
    """Return the path of a file of the model `name`, a directory or one on Hugging Face; None if it has no such file.

    A file on Hugging Face is downloaded unless it is in the cache; raises StartError if there is no such model.
    """
    if Path(name).is_dir():
        path = Path(name, file)
        return path if path.is_file() else None
    from transformers.utils import cached_file  # noqa: PLC0415 - slow to import

    try:
        found = cached_file(
            name, file, revision=revision, _raise_exceptions_for_missing_entries=False
        )
    except OSError as failure:
        raise StartError(
            f"{name} is neither a directory nor a model that the hub can be asked for."
        ) from failure
    return Path(found) if found else None


def read_json_object(file: Path | None) -> dict[str, Any]:
    """Read a file that is one JSON object, an empty one for None; raises StartError for anything else."""
    if file is None:
        return {}
    check_start(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        mark = "a byte order mark before its" if "BOM" in str(failure) else "no valid"
        raise StartError(f"{file} has {mark} JSON.") from failure
    if not isinstance(found, dict):
        raise StartError(f"{file} is not a JSON object.")
    return found


def read_config(settings: Settings) -> dict[str, Any]:
    """Read the model's config.json; an empty object for a model that has none, such as a single .gguf file."""
    if Path(settings.model).is_file():
        return {}
    return read_json_object(find_file(settings.model, "config.json", settings.revision))


def vocabulary_rows(config: Mapping[str, Any]) -> int | None:
    """Return the rows of the model's embedding (`vocab_size`); None if its config does not say."""
    text_config = config.get("text_config")
    merged = {**config, **text_config} if isinstance(text_config, dict) else config
    rows = merged.get("vocab_size")
    return rows if isinstance(rows, int) else None


def trained_length(config: Mapping[str, Any]) -> int | None:
    """Return the context length in tokens where vLLM would apply a linear RoPE scaling twice; None elsewhere.

    vLLM multiplies `max_position_embeddings` by the factor. That is right where the config has the length before
    scaling (vicuna-16k: 4096, factor 4), and wrong where it has the scaled length (Chinese-Alpaca-2-16K: 16384, factor
    4). It is taken as scaled if `original_max_position_embeddings` says so, or if dividing it by the factor gives the
    length of an unscaled model.
    """
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    length, factor = config.get("max_position_embeddings"), scaling.get("factor")
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind != "linear" or not length or not factor or factor <= 1:
        return None
    original = scaling.get("original_max_position_embeddings")
    if original is None and length / factor in UNSCALED_LENGTHS:
        original = length / factor
    return int(original * factor) if original and original < length else None


def _check_directory(name: str, needed: Sequence[str]) -> None:
    """Raise StartError for a directory without any of the files needed, and for a path to nothing."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / file).is_file() for file in needed):
            _check_format(path)
            raise StartError(f"{name} has none of {', '.join(needed)}.")
    elif not path.is_file() and (name.startswith(("/", ".", "~")) or name.count("/") > 1):
        raise StartError(f"There is no directory {name}.")


def _check_format(directory: Path) -> None:
    """Raise StartError for an adapter, and for weights in LLaMA's own format: they have to be merged or converted."""
    if (directory / "adapter_config.json").is_file():
        raise StartError(
            f"{directory} is an adapter (LoRA), not a model: serve it beside its base model (--lora-modules), or merge "
            "it into that (python -m tools.merge)."
        )
    if any(directory.glob("*.pth")):
        script = "transformers' convert_llama_weights_to_hf.py"
        raise StartError(
            f"{directory} has its weights as .pth, LLaMA's own format: convert them with {script}."
        )


def _check_json_files(directory: Path) -> None:
    """Raise StartError for a JSON file of a model or tokenizer that is not one object."""
    for file in (*map(directory.joinpath, JSON_FILES), *directory.glob(INDEX_PATTERN)):
        if file.is_file():
            read_json_object(file)


def check_start(file: Path) -> bytes:
    """Read the first bytes of a file; raises StartError if it is empty or a git-lfs pointer."""
    try:
        with file.open("rb") as opened:
            start = opened.read(len(GIT_LFS_POINTER))
    except OSError as failure:
        raise StartError(f"{file} cannot be read.") from failure
    if not start:
        raise StartError(f"{file} is empty.")
    if start == GIT_LFS_POINTER:
        raise StartError(
            f"{file} is a git-lfs pointer in place of the file: fetch it with git lfs pull."
        )
    return start


def _check_weights(directory: Path, config: Mapping[str, Any]) -> None:
    """Raise StartError for weight files that are missing or cut off, or whose embedding does not fit the config."""
    shapes: dict[str, Any] = {}
    for file in weight_files(directory):
        start = check_start(file)
        if file.suffix == ".safetensors":
            shapes |= _read_header(file)
        # A file of PyTorch is a zip archive, whose directory is at its end.
        elif start.startswith(ZIP_MAGIC) and not zipfile.is_zipfile(file):
            raise StartError(f"{file} is cut off.")
    rows = vocabulary_rows(config)
    if rows is not None and config.get("model_type") in LLAMA_TYPES:
        _check_rows(shapes, rows, is_tied=bool(config.get("tie_word_embeddings")))


def _check_rows(shapes: Mapping[str, Any], rows: int, *, is_tied: bool) -> None:
    """Raise StartError for an embedding or output layer that has not `rows` rows; tied, they are one matrix."""
    names = ["model.embed_tokens.weight"]
    if not is_tied:
        names.append("lm_head.weight")
    for name in names:
        if name in shapes and shapes[name][:1] != [rows]:
            counts = f"{shapes[name][0]:,} rows, and config.json says {rows:,} (vocab_size)"
            raise StartError(f"{name} of the weights has {counts}: they are not of one model.")


def weight_files(directory: Path) -> list[Path]:
    """Find the weight files that vLLM would load; raises StartError if there are none, or if shards are missing."""
    for pattern, index in WEIGHT_PATTERNS:
        found = [file for file in sorted(directory.glob(pattern)) if file.name not in IGNORED_FILES]
        if found:
            return _check_shards(found, directory / index)
    for index_file in directory.glob(INDEX_PATTERN):
        _check_shards([], index_file)
    _check_format(directory)
    raise StartError(f"{directory} has no weights (*.safetensors or *.bin).")


def _check_shards(found: list[Path], index: Path) -> list[Path]:
    """Return the weight files: those that the index lists if there is one, else those found.

    Raises StartError for a shard that is missing, by the index, or by the numbers in the names of the others.
    """
    if not index.is_file():
        needed, named_by = _all_shards(file.name for file in found), "of that number"
    else:
        names = read_json_object(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise StartError(f"{index} has no weight_map of weights and their files.")
        needed, named_by = {*names.values()}, f"that {index.name} names"
        found = [index.parent / name for name in sorted(needed)]
    if missing := sorted(name for name in needed if not (index.parent / name).is_file()):
        raise StartError(
            f"{index.parent} lacks {missing[0]}, one of {len(needed)} files {named_by}: fetch it."
        )
    return found


def _all_shards(names: Iterable[str]) -> set[str]:
    """Return the names of all shards of which one is given: `x-00002-of-00002.bin` stands for two."""
    needed = set()
    for match in filter(None, map(SHARD_NAME.fullmatch, names)):
        prefix, count, suffix = match.groups()
        needed |= {f"{prefix}{number:05}-of-{count}{suffix}" for number in range(1, int(count) + 1)}
    return needed


def read_shapes(file: Path) -> dict[str, list[int]]:
    """Read the names and shapes of a file's weights, and no weight; raises StartError for an incomplete file.

    Of a safetensors file that is its header. PyTorch's own format is read by PyTorch, which is imported for that.
    """
    if file.suffix == ".safetensors":
        return _read_header(file)
    import torch  # noqa: PLC0415 - slow to import

    with raising_start_error(f"{file} cannot be read"):
        weights = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        return {name: list(weight.shape) for name, weight in weights.items()}


def _read_header(file: Path) -> dict[str, list[int]]:
    """Read the shapes of a safetensors file's weights; raises StartError for an incomplete file."""
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(size, MAX_HEADER_BYTES):
                raise ValueError
            weights = json.loads(opened.read(length))
        weights.pop("__metadata__", None)
        data_bytes = max((weight["data_offsets"][1] for weight in weights.values()), default=0)
        end = 8 + length + data_bytes
        shapes = {name: weight["shape"] for name, weight in weights.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as failure:
        raise StartError(f"{file} is cut off, or not a file of safetensors.") from failure
    if end != size:
        raise StartError(
            f"{file} is {'cut off' if size < end else 'damaged'}: it has {size:,} bytes, and not {end:,}."
        )
    return shapes
