"""A request's body, from its bytes to what it asks for: in a thread where that takes long, a piece at a time.

Python runs one thread at a time: with more of them, the event loop would wait for each in turn.
"""

import asyncio
import codecs
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from errors import APIError, bad_request
from server.content_coding import decompress, to_coding
from server.error_responses import to_api_error, to_response
from server.request_record import request_record

LONG = 8 * 1024
"""Bytes of a request from which it is read beside the loop: below, that costs less than the hop."""

MAX_VALUES = 2**18
"""Commas, colons and opening brackets of a body: many small values take far longer to read than a long text."""
MAX_TOKENIZED_BYTES = 2**20

Result = TypeVar("Result")


class PausingThread:
    """One thread, that pauses before each piece of work for as long as the last one took.

    pydantic reads a body in one go, in which nothing else of Python runs. Without the pauses each of the loop's
    callbacks, one for each 64 KiB that any client sends, would wait for such a go of its own.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._free_at = 0.0

    async def run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._run_rested, work
        )

    def _run_rested(self, work: Callable[[], Result]) -> Result:
        time.sleep(max(0.0, self._free_at - time.monotonic()))
        begun = time.monotonic()
        try:
            return work()
        finally:
            self._free_at = 2 * time.monotonic() - begun


READING, TOKENIZING = PausingThread(), PausingThread()


async def offload(size: int, work: Callable[[], Result], thread: PausingThread = READING) -> Result:
    """`work()`, in the thread if `size` is long."""
    return work() if size < LONG else await thread.run(work)


async def offload_tokenizing(request: Request, work: Callable[[], Result]) -> Result:
    """`work()`, about tokens alone, in a thread of its own if the body is long; raises APIError (413) if too long.

    It may take long, and delays nothing that is to be generated.
    """
    size = request_record(request.scope).body_bytes
    if size > MAX_TOKENIZED_BYTES:
        raise APIError(
            413,
            f"The body of a question about tokens may have at most {MAX_TOKENIZED_BYTES} bytes.",
        )
    return await offload(size, work, TOKENIZING)


class AnsweredRoute(APIRoute):
    """A route whose failures are answered inside the CORS middleware, where a browser can read even a 500.

    A body goes from its bytes straight to pydantic, whatever its Content-Type says (curl's -d says a form), and with
    the request to the endpoint: FastAPI's own way there costs more than the validation.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler() if self.body_field is None else self._handle_body

        async def answer(request: Request) -> Response:
            record = request_record(request.scope)
            record.path = self.path
            try:
                return await handle(request)
            except Exception as failure:  # noqa: BLE001 - answered, and logged if unexpected
                return to_response(to_api_error(failure, record.id))

        return answer

    async def _handle_body(self, request: Request) -> Response:
        coding = to_coding(
            [value for name, value in request.scope["headers"] if name == b"content-encoding"]
        )
        sent = await request.body()
        if coding is not None:  # however short, it may say much
            sent = await READING.run(
                partial(decompress, sent, coding, request.app.state.max_body_bytes)
            )
        sent = sent.removeprefix(codecs.BOM_UTF8)
        size = request_record(request.scope).body_bytes = len(sent)
        body_field: Any = self.body_field
        body = await offload(size, partial(_read, body_field.field_info.annotation, sent))
        reply: Response = await self.endpoint(body, request)
        return reply


def _read(model: type[BaseModel], sent: bytes) -> BaseModel:
    if len(sent) > MAX_VALUES and sum(map(sent.count, (b",", b":", b"[", b"{"))) > MAX_VALUES:
        raise APIError(
            413, f"The request body has more than {MAX_VALUES} commas, colons and opening brackets."
        )
    try:
        return model.model_validate_json(sent)
    except ValidationError as failure:
        raise _to_bad_request(
            failure.errors(include_url=False, include_input=False)[0]
        ) from failure


def _to_bad_request(fault: ErrorDetails) -> APIError:
    """A fault that pydantic found, as a 400 that names the field with its path."""
    step = fault.get("ctx", {}).get("step")  # of what a validator of ours found inside a value
    param = _path(fault["loc"] if step is None else (*fault["loc"], step))
    if fault["type"] == "json_invalid":
        return bad_request(f"The request body is not valid JSON: {fault['ctx']['error']}.")
    if not param and fault["type"] != "value_error":
        return bad_request("The request body must be a JSON object.")
    if fault["type"] == "missing":
        return bad_request(f"The field '{param}' is required.", param)
    reason = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    subject = f"Invalid value for '{param}'" if param else "Invalid request body"
    return bad_request(f"{subject}: {reason[:1].lower()}{reason[1:]}.", param)


def _path(location: Sequence[int | str]) -> str:
    path = ""
    for step in location:
        if path == "logit_bias":  # what follows is the client's own text
            break
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    return path
