"""The ASGI scope of a request on a connection that may be written to directly."""

import asyncio
from collections.abc import Callable

from starlette.types import Scope

from server.request_record import STATE_KEY, RequestRecord


def scope_with(write_now: Callable[[bytes], bool] | None) -> Scope:
    """A scope as `Http1Connection` makes it, in the running event loop; None: by a server that has no such writes."""
    scope: Scope = {"type": "http", "state": {STATE_KEY: RequestRecord("id", "serial")}}
    if write_now is not None:
        loop = asyncio.get_running_loop()
        scope.update(write_now=write_now, connection_loop=loop, lost=loop.create_future())
    return scope
