"""What a model's files say, and whether they are whole: known before vLLM is imported.

Reads JSON and the heads of weights, never whole weights. Knows nothing about tokens, vLLM or the web.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings import Settings, StartError

BASE_LENGTHS = (2048, 4096, 8192)
"""Tokens that models were trained with before their positions were scaled: LLaMA's, LLaMA-2's, LLaMA-3's."""


def find_file(name: str, file: str, revision: str | None) -> Path | None:
    """A file of the directory `name`, or of the hub's model of that name; None if it has none."""
    if Path(name).is_dir():
        path = Path(name, file)
        return path if path.is_file() else None
    from transformers.utils import cached_file  # noqa: PLC0415 - slow to import

    try:
        found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError as failure:
        raise StartError(f"{name} is neither a directory nor a model that the hub can be asked for.") from failure
    return Path(found) if found else None


def read_object(file: Path | None) -> dict[str, Any]:
    """The JSON object of a file, empty if there is no file; raises StartError."""
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        raise StartError(f"{file} is not a JSON object.") from failure
    if not isinstance(found, dict):
        raise StartError(f"{file} is not a JSON object.")
    return found


def read_config(settings: Settings) -> dict[str, Any]:
    """The model's config.json; empty for a model that has none."""
    is_file = Path(settings.model).is_file()  # a whole model in one file
    return {} if is_file else read_object(find_file(settings.model, "config.json", settings.revision))


def vocabulary_rows(config: Mapping[str, Any]) -> int | None:
    """The ids that a model has an embedding for; None if its config does not say."""
    text_config = config.get("text_config")
    rows = {**config, **text_config}.get("vocab_size") if isinstance(text_config, dict) else config.get("vocab_size")
    return rows if isinstance(rows, int) else None


def trained_length(config: Mapping[str, Any]) -> int | None:
    """The tokens that a model was trained for, where vLLM would count a linear scaling twice; None elsewhere.

    vLLM multiplies `max_position_embeddings` by the factor, as is right where it is the length before scaling
    (vicuna-16k: 4096, factor 4). In others it is scaled already (Chinese-Alpaca-2-16K: 16384, factor 4): divided by the
    factor, it is a length that models begin with. `original_max_position_embeddings` says so outright.
    """
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    length, factor = config.get("max_position_embeddings"), scaling.get("factor")
    if scaling.get("rope_type", scaling.get("type")) != "linear" or not length or not factor or factor <= 1:
        return None
    original = scaling.get("original_max_position_embeddings")
    if original is None and length / factor in BASE_LENGTHS:
        original = length / factor
    return int(original * factor) if original and original < length else None
