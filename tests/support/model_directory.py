"""Directories of models, made of the demo model's files."""

import json
import shutil
from pathlib import Path
from typing import Any

from settings import DEMO_MODEL

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def copy_of_demo_model(directory: Path) -> Path:
    """The demo model, weights and all, in a directory that is made."""
    directory.mkdir()
    for name in FILES:
        shutil.copy(DEMO_MODEL / name, directory)
    return directory


def change(file: Path, **changes: Any) -> None:
    """Other values in a JSON file, `...` for none."""
    found = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(
        json.dumps({key: value for key, value in found.items() if value is not ...}),
        encoding="utf-8",
    )


def convert_tokenizer(model: Path) -> Path:
    """The model, then with transformers' converted tokenizer beside SentencePiece's."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(model).save_pretrained(model.parent / "converted")
    shutil.copy(model.parent / "converted" / "tokenizer.json", model)
    return model
