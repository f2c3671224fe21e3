"""Work for long request bodies, done in threads so that the event loop stays free for other requests.

Each app has two threads: `body_thread`, in its `state`, for bodies and their prompts, and one for those of requests
that only ask about tokens (`api/tokens.py`). More would not be faster: Python runs one thread at a time, and the event
loop would have to wait for each in turn.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import Request

from server.request_record import request_record

THREAD_MIN_BYTES = 8 * 1024
"""A shorter body is read in the event loop: that takes less time than handing it to a thread."""

Result = TypeVar("Result")


class PausingThread:
    """A thread for work that holds Python's interpreter lock, with as long a pause after each call as it took.

    pydantic reads a whole body without releasing the lock: meanwhile the event loop stands still. Without the pauses it
    would run little more than one callback between two bodies, and an arriving body alone is one for each 64 KiB.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self._rested_at = 0.0

    async def run(self, work: Callable[[], Result]) -> Result:
        """Call `work` in the thread, after earlier calls; returns its result or raises its exception."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._run_rested, work
        )

    def _run_rested(self, work: Callable[[], Result]) -> Result:
        time.sleep(max(0.0, self._rested_at - time.monotonic()))
        began = time.monotonic()
        try:
            return work()
        finally:
            ended = time.monotonic()
            self._rested_at = ended + (ended - began)


async def offload(request: Request, work: Callable[[], Result]) -> Result:
    """Call `work`, in the app's thread for bodies if the request's body is long."""
    if request_record(request.scope).body_bytes < THREAD_MIN_BYTES:
        return work()
    thread: PausingThread = request.app.state.body_thread
    return await thread.run(work)
