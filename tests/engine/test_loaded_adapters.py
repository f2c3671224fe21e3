"""The adapters of an engine and their places, with a loader in vLLM's place."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from errors import APIError

pytest.importorskip("vllm", reason="vLLM is not installed")
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from engine.adapters import Adapters


@dataclass
class Loader:
    """Takes adapters as vLLM's engine does, or fails as it does."""

    held: set[str] = field(default_factory=set)
    failure: Exception | None = None
    names: dict[int, str] = field(default_factory=dict)

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        self.names[lora_request.lora_int_id] = lora_request.lora_name
        self.held.add(lora_request.lora_name)
        return True

    async def remove_lora(self, lora_id: int) -> bool:
        if self.failure:
            raise self.failure
        self.held.remove(self.names[lora_id])
        return True


async def refused(work: Awaitable[None]) -> APIError:
    with pytest.raises(APIError) as failure:
        await work
    return failure.value


def run(test: Callable[[Adapters, Loader], Awaitable[None]], places: int = 2) -> None:
    async def main() -> None:
        await test(Adapters(places), Loader())

    asyncio.run(main())


def test_of_two_loads_of_a_name_at_once_one_is_refused() -> None:
    async def test(adapters: Adapters, loader: Loader) -> None:
        loads = [adapters.load(loader, "a", f"/{at}") for at in range(2)]
        found = await asyncio.gather(*loads, return_exceptions=True)
        [failure] = [each for each in found if each is not None]
        assert isinstance(failure, APIError)
        assert (failure.status, failure.param) == (400, "lora_name")
        assert loader.held == {"a"}
        await adapters.unload(loader, "a")
        assert loader.held == set()

    run(test)


def test_one_that_leaves_keeps_its_place_until_what_runs_on_it_has_ended() -> None:
    async def test(adapters: Adapters, loader: Loader) -> None:
        await adapters.load(loader, "a", "/a")
        with adapters.use("a"), adapters.use("a"):
            leaving = asyncio.create_task(adapters.unload(loader, "a"))
            await asyncio.sleep(0)
            with pytest.raises(APIError, match="was unloaded") as gone, adapters.use("a"):
                pass
            assert gone.value.status == 404
            assert "all are taken" in str(await refused(adapters.load(loader, "b", "/b")))
            assert "or leaving" in str(await refused(adapters.load(loader, "a", "/a")))
            assert loader.held == {"a"}
        await leaving
        assert loader.held == set()
        await adapters.load(loader, "a", "/a")
        assert loader.held == {"a#2"}  # other weights than those that a prefix cache knows as "a"

    run(test, places=1)


def test_what_vllm_refuses_is_told_and_takes_no_place() -> None:
    async def test(adapters: Adapters, loader: Loader) -> None:
        loader.failure = Exception("Call to add_lora method failed: LoRA rank 128 of /a is greater")
        for _ in range(3):
            failure = await refused(adapters.load(loader, "a", "/a"))
            assert (failure.status, failure.param) == (400, "lora_path")
            assert str(failure) == "vLLM refuses the adapter: LoRA rank 128 of lora_path is greater"
        loader.failure = None
        await adapters.load(loader, "a", "/a")
        loader.failure = EngineDeadError()
        for work in (adapters.load(loader, "b", "/b"), adapters.unload(loader, "a")):
            failure = await refused(work)
            assert (failure.status, failure.code) == (503, "engine_dead")

    run(test)
