"""What a model's files say, and whether they are whole: known before vLLM is imported.

Reads JSON and the heads of weights, never whole weights. Knows nothing about tokens, vLLM or the web.
"""

import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from settings import Settings, StartError

MODEL_FILES = ("config.json", "params.json")
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "tekken.json",
)
JSON_FILES = ("config.json", "generation_config.json", "params.json", "tokenizer_config.json", "tokenizer.json",
              "special_tokens_map.json", "added_tokens.json")  # fmt: skip
INDEXES = "*.index.json"
WEIGHTS = (
    ("consolidated*.safetensors", "consolidated.safetensors.index.json"),
    ("*.safetensors", "model.safetensors.index.json"),
    ("*.bin", "pytorch_model.bin.index.json"),
    ("*.pt", "pytorch_model.pt.index.json"),
    ("*.gguf", "model.gguf.index.json"),
)
"""The files that vLLM looks for, in this order, and the file that names their shards."""
NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt",
              "adapter_model.safetensors", "adapter_model.bin")  # fmt: skip
SHARD = re.compile(r"(.*-)\d{5}-of-(\d{5})(\..*)")
POINTER = b"version https://git-lfs"
ZIP = b"PK"
MAX_HEADER_BYTES = 100_000_000
"""As safetensors itself has it."""
LIKE_LLAMA = ("llama", "mistral", "mixtral")
"""Models whose embedding is known by its name here, and has to have as many rows as their config says."""
BASE_LENGTHS = (2048, 4096, 8192)
"""Tokens that models were trained with before their positions were scaled: LLaMA's, LLaMA-2's, LLaMA-3's."""


def check_model_files(settings: Settings, *, has_weights: bool = True) -> None:
    """Raise StartError for files that no start can work with, in directories; what a hub has is left to vLLM.

    Without `has_weights`, they are elsewhere, or of a kind that is not known here.
    """
    model, tokenizer = Path(settings.model), Path(settings.tokenizer_path)
    _check_directory(settings.model, MODEL_FILES)
    if model.is_dir():
        _check_objects(model)
        if has_weights:
            _check_weights(model, read_config(settings))
    _check_directory(settings.tokenizer_path, TOKENIZER_FILES)
    if tokenizer.is_dir():
        _check_objects(tokenizer)
        if (tokenizer / "tokenizer.model").is_file():
            _read_head(tokenizer / "tokenizer.model")


def find_file(name: str, file: str, revision: str | None) -> Path | None:
    """A file of the directory `name`, or of the hub's model of that name; None if it has none."""
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


def read_object(file: Path | None) -> dict[str, Any]:
    """The JSON object of a file, empty if there is no file; raises StartError."""
    if file is None:
        return {}
    _read_head(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        mark = "a byte order mark before its" if "BOM" in str(failure) else "no valid"
        raise StartError(f"{file} has {mark} JSON.") from failure
    if not isinstance(found, dict):
        raise StartError(f"{file} is not a JSON object.")
    return found


def read_config(settings: Settings) -> dict[str, Any]:
    """The model's config.json; empty for a model that has none."""
    is_file = Path(settings.model).is_file()  # a whole model in one file
    return (
        {} if is_file else read_object(find_file(settings.model, "config.json", settings.revision))
    )


def vocabulary_rows(config: Mapping[str, Any]) -> int | None:
    """The ids that a model has an embedding for; None if its config does not say."""
    text_config = config.get("text_config")
    rows = (
        {**config, **text_config}.get("vocab_size")
        if isinstance(text_config, dict)
        else config.get("vocab_size")
    )
    return rows if isinstance(rows, int) else None


def trained_length(config: Mapping[str, Any]) -> int | None:
    """The tokens that a model was trained for, where vLLM would count a linear scaling twice; None elsewhere.

    vLLM multiplies `max_position_embeddings` by the factor, as is right where it is the length before scaling
    (vicuna-16k: 4096, factor 4). In others it is scaled already (Chinese-Alpaca-2-16K: 16384, factor 4): divided by the
    factor, it is a length that models begin with. `original_max_position_embeddings` says so outright.
    """
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    length, factor = config.get("max_position_embeddings"), scaling.get("factor")
    if (
        scaling.get("rope_type", scaling.get("type")) != "linear"
        or not length
        or not factor
        or factor <= 1
    ):
        return None
    original = scaling.get("original_max_position_embeddings")
    if original is None and length / factor in BASE_LENGTHS:
        original = length / factor
    return int(original * factor) if original and original < length else None


def _check_directory(name: str, needed: Sequence[str]) -> None:
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / file).is_file() for file in needed):
            _check_kind(path)
            raise StartError(f"{name} has none of {', '.join(needed)}.")
    elif not path.is_file() and (name.startswith(("/", ".", "~")) or name.count("/") > 1):
        raise StartError(f"There is no directory {name}.")


