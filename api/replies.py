"""Deltas -> the events of a stream, or one body: two readers of the same deltas, for both endpoints.

Knows nothing about HTTP. A chunk leaves here as the bytes of its event: what repeats in all chunks of a choice is
encoded once, from the same models that describe the wire format, and only the text is escaped for each delta.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import shortuuid
from pydantic import BaseModel
from pydantic_core import to_json

import protocol
from api.events import END, to_event_text, to_json_event
from api.logprobs import Spelling, Token, to_chat_logprobs, to_completion_logprobs
from api.tool_calls import callable_functions
from generation import Delta, Drain, Generation, Sink, Source
from prompts.encoder import Encoder
from protocol import (
    ChatCompletion,
    ChatCompletionRequest,
    CompletionRequest,
    FinishReason,
    Request,
    Usage,
)

MARK = "\x00text\x00"


@dataclass(slots=True)
class Choice:
    """One choice as far as it is folded; with `echo` it begins with its prompt."""

    text: str = ""
    log: list[Token] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    call: str | None = None
    """The function that it calls; the text is its arguments."""
    token_ids: list[int] = field(default_factory=list)


async def completion(
    generation: Generation, request: CompletionRequest, encoder: Encoder
) -> protocol.Completion:
    """The whole reply of `/v1/completions`."""
    spellings = _spellings(generation, encoder)
    choices = await _begun(generation, request, encoder, spellings)
    usage = await _fold(generation, spellings, choices)
    whole = [
        _completion_choice(
            index, choice.text, choice.log if spellings else None, choice.finish_reason
        )
        for index, choice in enumerate(choices)
    ]
    if request.return_token_ids:
        prompts = _prompt_ids(generation)
        for reply, choice in zip(whole, choices, strict=True):
            reply.prompt_token_ids, reply.token_ids = prompts[reply.index], choice.token_ids
    return protocol.Completion(**_envelope(generation), choices=whole, usage=usage)


async def chat_completion(
    generation: Generation, request: ChatCompletionRequest, encoder: Encoder
) -> ChatCompletion:
    """The whole reply of `/v1/chat/completions`."""
    choices = [Choice() for _ in range(generation.choices)]
    usage = await _fold(generation, _spellings(generation, encoder), choices)
    whole = [
        protocol.ChatChoice(
            index=index,
            message=_to_message(choice),
            logprobs=to_chat_logprobs(choice.log) if request.logprobs else None,
            finish_reason=choice.finish_reason,
            token_ids=choice.token_ids if request.return_token_ids else None,
        )
        for index, choice in enumerate(choices)
    ]
    prompt_ids = generation.prompts[0].ids if request.return_token_ids else None
    return ChatCompletion(
        **_envelope(generation), choices=whole, usage=usage, prompt_token_ids=prompt_ids
    )


def completion_chunks(
    generation: Generation, request: CompletionRequest, encoder: Encoder
) -> Source[bytes]:
    """The chunks of a streamed completion; with `echo` each choice begins with its prompt."""
    spellings = _spellings(generation, encoder)

    def chunk(delta: Delta, log: Sequence[Token]) -> protocol.Completion:
        choice = _completion_choice(delta.index, delta.text, log or None, delta.finish_reason)
        return protocol.Completion(**_envelope(generation), choices=[choice])

    async def first() -> list[protocol.Completion]:
        begun = await _begun(generation, request, encoder, spellings) if request.echo else []
        return [
            chunk(Delta(index, choice.text, ()), choice.log) for index, choice in enumerate(begun)
        ]

    prompts = _prompt_ids(generation) if request.return_token_ids else {}
    return _frames(
        generation, request, spellings, Chunks(first, chunk, joins_last=True, prompts=prompts)
    )


def chat_chunks(
    generation: Generation, request: ChatCompletionRequest, encoder: Encoder
) -> Source[bytes]:
    """The chunks of a streamed chat reply: the role, the text or call, then the finish reason, for each choice."""
    is_call = bool(callable_functions(request))

    def to_chunk(
        delta: Delta, added: protocol.ChatDelta, log: Sequence[Token] = ()
    ) -> protocol.ChatChunk:
        logprobs, reason = to_chat_logprobs(log) if log else None, delta.finish_reason
        choice = protocol.ChatChunkChoice(
            index=delta.index, delta=added, logprobs=logprobs, finish_reason=reason
        )
        return protocol.ChatChunk(**_envelope(generation), choices=[choice])

    def chunk(delta: Delta, log: Sequence[Token]) -> protocol.ChatChunk:
        added = protocol.ChatDelta()
        if is_call and not delta.finish_reason:
            added.tool_calls = [_to_call(delta.call, delta.text, index=0)]
        elif not delta.finish_reason:
            added.content = delta.text
        return to_chunk(delta, added, log)

    async def first() -> list[protocol.ChatChunk]:
        role = protocol.ChatDelta(role="assistant", content=None if is_call else "")
        chunks = [to_chunk(Delta(index, "", ()), role) for index in range(generation.choices)]
        if request.return_token_ids:
            chunks[0].prompt_token_ids = generation.prompts[0].ids
        return chunks

    return _frames(generation, request, _spellings(generation, encoder), Chunks(first, chunk))


@dataclass
class Chunks:
    """How one endpoint spells a stream."""

    first: Callable[[], Awaitable[Sequence[BaseModel]]]
    """Sent with the first delta, before all else: a failure of the engine before that can still have its status."""
    chunk: Callable[[Delta, Sequence[Token]], BaseModel]
    joins_last: bool = False
    """The last chunk of a choice carries its last text too."""
    prompts: dict[int, list[int]] = field(default_factory=dict)
    """Token ids to be told in the first chunk of a choice after `first`."""
    around: dict[int, list[bytes]] = field(default_factory=dict)
    """What stands before and after the text in all frames of a choice."""

    def frames(
        self, delta: Delta, log: Sequence[Token], token_ids: list[int] | None = None
    ) -> list[bytes]:
        """One frame for the text of a delta, one for the finish of its choice; the first has log and `token_ids`."""
        is_told = bool(log or delta.call or token_ids)
        if not (is_told or delta.finish_reason):
            return [self._text_frame(delta.index, delta.text)] if delta.text else []
        frames = []
        if (delta.text or delta.call) and not (self.joins_last and delta.finish_reason):
            if is_told:
                told = self._told(replace(delta, finish_reason=None), log, token_ids)
                frames.append(to_json_event(told))
                log, token_ids = (), token_ids and []
            else:
                frames.append(self._text_frame(delta.index, delta.text))
        if delta.finish_reason:
            frames.append(to_json_event(self._told(delta, log, token_ids)))
        return frames

    def _told(self, delta: Delta, log: Sequence[Token], token_ids: list[int] | None) -> BaseModel:
        chunk: Any = self.chunk(delta, log)
        if token_ids is not None:
            chunk.choices[0].token_ids = token_ids
        if delta.index in self.prompts:
            chunk.choices[0].prompt_token_ids = self.prompts.pop(delta.index)
        return cast(BaseModel, chunk)

    def _text_frame(self, index: int, text: str) -> bytes:
        """The hot path: `chunk` of a delta with nothing but text, encoded once for each choice."""
        if index not in self.around:
            self.around[index] = to_json_event(self.chunk(Delta(index, MARK, ()), ())).split(
                to_json(MARK)
            )
        before, after = self.around[index]
        return b"%b%b%b" % (before, to_event_text(text), after)


class TokenIds:
    """The token ids that go with the text of each choice: those without text wait for some, or for the end."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[int]] = {}

    def take(self, delta: Delta) -> list[int] | None:
        token_ids = [*self._waiting.pop(delta.index, ()), *delta.token_ids]
        if delta.text or delta.finish_reason:
            return token_ids
        self._waiting[delta.index] = token_ids
        return None


