"""The chat page at `/`: a fixed list of files, read at start, under a policy that runs no script of others."""

import hashlib
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).resolve().parent.parent / "page"
INDEX = "index.html"
OWN = (
    INDEX, "page.css", "panels.css", "icon.svg", "main.js", "server.js", "conversation.js", "storage.js", "thread.js",
    "composer.js", "parameters.js", "prompt.js", "probabilities.js", "request.js", "markdown.js", "words.js", "dom.js",
)  # fmt: skip
FILES = {name: name for name in OWN} | {
    "marked.js": "node_modules/marked/lib/marked.esm.js",
    "highlight.js": "node_modules/@highlightjs/cdn-assets/es/highlight.min.js",
    "katex.js": "node_modules/katex/dist/katex.min.js",
}
"""The file of each served name. The page does without a library that is not installed."""
PATHS = frozenset({"/", *(f"/page/{name}" for name in FILES)})
"""They need no key: the page asks its reader for one."""
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
"""Of all files but the icon, each with its charset added by Starlette."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Read the page's files and add its two paths to the app."""
    found = {name: FOLDER / file for name, file in FILES.items() if (FOLDER / file).is_file()}
    contents = {name: file.read_bytes() for name, file in found.items()}
    tags = {name: f'"{hashlib.sha256(read).hexdigest()[:32]}"' for name, read in contents.items()}

    async def get_index(request: Request) -> Response:
        """The page; its links are relative, so that a path without its last slash is sent to the one with it."""
        path = request.scope["raw_path"].decode("ascii")
        if path.endswith("/"):
            return to_response(INDEX, request)
        return Response(status_code=307, headers={"Location": f"./{path.rpartition('/')[2]}/"})

    async def get_file(request: Request) -> Response:
        """A file of the page."""
        return to_response(request.path_params["name"], request)

    def to_response(name: str, request: Request) -> Response:
        """A file, 304 to a browser that has it, or an HTTPException (404)."""
        if name not in contents:
            raise HTTPException(404)
        headers = HEADERS | {"ETag": tags[name]}
        if tags[name] in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        kind = TYPES.get(Path(name).suffix, "image/svg+xml")
        return Response(contents[name], headers=headers, media_type=kind)

    # Not by FastAPI's own routes, which would answer a 404 themselves.
    methods = ["GET", "HEAD"]
    app.add_route("/", get_index, methods, include_in_schema=False)
    app.add_route("/page/{name}", get_file, methods, include_in_schema=False)
