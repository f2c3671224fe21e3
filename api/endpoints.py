"""The endpoints that generate, each a few lines.

An endpoint accepts its body (`admission`), and answers the generation whole or as a stream (`replies`).
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request, Response
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import ClientDisconnect

from api.admission import Admission
from api.chat import chat_chunks, chat_completion
from api.completions import completion, completion_chunks
from api.events import OPENAI_STREAM
from api.ignored_fields import ignored_header
from api.responses import ResponseStream, whole_response
from api.responses_input import accept_response
from api.responses_protocol import ResponsesRequest
from generation import Generation, Source
from prompts.encoder import Encoder
from protocol import ChatCompletionRequest, CompletionRequest, SentBody
from server.access_log import CLIENT_CLOSED_REQUEST
from server.event_stream import EventStream, StreamFormat, while_connected

Body = TypeVar("Body", bound=SentBody)


class GenerationEndpoints:
    """The endpoints that generate; what they share stands below them."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._encoder, self._settings = admission.encoder, admission.settings

    async def create_completion(self, body: CompletionRequest, request: Request) -> Response:
        """The reply to a prompt, which is put into the model's instruction template unless it is raw."""
        generation = await self._admission.accept(body, request)
        return await self._answer(generation, body, request, completion, completion_chunks)

    async def create_chat_completion(
        self, body: ChatCompletionRequest, request: Request
    ) -> Response:
        """The assistant's answer to a conversation."""
        generation = await self._admission.accept(body, request)
        return await self._answer(generation, body, request, chat_completion, chat_chunks)

    async def create_response(self, body: ResponsesRequest, request: Request) -> Response:
        """The answer to a conversation, as a list of items; nothing is stored."""
        generation = await accept_response(self._admission, body, request)
        stream = ResponseStream(generation, body, self._encoder)
        stream_format = StreamFormat(stream.failure_events, last_event=b"")
        return await self._answer(
            generation, body, request, whole_response, lambda *_: stream.events, stream_format
        )

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
        headers, settings = ignored_header(request, generation.ignored), self._settings
        if generation.decoding.stream:
            events = streamed(generation, body, self._encoder)
            return EventStream(
                events, stream_format, headers, settings.request_timeout, settings.sse_keep_alive
            )
        reply = whole(generation, body, self._encoder)
        try:
            item = await while_connected(
                request.scope, request.receive, reply, settings.request_timeout
            )
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(to_json(item), headers=headers, media_type="application/json")