async def _fold(
    generation: Generation, spellings: Sequence[Spelling], choices: Sequence[Choice]
) -> Usage:
    """All deltas into their choices."""

    def take(deltas: Sequence[Delta]) -> None:
        generation.began = generation.began or time.monotonic()
        for delta in deltas:
            choice = choices[delta.index]
            choice.text += delta.text
            choice.call = delta.call or choice.call
            choice.log += spellings[delta.index].take(delta) if spellings else ()
            choice.token_ids += delta.token_ids
            choice.finish_reason = delta.finish_reason or choice.finish_reason
            generation.count(delta)

    await generation.source(take)
    return _usage(generation)


def _frames(
    generation: Generation, request: Request, spellings: Sequence[Spelling], chunks: Chunks
) -> Source[bytes]:
    """All chunks of a stream, and the usage if asked for; together what comes at once."""
    options = request.stream_options
    counts = options is not None and options.continuous_usage_stats
    includes_usage = options is not None and options.include_usage

    ids_of = TokenIds().take if request.return_token_ids else lambda _: None

    def counted(frames: list[bytes]) -> list[bytes]:
        usage = to_json(_usage(generation))
        return [b'%b,"usage":%b%b' % (frame.removesuffix(END), usage, END) for frame in frames]

    async def frames(sink: "Sink[bytes]") -> None:
        first = [to_json_event(chunk) for chunk in await chunks.first()]

        def take(deltas: Sequence[Delta]) -> Drain | None:
            frames: list[bytes] = []
            if generation.began is None:
                generation.began = time.monotonic()
                frames += counted(first) if counts else first
            for delta in deltas:
                generation.count(delta)
                log = spellings[delta.index].take(delta) if spellings else ()
                made = chunks.frames(delta, log, ids_of(delta))
                frames += counted(made) if counts else made
            if includes_usage and generation.is_over:
                usage = {"choices": [], "usage": _usage(generation)}
                frames.append(
                    to_json_event(chunks.chunk(Delta(0, "", ()), ()).model_copy(update=usage))
                )
            return sink(frames) if frames else None

        await generation.source(take)

    return frames


