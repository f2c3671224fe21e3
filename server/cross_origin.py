"""CORS: which pages of other origins may ask this server."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from errors import APIError
from server.error_responses import to_response

NOT_IN_REFUSALS = ("content-", "access-control-allow-private-network")
"""What the headers begin with that a refused preflight request does not get."""


class CrossOrigin(CORSMiddleware):
    """Starlette's CORS middleware, with a refused preflight request answered as every other error is.

    Starlette grants access to a private network (`Access-Control-Allow-Private-Network`) also where it refuses; here
    the refusal is without it.
    """

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        kept = {
            name: value
            for name, value in response.headers.items()
            if not name.startswith(NOT_IN_REFUSALS)
        }
        refusal = "This origin, method or header is not allowed."
        return to_response(APIError(response.status_code, refusal, headers=kept))
