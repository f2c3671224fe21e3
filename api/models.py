"""The models that are served: the base model under all its names, and the adapters beside it."""

import time
from dataclasses import dataclass
from typing import Literal

from errors import APIError, shown
from prompt_template import PromptTemplate
from protocol import ReplyPart
from settings import AdapterModule, Settings
from template_choice import adapter_template

MAX_NAME_SHOWN, MAX_NAMES_SHOWN = 64, 120


class Model(ReplyPart):
    """A served model."""

    id: str
    """The name that requests choose it by, as their `model`."""
    object: Literal["model"] = "model"
    """Always `model`."""
    created: int
    """Since when it is served, in seconds since 1970 (Unix time)."""
    owned_by: str = "chinese-llama-alpaca"
    """Always the same."""
    root: str
    """The folder, or the name on Hugging Face, that it is loaded from."""
    parent: str | None = None
    """Of an adapter, the base model's first name; else `null`."""
    max_model_len: int
    """Its context in tokens: prompt and answer together."""


class ModelList(ReplyPart):
    """The served models."""

    object: Literal["list"] = "list"
    """Always `list`."""
    data: list[Model]
    """The base model under each of its names, then the adapters."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that requests may name."""

    name: str
    template: PromptTemplate
    root: str
    created: int
    adapter: str = ""
    """Its name as the engine knows it; empty: the base model."""
    parent: str | None = None


class Models:
    """The models of one app, by their names; the first is that of requests that name none."""

    def __init__(self, settings: Settings, template: PromptTemplate) -> None:
        """Raises StartError for an adapter that asks for a template that there is not."""
        self._settings, self._template = settings, template
        created = int(time.time())
        self._served = {
            name: ServedModel(name, template, settings.model, created)
            for name in settings.model_names
        }
        for module in settings.lora_modules:
            self.add(self.to_served(module))

    def find(self, asked: str | None) -> ServedModel:
        """The model of that name, or the first; raises APIError (404) for any other."""
        name = self._settings.model_names[0] if asked is None else asked
        if (served := self._served.get(name)) is None:
            raise self._unknown(name)
        return served

    def _unknown(self, asked: str) -> APIError:
        named, names = (
            shown(asked, MAX_NAME_SHOWN),
            shown("', '".join(self._served), MAX_NAMES_SHOWN),
        )
        message = f"The model '{named}' does not exist. Served here: '{names}'."
        return APIError(404, message, param="model", code="model_not_found")

    def to_served(self, module: AdapterModule) -> ServedModel:
        """Make an adapter a model, which `add` serves; raises StartError for a template that there is not."""
        template = adapter_template(self._template, module, self._settings)
        parent = self._settings.model_names[0]
        return ServedModel(
            module.name, template, module.path, int(time.time()), module.name, parent
        )

    def add(self, served: ServedModel) -> None:
        """Serve a model from now on."""
        self._served[served.name] = served

    def remove(self, name: str) -> None:
        """Serve an adapter no more."""
        del self._served[name]

    def __contains__(self, name: str) -> bool:
        return name in self._served

    def adapter_templates(self) -> dict[str, str]:
        """The name of each adapter's prompt template, by the adapter's."""
        models = self._served.values()
        return {served.name: served.template.layout.name for served in models if served.adapter}

    def to_list(self, max_model_len: int) -> ModelList:
        """All of them, as `/v1/models` lists them."""
        return ModelList(data=[to_model(served, max_model_len) for served in self._served.values()])


def to_model(served: ServedModel, max_model_len: int) -> Model:
    """A served model as `/v1/models` shows it."""
    return Model(
        id=served.name,
        created=served.created,
        root=served.root,
        parent=served.parent,
        max_model_len=max_model_len,
    )
