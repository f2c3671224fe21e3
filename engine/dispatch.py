"""Hands all outputs of an engine step to their readers in one callback of the event loop, or in the one it came in.

In vLLM each request has a task that waits for an event: each output sets the event, resolves a future, schedules a
callback and resumes a chain of generators. Here one object takes the place of the events of all requests, and calls
the readers itself.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from generation import Drain

if TYPE_CHECKING:  # importing vLLM takes seconds, and only the types need it
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.output_processor import RequestOutputCollector

OutputCallback = Callable[["RequestOutput"], Drain | None]
"""Called with each output of a request; returns what to await before the next call, if the client reads slowly."""


class Dispatcher(asyncio.Event):
    """The `ready` event of every `RequestOutputCollector`: once set, it delivers in the loop's next iteration."""

    is_behind = False
    """Whether other outputs came before these in the same turn of the event loop. Then they wait for the next one in
    their collectors, which join what comes meanwhile: an engine that is faster than the loop makes fewer events."""

    def __init__(self) -> None:
        super().__init__()
        self._readers: dict[RequestOutputCollector, _Reader] = {}
        self._is_scheduled = False

    async def read(self, collector: "RequestOutputCollector", on_output: OutputCallback) -> None:
        """Call `on_output` with each output of a request, up to the last.

        Raises the exception that vLLM puts into the collector where a request fails, and what `on_output` raises.
        """
        reader = _Reader(collector, on_output)
        collector.ready = self
        self._readers[collector] = reader
        try:
            await reader.read()
        finally:
            del self._readers[collector]

    def hand(self, collector: "RequestOutputCollector", output: "RequestOutput") -> None:
        """Give an output to the reader of its collector, or let it wait there if the reader is slow or the loop is."""
        reader = None if self.is_behind else self._readers.get(collector)
        if reader is None or not reader.take(output):
            collector.put(output)

    def set(self) -> None:
        """Called by a collector that was empty and has got an output."""
        if not self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._deliver)
            self._is_scheduled = True

    def fail(self, failure: Exception) -> None:
        """Make every running `read` raise the exception."""
        for reader in self._readers.values():
            reader.fail(failure)

    def _deliver(self) -> None:
        self._is_scheduled = False
        for reader in [*self._readers.values()]:
            reader.deliver()


class _Reader:
    """The outputs of one request on their way from its collector to its callback."""

    def __init__(self, collector: "RequestOutputCollector", on_output: OutputCallback) -> None:
        self._collector, self._on_output = collector, on_output
        self._has_ended = False

    async def read(self) -> None:
        while not self._has_ended:
            self._pause: asyncio.Future[Drain | None] = asyncio.get_running_loop().create_future()
            self.deliver()
            if drain := await self._pause:
                await drain()

    def deliver(self) -> None:
        """Call back with the waiting output, if there is one.

        While the client is waited for nothing is delivered, and the collector merges the outputs that come.
        """
        if self._pause.done():
            return
        try:
            output: Any = self._collector.get_nowait()
        except Exception as failure:  # noqa: BLE001 - raised by `read`
            self.fail(failure)
            return
        if output is not None:
            self.take(output)

    def take(self, output: "RequestOutput") -> bool:
        """Call back with an output, if none waits before it; returns whether it did."""
        if self._pause.done() or self._collector.output is not None:
            return False
        try:
            drain = self._on_output(output)
            self._has_ended = output.finished
            if drain or self._has_ended:
                self._pause.set_result(drain)
        except Exception as failure:  # noqa: BLE001 - raised by `read`
            self.fail(failure)
        return True

    def fail(self, failure: Exception) -> None:
        if not self._pause.done():
            self._pause.set_exception(failure)
