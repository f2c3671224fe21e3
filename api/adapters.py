"""`/v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as vLLM has them: adapters that come and go while it runs.

They are there with `--allow-lora-updates` only, which needs keys: whoever may ask names folders of this machine.
"""

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import Field

from adapter_files import check_servable, find_adapter, read_adapter
from api.admission import Admission
from api.ignored_fields import ignored_header
from errors import APIError, bad_request
from model_files import read_config
from protocol import SentBody
from settings import AdapterModule, StartError

MAX_NAME_CHARACTERS = 256
AdapterName = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS, pattern=r"^\P{C}+$")
]
"""Without line breaks and other characters that a line of the log cannot have."""


class LoadAdapterRequest(SentBody):
    """The body of `POST /v1/load_lora_adapter`."""

    lora_name: AdapterName
    """The name that requests choose it by as their `model`, 1 to 256 characters, none of them a control character. One
    that is served already: 400."""
    lora_path: str = Field(min_length=1)
    """Its folder on the server's machine, or its name on Hugging Face."""
    prompt_template: str = "auto"
    """Which prompt template it gets, as `--prompt-template` says; `auto`: chosen by its name, else that of its base
    model."""
    load_inplace: bool = False
    """`true`, which is new weights for a name in use, is not supported: 400. `false` changes nothing."""


class UnloadAdapterRequest(SentBody):
    """The body of `POST /v1/unload_lora_adapter`."""

    lora_name: AdapterName
    """The name of the adapter, 1 to 256 characters. One that is not loaded: 404. What runs on it ends first."""


class AdapterEndpoints:
    """Loads and unloads the adapters of one engine."""

    def __init__(self, admission: Admission) -> None:
        self._engine, self._models = admission.engine, admission.models
        self._settings = admission.settings

    async def load(self, body: LoadAdapterRequest, request: Request) -> Response:
        """Load an adapter, and serve it as a model from then on."""
        self._engine.check_ready()
        if body.load_inplace:
            raise bad_request("Unload the adapter, and load the new one.", "load_inplace")
        if body.lora_name in self._models:
            raise bad_request("A model of that name is served already.", "lora_name")
        path = await asyncio.to_thread(self._check, body.lora_path)
        module = AdapterModule(body.lora_name, str(path), body.prompt_template)
        try:
            served = self._models.to_served(module)
        except StartError as failure:
            raise bad_request(str(failure), "prompt_template") from failure
        await self._engine.load_adapter(served.name, served.root)
        self._models.add(served)
        return _done(request, body, "added")

    async def unload(self, body: UnloadAdapterRequest, request: Request) -> Response:
        """Serve an adapter no more; returns when what ran on it has ended."""
        self._engine.check_ready()
        name = body.lora_name
        if not (name in self._models and self._models.find(name).adapter):
            raise APIError(
                404, "There is no adapter of that name.", param="lora_name", code="model_not_found"
            )
        self._models.remove(name)
        await self._engine.unload_adapter(name)
        return _done(request, body, "removed")

    def _check(self, path: str) -> Path:
        """Find an adapter's folder, and check it against the model; raises APIError, without a path of this machine."""
        folder = Path(path)
        try:
            folder = find_adapter(path)
            check_servable(read_adapter(folder), read_config(self._settings))
        except StartError as failure:
            message = str(failure).replace(str(folder), "lora_path")
            raise bad_request(message, "lora_path") from failure
        return folder


def _done(request: Request, body: LoadAdapterRequest | UnloadAdapterRequest, what: str) -> Response:
    """Say, as vLLM does, that it is done."""
    return PlainTextResponse(
        f"Success: LoRA adapter '{body.lora_name}' {what} successfully.",
        headers=ignored_header(request, body.unknown_fields),
    )
