"""uvicorn as it is run here: signals, requests that may end before the process does."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

import uvicorn
from starlette.types import ASGIApp

from generation import Engine
from server.connection import Http1Connection
from server.sockets import UnixSocket
from settings import Settings, print_stderr

UVICORN_FLAGS = ("log_level", "timeout_keep_alive", "ssl_keyfile", "ssl_certfile")
"""Flags that are uvicorn's, with the same names and meanings."""
GRACEFUL_SECONDS = 3
"""How long uvicorn waits for the last replies, such as the 503 of ended requests, before it cancels their tasks."""
DEATH_POLL_SECONDS = 0.1


async def watch(engine: Engine, died: Callable[[], None] | None) -> None:
    """Call `died` when the engine has died."""
    while not engine.is_dead:  # noqa: ASYNC110 - vLLM tells nobody
        await asyncio.sleep(DEATH_POLL_SECONDS)
    if died is not None:
        died()


def end_on_signals(sockets: Sequence[socket.socket]) -> None:
    """Let SIGINT and SIGTERM end the process at once while it starts, until uvicorn handles them.

    Python's default for SIGINT, KeyboardInterrupt, may be caught by a module that is being imported. The default for
    SIGTERM is changed only where it would leave the file of a unix socket behind, or do nothing: Linux gives the first
    process of a container only signals that it has a handler for (man 7 pid_namespaces).
    """
    has_file = any(isinstance(bound, UnixSocket) for bound in sockets)
    handles_both = has_file or os.getpid() == 1
    for number in (signal.SIGINT, signal.SIGTERM) if handles_both else (signal.SIGINT,):
        signal.signal(number, lambda number, _: end_at_once(sockets, number))


def end_at_once(sockets: Sequence[socket.socket], number: int) -> NoReturn:
    """End the process with the status of a signal's number, 128 and more; the file of a unix socket is removed.

    Nothing else is cleaned up. The engine's processes look for their parent, and end soon after it.
    """
    for bound in sockets:
        if isinstance(bound, UnixSocket):
            bound.remove()
    os._exit(128 + number)


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which on SIGINT or SIGTERM takes no more requests and waits until the running ones end.

    After `drain_seconds` those that still run get a 503, and a second signal ends the process at once.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_seconds: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain_seconds = drain_seconds
        self._deadline: float | None = None
        """When the time of running requests is over, by `time.monotonic`; None before a signal."""
        self._sockets: Sequence[socket.socket] = ()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        self._sockets = sockets or ()
        super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler gets it
        if self._deadline is not None:
            end_at_once(self._sockets, sig)
        self._deadline = time.monotonic() + self._drain_seconds
        self._engine.drain()
        if running := len(self.server_state.tasks):
            print_stderr(f"Stopping after {running} running requests; one more signal ends them.")

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if self._deadline is not None and not self.should_exit:
            is_late = time.monotonic() > self._deadline
            if is_late:
                self._engine.abort()
            self.should_exit = is_late or not self.server_state.tasks
        return await super().on_tick(counter)


def uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """uvicorn's settings: `Http1Connection` for connections, none of its access log, and the flags that it shares.

    Nothing here asks for a client's address or the scheme, which a proxy's headers would tell.
    """
    flags = {name: getattr(settings, name) for name in UVICORN_FLAGS}
    flags["timeout_graceful_shutdown"] = GRACEFUL_SECONDS
    flags["root_path"] = settings.prefix
    return uvicorn.Config(app, access_log=False, proxy_headers=False, http=Http1Connection, **flags)
