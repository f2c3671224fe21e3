"""A request's body, from its bytes to what it asks for: in a thread where that takes long, a piece at a time.

Python runs one thread at a time: with more of them, the event loop would wait for each in turn.
"""

import asyncio
import codecs
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from errors import APIError, bad_request, to_api_error

LONG = 8 * 1024
"""Bytes of a request from which it is read beside the loop: below, that costs less than the hop."""

MAX_VALUES = 2**18
"""Commas, colons and opening brackets of a body: many small values take far longer to read than a long text."""
READING = ThreadPoolExecutor(1, thread_name_prefix="reading")
COUNTING = ThreadPoolExecutor(1, thread_name_prefix="counting")
MAX_COUNTED_BYTES = 2**20

Result = TypeVar("Result")


async def aside(size: int, work: Callable[[], Result], thread: Executor = READING) -> Result:
    """`work()`, in the thread if `size` is long."""
    if size < LONG:
        return work()
    return await asyncio.get_running_loop().run_in_executor(thread, work)


async def count(request: Request, work: Callable[[], Result]) -> Result:
    """`work()`, about tokens alone: it may take long, and delays nothing that is to be generated."""
    size = request.state.size
    if size > MAX_COUNTED_BYTES:
        raise APIError(413, f"The body of a question about tokens may have at most {MAX_COUNTED_BYTES} bytes.")
    return await aside(size, work, COUNTING)


class AnsweredRoute(APIRoute):
    """A route whose failures are answered inside the CORS middleware, where a browser can read even a 500.

    A body goes from its bytes straight to pydantic, whatever its Content-Type says (curl's -d says a form), and with
    the request to the endpoint: FastAPI's own way there costs more than the validation.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler() if self.body_field is None else self._handle_body

        async def answer(request: Request) -> Response:
            request.state.path = self.path  # for the log
            try:
                return await handle(request)
            except Exception as failure:  # noqa: BLE001 - answered, and logged if unexpected
                return to_api_error(failure).to_response()

        return answer

    async def _handle_body(self, request: Request) -> Response:
        sent = (await request.body()).removeprefix(codecs.BOM_UTF8)
        size = request.state.size = len(sent)
        body_field: Any = self.body_field
        body = await aside(size, partial(_read, body_field.field_info.annotation, sent))
        reply: Response = await self.endpoint(body, request)
        return reply


def _read(model: type[BaseModel], sent: bytes) -> BaseModel:
    if len(sent) > MAX_VALUES and sum(map(sent.count, (b",", b":", b"[", b"{"))) > MAX_VALUES:
        raise APIError(413, f"The request body has more than {MAX_VALUES} commas, colons and opening brackets.")
    try:
        return model.model_validate_json(sent)
    except ValidationError as failure:
        raise _to_bad_request(failure.errors(include_url=False, include_input=False)[0]) from failure


def _to_bad_request(fault: ErrorDetails) -> APIError:
    """A fault that pydantic found, as a 400 that names the field with its path."""
    param = _path(fault["loc"])
    if fault["type"] == "json_invalid":
        return bad_request(f"The request body is not valid JSON: {fault['ctx']['error']}.")
    if not param:
        return bad_request("The request body must be a JSON object.")
    if fault["type"] == "missing":
        return bad_request(f"The field '{param}' is required.", param)
    reason = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    return bad_request(f"Invalid value for '{param}': {reason[:1].lower()}{reason[1:]}.", param)


def _path(location: Sequence[int | str]) -> str:
    path = ""
    for step in location:
        if path == "logit_bias":  # what follows is the client's own text
            break
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    return path
