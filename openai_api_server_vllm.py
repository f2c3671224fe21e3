"""An OpenAI-compatible server for Chinese-LLaMA-Alpaca-2 on vLLM: the routes, the app, the command.

The way of a request: `reading` validates the body, `prompt_template` makes prompt ids, `generation` accepts it, the
engine pushes deltas, `replies` gives them OpenAI's shapes, `streaming` sends them.
"""

import asyncio
import gc
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import protocol
import startup
from calls import describe, read_calls
from encoder import encode_word
from errors import answer_failure, bad_request
from generation import (
    Engine,
    Generation,
    Prompt,
    check_fields,
    check_length,
    check_model,
    check_tools,
    start_generation,
    truncate,
)
from journal import CLIENT_LEFT, ENGINE_REQUESTS, TASKS, Journal, Log, keep_texts
from middleware import Arrival, CanonicalPaths, CrossOrigin, Http1Connection, Keys
from model_files import check_model_files
from operation import DrainingServer, end_on_signals
from prompt_template import PromptTemplate, load_prompt_template
from protocol import ChatCompletion, ChatCompletionRequest, Completion, CompletionRequest, GenerationFields, to_defaults
from reading import AnsweredRoute, aside, count
from replies import Frames, chat_chunks, chat_completion, completion, completion_chunks
from settings import Settings, StartError, bind_sockets, check_settings, explained, parse_settings, read_keys
from streaming import EventStream, while_connected
from unix_socket import UnixSocket

VERSION = "0.1.0"
MAX_NAMES, MAX_NAME_CHARACTERS = 20, 40
MAX_CUT_CHARACTERS = 2**20
SAME_IN_UVICORN = ("log_level", "timeout_keep_alive", "ssl_keyfile", "ssl_certfile")
ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": protocol.ErrorReply} for status in ("4XX", "5XX")}
STREAMS = {**ERRORS, 200: {"content": {"text/event-stream": {}}}}

Started = Callable[[asyncio.Task[None]], None]


