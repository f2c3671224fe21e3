"""The adapters (LoRA) that vLLM has loaded beside the model, and who is generating with each.

vLLM reads an adapter's files again when a request needs one that it has dropped, and its engine dies if they are gone
by then (vLLM 0.32). So all are kept loaded, and one is dropped only after what runs on it has ended.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.engine.exceptions import EngineDeadError

from errors import APIError, bad_request, engine_died, shown


def spare_slots() -> int:
    """Return how many of vLLM's slots have to stay free.

    With none free on a CPU, the model's own rows take the weights of the adapter that came last (vLLM 0.32).
    """
    return int(current_platform.is_cpu())


def places(args: AsyncEngineArgs) -> int:
    """Return how many adapters can be loaded with these arguments of vLLM."""
    if not args.enable_lora:
        return 0
    slots: int = args.max_loras - spare_slots()
    return slots if current_platform.is_cpu() else max(slots, args.max_cpu_loras or 0)


class Loader(Protocol):
    """The part of vLLM's engine that loads adapters."""

    async def add_lora(self, lora_request: LoRARequest) -> bool: ...

    async def remove_lora(self, lora_id: int) -> bool: ...


@dataclass(slots=True)
class _Loaded:
    """An adapter that is loaded."""

    request: LoRARequest
    generating: int = 0
    is_leaving: bool = False
    """Whether it is to be dropped when nothing generates with it; it keeps its place until then."""
    is_idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is leaving and nothing generates with it."""


class Adapters:
    """The adapters of one engine, by their names; at most `places` of them."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._loaded: dict[str, _Loaded] = {}
        self._names: set[str] = set()
        self._ids = count(1)
        self._is_changing = asyncio.Lock()

    async def load(self, loader: Loader, name: str, path: str) -> None:
        """Load an adapter from a folder.

        Raises APIError: 400 if its name or all places are taken, or as vLLM refuses it; 503 if vLLM's engine has died.
        """
        async with self._is_changing:
            if name in self._loaded:
                raise bad_request("An adapter of that name is loaded, or leaving.", "lora_name")
            if len(self._loaded) >= self._places:
                raise bad_request(
                    f"This server has places for {self._places} adapters (--max-loras), and all are taken.",
                    "lora_name",
                )
            number = next(self._ids)
            # vLLM's prefix cache knows an adapter by its name and folder, which may have other weights by now.
            own_name = f"{name}#{number}" if name in self._names else name
            self._names.add(name)
            request = LoRARequest(own_name, number, path)
            try:
                await loader.add_lora(request)
            except EngineDeadError as failure:
                raise engine_died() from failure
            except Exception as failure:
                why = str(failure).rpartition("method failed: ")[2].replace(path, "lora_path")
                raise bad_request(f"vLLM refuses the adapter: {why}", "lora_path") from failure
            self._loaded[name] = _Loaded(request)

    async def unload(self, loader: Loader, name: str) -> None:
        """Drop an adapter: at once for new requests, and from memory when what runs on it has ended.

        Raises APIError: 404 if there is none of that name, 503 if vLLM's engine has died.
        """
        loaded = self._served(name)
        loaded.is_leaving = True
        if loaded.generating:
            await loaded.is_idle.wait()
        try:
            await loader.remove_lora(loaded.request.lora_int_id)
        except EngineDeadError as failure:
            raise engine_died() from failure
        finally:
            del self._loaded[name]

    @contextmanager
    def use(self, name: str) -> Iterator[LoRARequest]:
        """Hold an adapter while something is generated with it; raises APIError (404) if it has been dropped."""
        loaded = self._served(name)
        loaded.generating += 1
        try:
            yield loaded.request
        finally:
            loaded.generating -= 1
            if not loaded.generating and loaded.is_leaving:
                loaded.is_idle.set()

    def _served(self, name: str) -> _Loaded:
        """Return an adapter that new requests may use; raises APIError (404) for any other."""
        loaded = self._loaded.get(name)
        if loaded is None or loaded.is_leaving:
            message = f"The model '{shown(name, 64)}' was unloaded."
            raise APIError(404, message, param="model", code="model_not_found")
        return loaded
