"""The open connection: server-sent events out, and what happens when the client leaves.

Knows nothing about what is sent. A client that leaves is seen at once, by waiting for its disconnect message beside
the work: a framework's response object alone would find out at the next write, and a plain reply never.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from errors import to_api_error
from generation import end

Result = TypeVar("Result")

DONE = b"data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of `work`, which is cancelled when the client leaves: then None, for nobody waits for an answer."""
    task = asyncio.ensure_future(work)
    listener = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, listener}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await end((task, listener))


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A `text/event-stream` of JSON payloads, ended by `[DONE]`; a failure on the way is an event too.

    Payloads that come together are sent together: a write costs more than all that goes before it.
    """

    media_type = "text/event-stream"

    def __init__(self, payloads: AsyncGenerator[list[bytes], None], headers: Mapping[str, str]) -> None:
        super().__init__(headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._payloads = payloads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._send_all(scope, receive, send))

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._payloads) as payloads:
            try:
                events = _to_events(await anext(payloads))
            except Exception as failure:  # noqa: BLE001 - nothing is sent yet: the client gets a real status
                await to_api_error(failure).to_response()(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            send = scope.get("direct_send", send)
            await send({"type": "http.response.body", "body": events, "more_body": True})
            try:
                async for at_once in payloads:
                    await send({"type": "http.response.body", "body": _to_events(at_once), "more_body": True})
            except Exception as failure:  # noqa: BLE001 - the status is sent: the client learns of it as an event
                events = _to_events([to_api_error(failure).to_json()])
                await send({"type": "http.response.body", "body": events, "more_body": True})
            await send({"type": "http.response.body", "body": DONE})


def _to_events(payloads: Sequence[bytes]) -> bytes:
    return b"".join([b"data: %b\n\n" % payload for payload in payloads])