class Routes:
    """The endpoints, each a handful of lines; what they share stands below the class."""

    def __init__(self, engine: Engine, template: PromptTemplate, settings: Settings) -> None:
        self.engine = engine
        self.template, self.encoder = template, template.encoder
        self.settings = settings
        self.created = int(time.time())
        self.defaults = to_defaults(settings.override_generation_config)

    async def create_completion(self, body: CompletionRequest, request: Request) -> Response:
        """The reply to a prompt, which is put into the model's instruction template unless it is raw."""
        body = body.with_defaults(self.defaults)
        check_fields(body)
        self.engine.admit(len(body.prompt) * body.width)  # before they are encoded
        self._check_length(max((len(prompt) for prompt in body.prompt if isinstance(prompt, str)), default=0), body)
        render = partial(self._completion_prompt, raw=body.raw, echo=body.echo)
        prompts = await aside(request.state.size, lambda: [*map(render, body.prompt)])
        generation = self._start(body, prompts, request)
        if body.stream:
            return self._stream(body, completion_chunks(generation, body, self.encoder))
        return await self._whole(body, request, completion(generation, body, self.encoder))

    async def create_chat_completion(self, body: ChatCompletionRequest, request: Request) -> Response:
        """The assistant's answer to a conversation."""
        body = body.with_defaults(self.defaults)
        check_fields(body)
        self.engine.admit(body.width)
        prompt = await aside(request.state.size, lambda: self._chat_prompt(body))
        generation = self._start(body, [prompt], request)
        if body.callable_functions:
            generation.source = read_calls(generation.source, body.callable_functions)
        if body.stream:
            return self._stream(body, chat_chunks(generation, body, self.encoder))
        return await self._whole(body, request, chat_completion(generation, body, self.encoder))

    async def list_models(self) -> protocol.ModelList:
        """The served models: one, under all its names."""
        self.engine.check_ready()
        return protocol.ModelList(data=[self._model(name) for name in self.settings.model_names])

    async def get_model(self, model_id: str) -> protocol.Model:
        """One served model; its id may hold slashes, also a first one, which is lost among those of the path."""
        self.engine.check_ready()
        names = self.settings.model_names
        return self._model(check_model(f"/{model_id}" if f"/{model_id}" in names else model_id, names))

    async def tokenize(self, body: protocol.TokenizeRequest, request: Request) -> Response:
        """The exact prompt that the same prompt or messages would be sent as."""
        self.engine.check_ready()
        return await count(request, lambda: self._tokenize(body))

    async def detokenize(self, body: protocol.DetokenizeRequest, request: Request) -> Response:
        """The text of token ids, control tokens spelt out."""
        check_model(body.model, self.settings.model_names)
        text = await count(request, lambda: self._decode(body.tokens, "tokens"))
        return to_response(protocol.Detokenized(prompt=text), body.unknown_fields)

    def _tokenize(self, body: protocol.TokenizeRequest) -> Response:
        check_model(body.model, self.settings.model_names)
        check_tools(body)
        if (body.prompt is None) == (not body.messages):
            raise bad_request("Give either 'prompt' or 'messages'.", "prompt")
        if body.prompt is not None:
            prompt = self._completion_prompt(body.prompt, body.raw)
        elif body.add_generation_prompt or body.messages[-1].role == "assistant":
            prompt = self._chat_prompt(body)
        else:
            raise bad_request("A prompt for an answer cannot be had without its beginning.", "add_generation_prompt")
        is_cut = body.prompt is not None and not body.add_special_tokens and prompt.ids[:1] == [self.encoder.bos_id]
        ids = prompt.ids[is_cut:]
        tokens = protocol.Tokens(
            count=len(ids),
            max_model_len=self.engine.max_model_len,
            tokens=ids,
            token_strs=self._spell(ids) if body.return_token_strs else None,
            prompt=self._decode(ids, "prompt"),
        )
        return to_response(tokens, body.ignored_fields)

    async def health(self) -> Response:
        """200 when requests will be answered, 503 while the model loads or after the engine died."""
        self.engine.check_ready()
        return Response()

    async def metrics(self) -> Response:
        """Numbers for Prometheus, of this server and of vLLM's engine."""
        ENGINE_REQUESTS.set(self.engine.unfinished)
        TASKS.set(len(asyncio.all_tasks()))
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def version(self) -> dict[str, str]:
        """This server's version."""
        return {"version": VERSION}

    def _start(self, body: protocol.Request, prompts: list[Prompt], request: Request) -> Generation:
        if body.truncate_prompt_tokens is not None:
            for prompt in prompts:
                prompt.ids = truncate(prompt.ids, body, self.engine.max_model_len)
        if body.bad_words:
            barred = [ids for word in body.bad_words for ids in encode_word(self.encoder, word)]
            for prompt in prompts:
                prompt.barred = barred
        generation = start_generation(self.engine, body, prompts, self.settings.model_names, request.state.serial)
        request.state.generation = generation  # for the log
        if self.settings.log_requests:
            request.state.texts = keep_texts(generation, self.encoder)
        return generation

    def _stream(self, body: GenerationFields, frames: Frames) -> Response:
        ignored, settings = ignored_header(body.ignored_fields), self.settings
        return EventStream(frames, ignored, settings.request_timeout, settings.sse_keep_alive)

    async def _whole(self, body: GenerationFields, request: Request, reply: Awaitable[BaseModel]) -> Response:
        """The reply as one body, unless the client leaves before it is there: that frees the engine."""
        try:
            item = await while_connected(request.receive, reply, self.settings.request_timeout)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        return to_response(item, body.ignored_fields)

    def _chat_prompt(self, body: ChatCompletionRequest | protocol.TokenizeRequest) -> Prompt:
        texts = [(message.role, message.text) for message in body.messages]
        if isinstance(body, ChatCompletionRequest):
            self.template.check_fields(body.model_extra or {})
            self._check_length(sum(len(text) for _, text in texts), body)
        described = describe(body.callable_functions) if body.callable_functions else ""
        return self.template.render_chat(texts, described)

    def _completion_prompt(self, prompt: str | list[int], raw: bool | None, echo: bool = False) -> Prompt:
        """Token ids are used as they are; so is text, if it is to be raw."""
        if isinstance(prompt, list):
            return Prompt(prompt, self._decode(prompt, "prompt") if echo else "")
        is_raw = self.settings.raw_completions if raw is None else raw
        return self.template.render_raw(prompt) if is_raw else self.template.render_instruction(prompt)

    def _check_length(self, characters: int, body: protocol.Request) -> None:
        """Refuse, before it is encoded, a text that cannot fit, or is too long to be cut until it does."""
        if body.truncate_prompt_tokens is None or characters > MAX_CUT_CHARACTERS:
            param = "messages" if isinstance(body, ChatCompletionRequest) else "prompt"
            check_length(characters, self.encoder.max_token_characters, self.engine.max_model_len, param)

    def _spell(self, ids: Sequence[int]) -> list[str]:
        return [spelling.decode(errors="replace") for spelling in self.encoder.spell(ids)]

    def _decode(self, ids: Sequence[int], param: str) -> str:
        try:
            return self.encoder.decode(ids)
        except ValueError as failure:
            raise bad_request(f"Invalid value for '{param}': {failure}.", param) from failure

    def _model(self, name: str) -> protocol.Model:
        return protocol.Model(id=name, created=self.created, max_model_len=self.engine.max_model_len)


def to_response(item: BaseModel, ignored: Sequence[str]) -> Response:
    return Response(to_json(item), headers=ignored_header(ignored), media_type="application/json")


def ignored_header(fields: Sequence[str]) -> dict[str, str]:
    """The header that names fields without effect, such as a typo."""
    names = [quote(name[:MAX_NAME_CHARACTERS]) for name in fields[:MAX_NAMES]]
    return {"X-Ignored-Parameters": ", ".join(names)} if names else {}


