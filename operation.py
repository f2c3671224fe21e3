"""The life of the server: signals, running requests that are waited for, an engine that dies."""

import os
import time
from types import FrameType

import uvicorn

import startup
from generation import Engine


class DrainingServer(uvicorn.Server):
    """uvicorn's, which on a signal lets running requests end before it does; it ends by itself when the engine dies."""

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_seconds: float) -> None:
        super().__init__(config)
        self._engine, self._drain_seconds = engine, drain_seconds
        self._deadline: float | None = None
        self.engine_died = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as the signal handler it is
        if self._deadline is not None:
            os._exit(128 + sig)  # the engine's processes end with this one
        self._deadline = time.monotonic() + self._drain_seconds
        self._engine.drain()
        if running := len(self.server_state.tasks):
            startup.show(f"Stopping after {running} running requests; one more signal ends them.")

    async def on_tick(self, counter: int) -> bool:
        if self._deadline is not None and not self.should_exit:
            is_late = time.monotonic() > self._deadline
            if is_late:
                self._engine.abort()
            self.should_exit = is_late or not self.server_state.tasks
        if self._engine.is_dead:
            self.engine_died = self.should_exit = True
        return await super().on_tick(counter)
