"""Every failure a client can see: one exception, one JSON shape.

The shape is OpenAI's `{"error": {"message", "type", "param", "code"}}`, at most 1 KB, and says nothing that the
client did not need to know: no stack, no path, no echo of its input.
"""

import asyncio
import codecs
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from pydantic_core import ErrorDetails, to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARACTERS = 240
MAX_PARAM_CHARACTERS = 60
LONG_BODY = 64 * 1024
"""Bytes from which a body is read in a thread, so that other streams do not wait."""


@dataclass(eq=False)
class APIError(Exception):
    """A failure with its HTTP status; raised anywhere, answered in one place."""

    status: int
    message: str
    _: KW_ONLY
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] | None = None

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> bytes:
        """The error body, also the payload of a stream's error event."""
        error = {
            "message": _shortened(self.message, MAX_MESSAGE_CHARACTERS),
            "type": "invalid_request_error" if self.status < 500 else "server_error",
            "param": self.param and _shortened(self.param, MAX_PARAM_CHARACTERS),
            "code": self.code,
        }
        return to_json({"error": error})

    def to_response(self) -> Response:
        return Response(self.to_json(), self.status, self.headers, "application/json")


def bad_request(message: str, param: str | None = None, code: str | None = None) -> APIError:
    """A 400 that names the field at fault."""
    return APIError(400, message, param=param, code=code)


def unavailable(message: str, code: str) -> APIError:
    """A 503: the same request may succeed a second later."""
    return APIError(503, message, code=code, headers={"Retry-After": "1"})


def to_api_error(failure: BaseException) -> APIError:
    """Any exception as the client may see it; the unexpected is logged here and says nothing outside."""
    match failure:
        case APIError():
            return failure
        case ClientDisconnect():
            return bad_request("The request body did not arrive.")
        case HTTPException(status_code=404):
            return APIError(404, "Unknown path.", code="not_found")
        case HTTPException():
            return APIError(failure.status_code, f"{failure.detail}.", headers=failure.headers)
    logger.error("unexpected failure", exc_info=failure)
    return APIError(500, "The server failed unexpectedly; the failure is in its log.")


async def answer_failure(_: Request, failure: Exception) -> Response:
    """For failures outside the routes: unknown paths and wrong methods."""
    return to_api_error(failure).to_response()


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
        body_field: Any = self.body_field
        read = body_field.field_info.annotation.model_validate_json
        try:
            body = read(sent) if len(sent) < LONG_BODY else await asyncio.to_thread(read, sent)
        except ValidationError as failure:
            raise _to_bad_request(failure.errors(include_url=False, include_input=False)[0]) from failure
        reply: Response = await self.endpoint(body, request)
        return reply


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


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
