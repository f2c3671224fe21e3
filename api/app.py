"""The app around an engine: the endpoints, each a few lines, and the middleware around them.

An endpoint accepts its body (`admission`), and answers the generation whole or as a stream (`replies`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import protocol
from api.adapters import AdapterEndpoints
from api.admission import Admission
from api.chat import chat_chunks, chat_completion
from api.completions import completion, completion_chunks
from api.events import OPENAI_STREAM
from api.ignored_fields import ignored_header, to_response
from api.models import Model, ModelList, to_model
from api.responses import ResponseStream, refuse, whole_response
from api.responses_input import accept_response
from api.responses_protocol import ResponsesReply, ResponsesRequest
from api.tokens import Detokenized, TokenEndpoints, Tokens
from api.unknown_paths import answer_unknown_path
from generation import Engine, Generation, Source
from prompt_template import PromptTemplate
from prompts.encoder import Encoder
from server.access_log import CLIENT_CLOSED_REQUEST, AccessLog, Log
from server.error_responses import answer_failure
from server.event_stream import EventStream, StreamFormat, while_connected
from server.metrics import Metrics
from server.middleware import APIKeys, BodyLimits, CanonicalPaths, CrossOrigin
from server.offload import PausingThread
from server.page import PATHS, add_page
from server.request_body import JSONRoute
from server.uvicorn_server import watch
from settings import Settings

VERSION = "0.1.0"
ERRORS: dict[int | str, Any] = {status: {"model": protocol.ErrorReply} for status in ("4XX", "5XX")}
STREAMS = {**ERRORS, 200: {"content": {"text/event-stream": {}}}}

Body = TypeVar("Body", bound=protocol.SentBody)


class Endpoints:
    """The endpoints of one engine; what they share stands below them."""

    def __init__(
        self, engine: Engine, template: PromptTemplate, settings: Settings, metrics: Metrics
    ) -> None:
        self.engine, self.encoder, self.settings = engine, template.encoder, settings
        self._metrics = metrics
        self.admission = Admission(engine, template, settings)

    async def create_completion(
        self, body: protocol.CompletionRequest, request: Request
    ) -> Response:
        """The reply to a prompt, which is put into the model's instruction template unless it is raw."""
        generation = await self.admission.accept(body, request)
        return await self._answer(generation, body, request, completion, completion_chunks)

    async def create_chat_completion(
        self, body: protocol.ChatCompletionRequest, request: Request
    ) -> Response:
        """The assistant's answer to a conversation."""
        generation = await self.admission.accept(body, request)
        return await self._answer(generation, body, request, chat_completion, chat_chunks)

    async def create_response(self, body: ResponsesRequest, request: Request) -> Response:
        """The answer to a conversation, as a list of items; nothing is stored."""
        generation = await accept_response(self.admission, body, request)
        stream = ResponseStream(generation, body, self.encoder)
        stream_format = StreamFormat(stream.failure_events, last_event=b"")
        return await self._answer(
            generation, body, request, whole_response, lambda *_: stream.events, stream_format
        )

    async def list_models(self) -> ModelList:
        """The served models: one, under all its names, and the adapters beside it."""
        self.engine.check_ready()
        return self.admission.models.to_list(self.engine.max_model_len)

    async def get_model(self, model_id: str) -> Model:
        """One served model; its id may hold slashes, also a first one, which is lost among those of the path."""
        self.engine.check_ready()
        models = self.admission.models
        served = models.find(f"/{model_id}" if f"/{model_id}" in models else model_id)
        return to_model(served, self.engine.max_model_len)

    async def health(self) -> Response:
        """200 when requests will be answered, 503 while the model loads or after the engine died."""
        self.engine.check_ready()
        return Response()

    async def metrics(self) -> Response:
        """Numbers for Prometheus, of this server and of vLLM's engine."""
        return Response(self._metrics.to_text(), media_type=CONTENT_TYPE_LATEST)

    async def version(self) -> dict[str, str]:
        """This server's version."""
        return {"version": VERSION}

    async def _answer(
        self,
        generation: Generation,
        body: Body,
        request: Request,
        whole: Callable[[Generation, Body, Encoder], Awaitable[BaseModel]],
        streamed: Callable[[Generation, Body, Encoder], Source[bytes]],
        stream_format: StreamFormat = OPENAI_STREAM,
    ) -> Response:
        """The generation as a stream, or as one body unless the client leaves before it is there."""
        headers, settings = ignored_header(generation.ignored), self.settings
        if generation.decoding.stream:
            events = streamed(generation, body, self.encoder)
            return EventStream(
                events, stream_format, headers, settings.request_timeout, settings.sse_keep_alive
            )
        reply = whole(generation, body, self.encoder)
        try:
            item = await while_connected(request.receive, reply, settings.request_timeout)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return to_response(item, generation.ignored)


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
    app.router.route_class = JSONRoute
    app.state.max_body_bytes = settings.max_body_bytes
    app.state.body_thread = PausingThread()
    app.state.token_thread = PausingThread()
    app.state.metrics = metrics = Metrics()
    metrics.engine_requests.set_function(lambda: engine.unfinished)
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks()))
    endpoints = Endpoints(engine, template, settings, metrics)
    add_routes(app, endpoints, TokenEndpoints(endpoints.admission))
    if settings.allow_lora_updates:
        add_adapter_routes(app, AdapterEndpoints(endpoints.admission))
    if settings.page:
        add_page(app)
    show_defaults(app, endpoints.admission.defaults)
    app.add_exception_handler(HTTPException, answer_failure)
    app.add_exception_handler(404, answer_unknown_path)
    add_middleware(app, settings, log, metrics)
    return app


def add_middleware(app: FastAPI, settings: Settings, log: Log | None, metrics: Metrics) -> None:
    """Put what every request passes around the app; the last is the outermost."""
    app.add_middleware(BodyLimits, max_bytes=settings.max_body_bytes)
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


def add_routes(app: FastAPI, endpoints: Endpoints, tokens: TokenEndpoints) -> None:
    """Every path that this server answers."""
    app.post("/v1/completions", response_model=protocol.Completion, responses=STREAMS)(
        endpoints.create_completion
    )
    app.post("/v1/chat/completions", response_model=protocol.ChatCompletion, responses=STREAMS)(
        endpoints.create_chat_completion
    )
    app.post("/v1/responses", response_model=ResponsesReply, responses=STREAMS)(
        endpoints.create_response
    )
    app.api_route(
        "/v1/responses/{response_id:path}",
        methods=["GET", "POST", "DELETE"],
        include_in_schema=False,
    )(refuse)
    app.get("/v1/models", responses=ERRORS)(endpoints.list_models)
    app.get("/v1/models/{model_id:path}", responses=ERRORS)(endpoints.get_model)
    app.post("/tokenize", response_model=Tokens, responses=ERRORS)(tokens.tokenize)
    app.post("/detokenize", response_model=Detokenized, responses=ERRORS)(tokens.detokenize)
    app.get("/health", responses=ERRORS, response_class=Response)(endpoints.health)
    app.head("/health", include_in_schema=False)(endpoints.health)
    app.get("/metrics", response_class=Response, responses=ERRORS)(endpoints.metrics)
    app.get("/version")(endpoints.version)
