"""What a step of the engine has made, handed to all its readers in one callback of the event loop.

vLLM wakes a task for each output of each request: an event, a future, a callback of the loop, a chain of generators to
resume. Here one object stands in for the events of all requests, and calls whoever gets something.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from generation import Drain

if TYPE_CHECKING:  # vLLM is not needed for it
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.output_processor import RequestOutputCollector

Take = Callable[["RequestOutput"], Drain | None]
"""Takes an output, without waiting; returns what to await before the next, if its reader is slow."""


class Dispatcher(asyncio.Event):
    """The event of all collectors: once set, it looks through them in the next turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self._readers: dict[_Reader, None] = {}
        self._is_due = False

    async def read(self, collector: "RequestOutputCollector", take: Take) -> None:
        """Hand each output to `take`, up to the last; raises what was put in place of an output, and what it raises."""
        reader = _Reader(collector, take)
        collector.ready = self
        self._readers[reader] = None
        try:
            await reader.read()
        finally:
            del self._readers[reader]

    def set(self) -> None:
        """Called by a collector that gets an output while none is waiting in it."""
        if not self._is_due:
            asyncio.get_running_loop().call_soon(self._look)
            self._is_due = True

    def fail(self, failure: Exception) -> None:
        """Let every reader raise it."""
        for reader in self._readers:
            reader.fail(failure)

    def _look(self) -> None:
        self._is_due = False
        for reader in [*self._readers]:
            reader.look()


class _Reader:
    def __init__(self, collector: "RequestOutputCollector", take: Take) -> None:
        self._collector, self._take = collector, take
        self._has_ended = False

    async def read(self) -> None:
        while not self._has_ended:
            self._pause: asyncio.Future[Drain | None] = asyncio.get_running_loop().create_future()
            self.look()
            if drain := await self._pause:
                await drain()

    def look(self) -> None:
        """Take what is there; while the last output is being drained, the collector merges those that come."""
        if self._pause.done():
            return
        try:
            output: Any = self._collector.get_nowait()
            if output is not None:
                drain = self._take(output)
                self._has_ended = output.finished
                if drain or self._has_ended:
                    self._pause.set_result(drain)
        except Exception as failure:  # noqa: BLE001 - raised by `read`
            self.fail(failure)

    def fail(self, failure: Exception) -> None:
        if not self._pause.done():
            self._pause.set_exception(failure)