def build_app(
    engine: Engine, template: PromptTemplate, settings: Settings, log: Log | None = None, started: Started | None = None
) -> FastAPI:
    """The app around an engine, which it starts and stops; `started` is told when loading has ended, or failed."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(engine.start())
        if started is not None:
            loading.add_done_callback(started)
        yield
        loading.cancel()
        engine.stop()

    app = FastAPIOffline(
        title="Chinese-LLaMA-Alpaca-2 API", version=VERSION, lifespan=lifespan, redirect_slashes=False, redoc_url=None
    )
    app.router.route_class = AnsweredRoute
    app.state.max_body_bytes = settings.max_body_bytes
    add_routes(app, Routes(engine, template, settings))
    app.add_exception_handler(HTTPException, answer_failure)
    app.add_middleware(Arrival, max_bytes=settings.max_body_bytes)
    app.add_middleware(Keys, keys=settings.api_key)
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
    app.add_middleware(Journal, log=log, log_format=settings.log_format)
    return app


def add_routes(app: FastAPI, routes: Routes) -> None:
    """Every path that this server answers."""
    app.post("/v1/completions", response_model=Completion, responses=STREAMS)(routes.create_completion)
    app.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMS)(routes.create_chat_completion)
    app.get("/v1/models", responses=ERRORS)(routes.list_models)
    app.get("/v1/models/{model_id:path}", responses=ERRORS)(routes.get_model)
    app.post("/tokenize", response_model=protocol.Tokens, responses=ERRORS)(routes.tokenize)
    app.post("/detokenize", response_model=protocol.Detokenized, responses=ERRORS)(routes.detokenize)
    app.get("/health", responses=ERRORS, response_class=Response)(routes.health)
    app.head("/health", include_in_schema=False)(routes.health)
    app.get("/metrics", response_class=Response, responses=ERRORS)(routes.metrics)
    app.get("/version")(routes.version)


def prepare(settings: Settings, others: Sequence[str]) -> tuple[list[socket.socket], PromptTemplate]:
    """All that can fail before vLLM is even imported; raises StartError."""
    check_settings(settings)
    check_model_files(settings, has_weights=not any(argument.startswith("--load-format") for argument in others))
    try:
        to_defaults(settings.override_generation_config)
    except ValueError as failure:
        raise StartError(f"--override-generation-config: {failure}.") from failure
    sockets: list[socket.socket] = bind_sockets(settings) if settings.uds is None else [UnixSocket(settings.uds)]
    return sockets, load_prompt_template(settings)


def to_port(bound: socket.socket) -> int:
    """The port that a socket is bound to; 0 for a unix socket."""
    return 0 if bound.family == socket.AF_UNIX else int(bound.getsockname()[1])


def load_engine(settings: Settings, others: Sequence[str]) -> Engine:
    """vLLM's engine, imported but not yet started; raises StartError."""
    startup.quieten_vllm()
    startup.hide_failing_starts()
    startup.lighten_engine_processes()
    gc.set_threshold(*startup.GARBAGE_THRESHOLDS)
    importing = startup.Progress("Importing vLLM")
    with explained("vLLM cannot be imported"):
        from engine import VLLMEngine, to_engine_args  # noqa: PLC0415 - takes seconds, and a bad start should not

    importing.end()
    with explained("vLLM cannot be told what to serve"):
        return VLLMEngine(to_engine_args(settings, others))


def serve(settings: Settings, others: Sequence[str]) -> None:
    """Load vLLM with `others`, its own arguments, and answer until a signal; raises StartError."""
    for name, value in startup.environment(settings).items():
        os.environ.setdefault(name, value)
    with explained("The server cannot start"):
        sockets, template = prepare(settings, others)
    settings = replace(settings, port=to_port(sockets[0]))
    end_on_signals(sockets)
    engine = load_engine(settings, others)
    loading = startup.Progress(f"Loading {settings.model}")
    failures: list[BaseException] = []

    def started(task: asyncio.Task[None]) -> None:
        loading.end()
        if not task.cancelled() and (failure := task.exception()):
            failures.append(failure)
            server.should_exit = True
        elif not task.cancelled():
            gc.freeze()  # what is loaded stays: no search for garbage looks through it again
            startup.show(
                startup.banner(settings, template.layout.name, template.encoder.description, engine.max_model_len)
            )

    app = build_app(engine, template, settings, startup.show_soon(settings), started)
    server = DrainingServer(uvicorn_config(app, settings), engine, settings.drain_timeout)
    server.run(sockets)
    gc.unfreeze()  # else a library whose objects cannot be freed at the end complains about each
    if server.engine_died:
        raise StartError("The engine has died.")
    if failures:
        raise failures[0]


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    same = {name: getattr(settings, name) for name in SAME_IN_UVICORN}
    # Who is told that the server stops gets so many seconds to hear it.
    same["timeout_graceful_shutdown"] = 3
    root_path = re.sub("/{2,}", "/", f"/{settings.root_path}").rstrip("/")
    return uvicorn.Config(app, access_log=False, http=Http1Connection, root_path=root_path, **same)


def main() -> int:
    settings = None
    try:
        settings, others = parse_settings(sys.argv[1:])
        keys = read_keys(settings.api_key, os.environ.get("VLLM_API_KEY"))
        serve(replace(settings, api_key=keys), others)
    except StartError as failure:
        if settings is not None and settings.shows_log:
            traceback.print_exception(failure)
        startup.show(f"error: {failure}")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