def _check_kind(directory: Path) -> None:
    """Raise StartError for what can be made into a model."""
    if (directory / "adapter_config.json").is_file():
        raise StartError(
            f"{directory} is an adapter (LoRA), not a model: merge it into its base model, and serve that."
        )
    if any(directory.glob("*.pth")):
        script = "transformers' convert_llama_weights_to_hf.py"
        raise StartError(
            f"{directory} has its weights as .pth, LLaMA's own format: convert them with {script}."
        )


def _check_objects(directory: Path) -> None:
    for file in (*map(directory.joinpath, JSON_FILES), *directory.glob(INDEXES)):
        if file.is_file():
            read_object(file)


def _read_head(file: Path) -> bytes:
    """How a file begins; raises StartError if it is empty, or only says where git-lfs has the content."""
    try:
        with file.open("rb") as opened:
            head = opened.read(len(POINTER))
    except OSError as failure:
        raise StartError(f"{file} cannot be read.") from failure
    if not head:
        raise StartError(f"{file} is empty.")
    if head == POINTER:
        raise StartError(
            f"{file} is a git-lfs pointer in place of the file: fetch it with git lfs pull."
        )
    return head


def _check_weights(directory: Path, config: Mapping[str, Any]) -> None:
    shapes: dict[str, Any] = {}
    for file in _weight_files(directory):
        head = _read_head(file)
        if file.suffix == ".safetensors":
            shapes |= _read_shapes(file)
        # A zip's directory stands at its end.
        elif head.startswith(ZIP) and not zipfile.is_zipfile(file):
            raise StartError(f"{file} is cut off.")
    rows = vocabulary_rows(config)
    if rows is not None and config.get("model_type") in LIKE_LLAMA:
        _check_rows(shapes, rows, is_tied=bool(config.get("tie_word_embeddings")))


def _check_rows(shapes: Mapping[str, Any], rows: int, *, is_tied: bool) -> None:
    for name in (
        ("model.embed_tokens.weight",)
        if is_tied
        else ("model.embed_tokens.weight", "lm_head.weight")
    ):
        if name in shapes and shapes[name][:1] != [rows]:
            counts = f"{shapes[name][0]:,} rows, and config.json says {rows:,} (vocab_size)"
            raise StartError(f"{name} of the weights has {counts}: they are not of one model.")


def _weight_files(directory: Path) -> list[Path]:
    """The files that vLLM would load; raises StartError if there are none, or if shards are missing."""
    for pattern, index in WEIGHTS:
        found = [file for file in sorted(directory.glob(pattern)) if file.name not in NO_WEIGHTS]
        if found:
            return _shards(found, directory / index)
    for index_file in directory.glob(INDEXES):
        _shards([], index_file)
    _check_kind(directory)
    raise StartError(f"{directory} has no weights (*.safetensors or *.bin).")


def _shards(found: list[Path], index: Path) -> list[Path]:
    """Those of the files that belong together, as the index says if there is one, or else their numbers."""
    if not index.is_file():
        needed, told = _numbered(file.name for file in found), "of that number"
    else:
        names = read_object(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise StartError(f"{index} has no weight_map of weights and their files.")
        needed, told = {*names.values()}, f"that {index.name} names"
        found = [index.parent / name for name in needed]
    if missing := sorted(name for name in needed if not (index.parent / name).is_file()):
        raise StartError(
            f"{index.parent} lacks {missing[0]}, one of {len(needed)} files {told}: fetch it."
        )
    return found


def _numbered(names: Iterable[str]) -> set[str]:
    """All the shards of which there is one."""
    needed = set()
    for part in filter(None, map(SHARD.fullmatch, names)):
        head, last, tail = part.groups()
        needed |= {f"{head}{number:05}-of-{last}{tail}" for number in range(1, int(last) + 1)}
    return needed


def _read_shapes(file: Path) -> dict[str, Any]:
    """The shape of each weight in a file of safetensors, by its head; raises StartError if the file is not whole."""
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(size, MAX_HEADER_BYTES):
                raise ValueError
            weights = json.loads(opened.read(length))
        weights.pop("__metadata__", None)
        end = (
            8 + length + max((weight["data_offsets"][1] for weight in weights.values()), default=0)
        )
        shapes = {name: weight["shape"] for name, weight in weights.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as failure:
        raise StartError(f"{file} is cut off, or not a file of safetensors.") from failure
    if end != size:
        raise StartError(
            f"{file} is {'cut off' if size < end else 'damaged'}: it has {size:,} bytes, and not {end:,}."
        )
    return shapes
