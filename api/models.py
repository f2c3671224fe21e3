"""The names that models are served under."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from errors import APIError, shown

MAX_NAME_SHOWN, MAX_NAMES_SHOWN = 64, 120


class Model(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "chinese-llama-alpaca"
    max_model_len: int


class ModelList(BaseModel):
    """The served models."""

    object: Literal["list"] = "list"
    data: list[Model]


def check_model(asked: str | None, served: Sequence[str]) -> str:
    """The model's name in the reply: the one that was asked for, else the first; raises a 404 for any other."""
    if asked is None:
        return served[0]
    if asked not in served:
        named, names = shown(asked, MAX_NAME_SHOWN), shown("', '".join(served), MAX_NAMES_SHOWN)
        message = f"The model '{named}' does not exist. Served here: '{names}'."
        raise APIError(404, message, param="model", code="model_not_found")
    return asked