def _usage(generation: Generation) -> Usage:
    """So far."""
    sent, tokens = generation.prompt_tokens, generation.tokens
    return Usage(prompt_tokens=sent, completion_tokens=tokens, total_tokens=sent + tokens)


def _prompt_ids(generation: Generation) -> dict[int, list[int]]:
    """Of each choice, by its index."""
    return {
        index: generation.prompts[index // generation.decoding.n].ids
        for index in range(generation.choices)
    }


def _to_message(choice: Choice) -> protocol.AssistantMessage:
    if choice.call is None:
        return protocol.AssistantMessage(content=choice.text)
    return protocol.AssistantMessage(content=None, tool_calls=[_to_call(choice.call, choice.text)])


def _to_call(name: str | None, arguments: str, index: int | None = None) -> protocol.ToolCall:
    """A call, or with no name a piece of its arguments."""
    function = protocol.CalledFunction(name=name, arguments=arguments)
    if name is None:
        return protocol.ToolCall(index=index, function=function)
    return protocol.ToolCall(
        index=index, id=f"call_{shortuuid.uuid()}", type="function", function=function
    )


def _envelope(generation: Generation) -> dict[str, Any]:
    return {"id": generation.id, "created": generation.created, "model": generation.model}


def _spellings(generation: Generation, encoder: Encoder) -> list[Spelling]:
    """One for each choice, if log-probabilities are asked for."""
    decoding = generation.decoding
    if decoding.alternatives is None:
        return []
    return [Spelling(encoder, decoding.skip_special_tokens) for _ in range(generation.choices)]


def _completion_choice(
    index: int, text: str, log: Sequence[Token] | None, finish_reason: FinishReason | None
) -> protocol.CompletionChoice:
    logprobs = None if log is None else to_completion_logprobs(log)
    return protocol.CompletionChoice(
        index=index, text=text, logprobs=logprobs, finish_reason=finish_reason
    )


async def _begun(
    generation: Generation,
    request: CompletionRequest,
    encoder: Encoder,
    spellings: Sequence[Spelling],
) -> list[Choice]:
    """All choices, with `echo` begun by the client's own text, or for log-probabilities by the prompt they are of."""
    if not request.echo:
        return [Choice() for _ in range(generation.choices)]
    echoes = [Choice(prompt.text) for prompt in generation.prompts]
    if spellings:
        for echo, sent, score in zip(
            echoes, request.prompt, await generation.scores(), strict=True
        ):
            echo.log = Spelling(encoder, hides_control=isinstance(sent, str)).prompt(score)
            echo.text = b"".join(token.spelling for token in echo.log).decode(errors="replace")
    choices = [
        Choice(echo.text, [*echo.log]) for echo in echoes for _ in range(generation.decoding.n)
    ]
    for spelling, choice in zip(spellings, choices, strict=False):
        spelling.offset = len(choice.text)
    return choices
