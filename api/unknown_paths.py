"""What a 404 says of a path that is not here: which it is, and what is likely to have been meant."""

from fastapi import Request
from starlette.responses import Response
from starlette.routing import Route

from errors import APIError, shown
from server.error_responses import to_response

MAX_PATH_SHOWN = 64
BASE_URL = "the base URL of this server ends in /v1"
TEXT_ONLY = "Its model writes text alone: ask another server for anything else."
STATELESS = "It keeps nothing between requests: send all that matters to /v1/chat/completions."
ANTHROPIC = "It has OpenAI's API, not Anthropic's: use /v1/chat/completions."
ADVICE = {
    "embeddings": "It makes no embeddings: ask another server for them.",
    "images": TEXT_ONLY,
    "videos": TEXT_ONLY,
    "audio": TEXT_ONLY,
    "realtime": TEXT_ONLY,
    "moderations": TEXT_ONLY,
    "fine_tuning": TEXT_ONLY,
    "rerank": TEXT_ONLY,
    "score": TEXT_ONLY,
    "files": STATELESS,
    "uploads": STATELESS,
    "batches": STATELESS,
    "vector_stores": STATELESS,
    "containers": STATELESS,
    "assistants": STATELESS,
    "threads": STATELESS,
    "conversations": STATELESS,
    "messages": ANTHROPIC,
    "complete": ANTHROPIC,
    "api": f"It has OpenAI's API, not Ollama's: {BASE_URL}.",
    "models": f"See /v1/models: {BASE_URL}.",
}
"""What to do, by the first part of a path after its `/v1`: paths of other APIs, and of OpenAI's that are not here."""


async def answer_unknown_path(request: Request, _: Exception) -> Response:
    """Starlette's exception handler for a path that has no route, or no file: 404."""
    routes = [route.path for route in request.app.routes if isinstance(route, Route)]
    root = request.scope.get("root_path", "")
    # It begins with the prefix of --root-path, and again if the client or a proxy has put it there.
    path = request.scope["path"].removeprefix(root)
    advice = _advice(path.removeprefix(root), routes)
    message = f"This server has no path '{shown(path, MAX_PATH_SHOWN)}'. {advice}"
    return to_response(APIError(404, message, code="not_found"))


def _advice(path: str, routes: list[str]) -> str:
    """What to do instead, in a sentence."""
    ends = [route for route in routes if path.endswith(route.removeprefix("/v1"))]
    versioned = [route for route in ends if route.startswith("/v1/")]
    if versioned:
        return f"See {max(versioned, key=len)}: {BASE_URL}."
    if ends and path == f"/v1{ends[0]}":
        return f"See {ends[0]}, which is not under /v1."
    first = next((part for part in path.split("/") if part not in ("", "v1")), "")
    return ADVICE.get(first, "Those that it has are at /docs.")
