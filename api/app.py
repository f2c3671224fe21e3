"""The app around an engine: its routes, the endpoints that generate nothing, and the middleware around them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Path, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

import protocol
from api.adapters import AdapterEndpoints
from api.admission import Admission
from api.endpoints import GenerationEndpoints
from api.models import Model, ModelList, to_model
from api.responses import refuse
from api.responses_protocol import ResponsesReply, ResponsesRequest
from api.tokens import Detokenized, TokenEndpoints, Tokens
from api.unknown_paths import answer_unknown_path
from generation import Engine
from prompt_template import PromptTemplate
from server.access_log import AccessLog, Log
from server.cross_origin import CrossOrigin
from server.error_responses import answer_failure
from server.metrics import Metrics
from server.middleware import APIKeys, CanonicalPaths
from server.offload import PausingThread
from server.page import PATHS, add_page
from server.request_body import JSONRoute
from server.uvicorn_server import watch
from settings import Settings

VERSION = "1.0.0"
ModelId = Annotated[str, Path(description="A served model's name, which may hold slashes.")]
ERRORS: dict[int | str, Any] = {status: {"model": protocol.ErrorReply} for status in ("4XX", "5XX")}
STREAMS = {**ERRORS, 200: {"content": {"text/event-stream": {}}}}


class ServerEndpoints:
    """The endpoints that tell of the server: its models, its health, its numbers."""

    def __init__(self, admission: Admission, metrics: Metrics) -> None:
        self._engine, self._models, self._metrics = admission.engine, admission.models, metrics

    async def list_models(self) -> ModelList:
        """The served models: one, under all its names, and the adapters beside it."""
        self._engine.check_ready()
        return self._models.to_list(self._engine.max_model_len)

    async def get_model(self, model_id: ModelId) -> Model:
        """One served model; its id may hold slashes, also a first one, which is lost among those of the path."""
        self._engine.check_ready()
        served = self._models.find(f"/{model_id}" if f"/{model_id}" in self._models else model_id)
        return to_model(served, self._engine.max_model_len)

    async def health(self) -> Response:
        """200 when requests will be answered, 503 while the model loads or after the engine died."""
        self._engine.check_ready()
        return Response()

    async def metrics(self) -> Response:
        """Numbers for Prometheus, of this server and of vLLM's engine."""
        return Response(self._metrics.to_text(), media_type=CONTENT_TYPE_LATEST)

    async def version(self) -> dict[str, str]:
        """This server's version."""
        return {"version": VERSION}


def build_app(
    engine: Engine,
    template: PromptTemplate,
    settings: Settings,
    log: Log | None = None,
    started: Callable[[asyncio.Task[None]], None] | None = None,
    died: Callable[[], None] | None = None,
) -> FastAPI:
    """The app around an engine, which it starts and stops.

    `started` is told when loading has ended, or failed, and `died` when the engine has died.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(engine.start())
        if started is not None:
            loading.add_done_callback(started)
        watching = asyncio.create_task(watch(engine, died))
        yield
        loading.cancel()
        watching.cancel()
        engine.stop()

    app = FastAPIOffline(
        title="Chinese-LLaMA-Alpaca-2 API",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    documentation = len(app.router.routes)
    app.router.route_class = JSONRoute
    app.state.max_body_bytes, app.state.body_thread = settings.max_body_bytes, PausingThread()
    app.state.metrics = metrics = Metrics()
    metrics.engine_requests.set_function(lambda: engine.unfinished)
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks()))
    admission = Admission(engine, template, settings)
    app.state.models = admission.models
    add_routes(app, ServerEndpoints(admission, metrics), admission)
    if settings.allow_lora_updates:
        add_adapter_routes(app, AdapterEndpoints(admission))
    if settings.page:
        add_page(app)
    routes = app.router.routes  # are tried in turn: those of the documentation last
    routes[:] = [*routes[documentation:], *routes[:documentation]]
    show_defaults(app, admission.defaults)
    app.add_exception_handler(HTTPException, answer_failure)
    app.add_exception_handler(404, answer_unknown_path)
    add_middleware(app, settings, log, metrics)
    return app


def add_middleware(app: FastAPI, settings: Settings, log: Log | None, metrics: Metrics) -> None:
    """Put what every request passes around the app; the last is the outermost."""
    open_paths = {"/health"} | (PATHS if settings.page else set())
    app.add_middleware(APIKeys, keys=settings.api_key, open_paths=open_paths)
    app.add_middleware(CanonicalPaths)
    app.add_middleware(
        CrossOrigin,
        allow_origins=settings.allowed_origins,
        allow_methods=settings.allowed_methods,
        allow_headers=settings.allowed_headers,
        allow_credentials=settings.allow_credentials,
        allow_private_network=True,  # to origins that are allowed: a public page asks the server on its user's machine
        expose_headers=["X-Ignored-Parameters", "X-Request-Id"],
    )
    app.add_middleware(AccessLog, log=log, log_format=settings.log_format, metrics=metrics)


def add_adapter_routes(app: FastAPI, adapters: AdapterEndpoints) -> None:
    app.post("/v1/load_lora_adapter", responses=ERRORS)(adapters.load)
    app.post("/v1/unload_lora_adapter", responses=ERRORS)(adapters.unload)


def show_defaults(app: FastAPI, defaults: Mapping[str, Any]) -> None:
    """Let `/docs` and `/openapi.json` show the server's own defaults of sampling fields."""
    to_schema = app.openapi

    def openapi() -> dict[str, Any]:
        schema = to_schema()
        for body in (protocol.CompletionRequest, protocol.ChatCompletionRequest, ResponsesRequest):
            fields = schema["components"]["schemas"][body.__name__]["properties"]
            for name, value in defaults.items():
                fields[name]["default"] = value
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def add_routes(app: FastAPI, server: ServerEndpoints, admission: Admission) -> None:
    """Every path that this server answers."""
    generating, tokens = GenerationEndpoints(admission), TokenEndpoints(admission)
    app.post("/v1/chat/completions", response_model=protocol.ChatCompletion, responses=STREAMS)(
        generating.create_chat_completion
    )
    app.post("/v1/completions", response_model=protocol.Completion, responses=STREAMS)(
        generating.create_completion
    )
    app.post("/v1/responses", response_model=ResponsesReply, responses=STREAMS)(
        generating.create_response
    )
    app.api_route(
        "/v1/responses/{response_id:path}",
        methods=["GET", "POST", "DELETE"],
        include_in_schema=False,
    )(refuse)
    app.get("/v1/models", responses=ERRORS)(server.list_models)
    app.get("/v1/models/{model_id:path}", responses=ERRORS)(server.get_model)
    app.post("/tokenize", response_model=Tokens, responses=ERRORS)(tokens.tokenize)
    app.post("/detokenize", response_model=Detokenized, responses=ERRORS)(tokens.detokenize)
    app.get("/health", responses=ERRORS, response_class=Response)(server.health)
    app.head("/health", include_in_schema=False)(server.health)
    app.get("/metrics", response_class=Response, responses=ERRORS)(server.metrics)
    app.get("/version")(server.version)
