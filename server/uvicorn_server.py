"""The life of the server: signals, running requests that are waited for, an engine that dies."""

import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import uvicorn
from starlette.types import ASGIApp

from generation import Engine
from server.connection import Http1Connection
from server.sockets import UnixSocket
from settings import Settings, print_to_stderr

SAME_IN_UVICORN = ("log_level", "timeout_keep_alive", "ssl_keyfile", "ssl_certfile")


def end_on_signals(sockets: Sequence[socket.socket]) -> None:
    """Let a signal end the process while it is starting, until uvicorn has its own say.

    An exception, which Python makes of Ctrl-C, would be swallowed by whichever module is being imported. SIGTERM's
    default is right but where a unix socket would be left behind.
    """
    has_path = any(isinstance(bound, UnixSocket) for bound in sockets)
    for number in (signal.SIGINT, signal.SIGTERM) if has_path else (signal.SIGINT,):
        signal.signal(number, lambda number, _: end_at_once(sockets, number))


def end_at_once(sockets: Sequence[socket.socket], number: int) -> NoReturn:
    """End the process as a signal would, and the engine's processes with it; a unix socket is removed."""
    for bound in sockets:
        if isinstance(bound, UnixSocket):
            bound.remove()
    os._exit(128 + number)


class DrainingServer(uvicorn.Server):
    """uvicorn's, which on a signal lets running requests end before it does; it ends by itself when the engine dies."""

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_seconds: float) -> None:
        super().__init__(config)
        self._engine, self._drain_seconds = engine, drain_seconds
        self._deadline: float | None = None
        self.engine_died = False
        self._sockets: Sequence[socket.socket] = ()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        self._sockets = sockets or ()
        super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as the signal handler it is
        if self._deadline is not None:
            end_at_once(self._sockets, sig)
        self._deadline = time.monotonic() + self._drain_seconds
        self._engine.drain()
        if running := len(self.server_state.tasks):
            print_to_stderr(
                f"Stopping after {running} running requests; one more signal ends them."
            )

    async def on_tick(self, counter: int) -> bool:
        if self._deadline is not None and not self.should_exit:
            is_late = time.monotonic() > self._deadline
            if is_late:
                self._engine.abort()
            self.should_exit = is_late or not self.server_state.tasks
        if self._engine.is_dead:
            self.engine_died = self.should_exit = True
        return await super().on_tick(counter)


def uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """uvicorn's settings: our connection, no log of its own, and those of our flags that it shares."""
    same = {name: getattr(settings, name) for name in SAME_IN_UVICORN}
    # Who is told that the server stops gets so many seconds to hear it.
    same["timeout_graceful_shutdown"] = 3
    root_path = re.sub("/{2,}", "/", f"/{settings.root_path}").rstrip("/")
    return uvicorn.Config(app, access_log=False, http=Http1Connection, root_path=root_path, **same)
