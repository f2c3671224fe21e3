"""Request bodies: JSON that is received, decompressed, validated, and handed to an endpoint as a pydantic model.

A long body is decompressed and validated in a thread (`offload`).
"""

import codecs
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from errors import APIError, bad_request
from server.content_coding import decompress, to_coding
from server.error_responses import to_api_error, to_response
from server.offload import offload
from server.request_record import request_record

CLOSE = {"Connection": "close"}
MAX_VALUES = 2**18
"""Commas, colons and opening brackets of a body: many small values take far longer to read than a long text."""


class JSONRoute(APIRoute):
    """A FastAPI route whose endpoint, if it has a body, is called with its model and the request.

    The body is read as JSON whatever its Content-Type: `curl -d` says that it is a form. FastAPI would parse it to a
    dict, solve the endpoint's dependencies and keep two stacks for what these open, which takes longer than pydantic's
    validation of the bytes.

    Exceptions are answered here, within the CORS middleware: without its headers no browser would let a page of another
    origin read even a 500.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        if self.body_field is not None:
            self.app = self._respond

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return partial(self._answer, super().get_route_handler())

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(self._handle_body, Request(scope, receive, send))
        await response(scope, receive, send)

    async def _answer(
        self, handle: Callable[[Request], Awaitable[Response]], request: Request
    ) -> Response:
        record = request_record(request.scope)
        record.path = self.path
        try:
            _check_announced(request)
            return await handle(request)
        except Exception as failure:  # noqa: BLE001 - answered, and logged if unexpected
            return to_response(to_api_error(failure, record.id))

    async def _handle_body(self, request: Request) -> Response:
        body = await _read(request)
        request_record(request.scope).body_bytes = len(body)
        body_field: Any = self.body_field
        model = body_field.field_info.annotation
        validated = await offload(request, partial(_validate, model, body))
        reply: Response = await self.endpoint(validated, request)
        return reply


async def _read(request: Request) -> bytes:
    """A request's body, decompressed, without a byte order mark; raises APIError."""
    fields = [value for name, value in request.scope["headers"] if name == b"content-encoding"]
    coding = to_coding(fields) if fields else None
    body = await _receive(request)
    if coding is not None:
        # Always in the thread: a short body may become a long one.
        state = request.app.state
        body = await state.body_thread.run(partial(decompress, body, coding, state.max_body_bytes))
    return body.removeprefix(codecs.BOM_UTF8)


async def _receive(request: Request) -> bytes:
    """A body as it is sent; raises APIError for one that is larger than `max_body_bytes` (413) or comes too late (408).

    The connection has the timer, and marks the request's record when the time is over: a timer of its own for each
    request would cost more.
    """
    limit: int = request.app.state.max_body_bytes
    body, has_more = bytearray(), True
    while has_more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if request_record(request.scope).is_body_late:
            raise APIError(408, "The request body did not arrive in time.", headers=CLOSE)
        body += message.pop("body", b"")  # what has come would be held twice until more comes
        has_more = message.get("more_body", False)
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _check_announced(request: Request) -> None:
    """Raise APIError (413) for a body whose Content-Length is too large, before it is read, or where none is read."""
    limit: int = request.app.state.max_body_bytes
    length = dict(request.scope["headers"]).get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> APIError:
    return APIError(413, f"The request body is larger than {limit} bytes.", headers=CLOSE)


def _validate(model: type[BaseModel], body: bytes) -> BaseModel:
    if len(body) > MAX_VALUES:  # nearly all bodies are so short that they need not be searched
        _check_values(body)
    try:
        return model.model_validate_json(body)
    except ValidationError as failure:
        raise _to_bad_request(
            failure.errors(include_url=False, include_input=False)[0]
        ) from failure


def _check_values(body: bytes) -> None:
    if sum(map(body.count, (b",", b":", b"[", b"{"))) > MAX_VALUES:
        reason = f"The request body has more than {MAX_VALUES} commas, colons and opening brackets."
        raise APIError(413, reason)


def _to_bad_request(error: ErrorDetails) -> APIError:
    """An error of pydantic's as a 400 that names the field by its path, such as `messages[0].role`."""
    # Our validators of a field put into the context where the error is within its value.
    step = error.get("ctx", {}).get("step")
    param = _to_path(error["loc"] if step is None else (*error["loc"], step))
    if error["type"] == "json_invalid":
        return bad_request(f"The request body is not valid JSON: {error['ctx']['error']}.")
    if not param and error["type"] != "value_error":
        return bad_request("The request body must be a JSON object.")
    if error["type"] == "missing":
        return bad_request(f"The field '{param}' is required.", param)
    reason = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    subject = f"Invalid value for '{param}'" if param else "Invalid request body"
    return bad_request(f"{subject}: {reason[:1].lower()}{reason[1:]}.", param)


def _to_path(location: Sequence[int | str]) -> str:
    path = ""
    for step in location:
        if path == ".logit_bias":
            break  # its keys are the client's own text, which no error repeats
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.removeprefix(".")
