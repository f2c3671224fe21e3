"""Exceptions as HTTP responses: each becomes an APIError, and that a JSON body with its status."""

import logging

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from errors import APIError, bad_request

logger = logging.getLogger(__name__)


def to_response(failure: APIError) -> Response:
    """The response for a failure whose request has not been answered yet."""
    return Response(failure.to_json(), failure.status, failure.headers, "application/json")


def to_api_error(failure: BaseException, request_id: str = "unknown") -> APIError:
    """The APIError that a client gets for any exception.

    An exception that nobody foresaw is logged with its traceback and the request's id; its client gets a 500 that does
    not repeat what it says.
    """
    match failure:
        case APIError():
            return failure
        case ClientDisconnect():
            return bad_request("The request body did not arrive.")
        case HTTPException():
            return APIError(failure.status_code, f"{failure.detail}.", headers=failure.headers)
    logger.error("unexpected failure of request %s", request_id, exc_info=failure)
    return APIError(500, "The server failed unexpectedly; the failure is in its log.")


async def answer_failure(_: Request, failure: Exception) -> Response:
    """Starlette's exception handler for requests that no endpoint answers, such as those of a wrong method (405)."""
    return to_response(to_api_error(failure))
