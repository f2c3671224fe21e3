"""Deltas -> the chunks of a stream, or one body: two readers of the same deltas, for both endpoints.

Knows nothing about HTTP. A chunk leaves here as the bytes of its JSON: what repeats in all chunks of a choice is
encoded once, from the same models that describe the wire format, and only the text is escaped for each delta.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from encoder import Encoder
from generation import Delta, FinishReason, Generation
from logprobs import Spelling, Token, to_chat_logprobs, to_completion_logprobs
from protocol import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionRequest,
    ChatDelta,
    Completion,
    CompletionChoice,
    CompletionRequest,
    GenerationFields,
    StreamOptions,
    Usage,
)

MARK = "\x00text\x00"


@dataclass(slots=True)
class Folded:
    """One choice, whole."""

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    log: list[Token] = field(default_factory=list)
    finish_reason: FinishReason = "stop"

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass(slots=True)
class Echo:
    """A prompt as it stands before its replies."""

    text: str = ""
    log: list[Token] = field(default_factory=list)


async def fold(generation: Generation, spellings: Sequence[Spelling]) -> list[Folded]:
    """All choices of a generation, in order."""
    choices = [Folded() for _ in range(generation.choices)]
    async with aclosing(generation.deltas) as deltas:
        async for delta in deltas:
            choice = choices[delta.index]
            choice.texts.append(delta.text)
            choice.tokens += len(delta.token_ids)
            choice.log += spellings[delta.index].take(delta) if spellings else ()
            choice.finish_reason = delta.finish_reason or choice.finish_reason
    return choices


async def completion(generation: Generation, request: CompletionRequest, encoder: Encoder) -> Completion:
    """The whole reply of `/v1/completions`."""
    spellings = _spellings(generation, request, encoder)
    echoes = await _echoes(generation, request, encoder, spellings)
    choices = await fold(generation, spellings)
    return Completion(
        **_envelope(generation),
        choices=[
            CompletionChoice(
                index=index,
                text=echo.text + choice.text,
                logprobs=to_completion_logprobs([*echo.log, *choice.log]) if spellings else None,
                finish_reason=choice.finish_reason,
            )
            for index, (echo, choice) in enumerate(zip(echoes, choices, strict=True))
        ],
        usage=generation.usage(sum(choice.tokens for choice in choices)),
    )


async def chat_completion(generation: Generation, request: ChatCompletionRequest, encoder: Encoder) -> ChatCompletion:
    """The whole reply of `/v1/chat/completions`."""
    choices = await fold(generation, _spellings(generation, request, encoder))
    return ChatCompletion(
        **_envelope(generation),
        choices=[
            ChatChoice(
                index=index,
                message=AssistantMessage(content=choice.text),
                logprobs=to_chat_logprobs(choice.log) if request.logprobs else None,
                finish_reason=choice.finish_reason,
            )
            for index, choice in enumerate(choices)
        ],
        usage=generation.usage(sum(choice.tokens for choice in choices)),
    )


def completion_chunks(
    generation: Generation, request: CompletionRequest, encoder: Encoder
) -> AsyncGenerator[bytes, None]:
    """The chunks of a streamed completion; with `echo` each choice begins with its prompt."""
    spellings = _spellings(generation, request, encoder)

    def chunk(index: int, text: str, log: Sequence[Token], finish_reason: FinishReason | None = None) -> Completion:
        logprobs = to_completion_logprobs(log) if log else None
        choice = CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=finish_reason)
        return Completion(**_envelope(generation), choices=[choice])

    def last(delta: Delta, log: Sequence[Token]) -> Completion:
        return chunk(delta.index, delta.text, log, delta.finish_reason)

    async def first() -> list[Completion]:
        echoes = await _echoes(generation, request, encoder, spellings) if request.echo else []
        return [chunk(index, echo.text, echo.log) for index, echo in enumerate(echoes)]

    return _frames(generation, request.stream_options, spellings, Chunks(first, chunk, last, joins_last=True))


def chat_chunks(
    generation: Generation, request: ChatCompletionRequest, encoder: Encoder
) -> AsyncGenerator[bytes, None]:
    """The chunks of a streamed chat reply: the role, the text, then the finish reason, for each choice."""

    def chunk(
        index: int, delta: ChatDelta, log: Sequence[Token] = (), finish_reason: FinishReason | None = None
    ) -> ChatChunk:
        logprobs = to_chat_logprobs(log) if log else None
        choice = ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish_reason)
        return ChatChunk(**_envelope(generation), choices=[choice])

    def text(index: int, content: str, log: Sequence[Token]) -> ChatChunk:
        return chunk(index, ChatDelta(content=content), log)

    def last(delta: Delta, log: Sequence[Token]) -> ChatChunk:
        return chunk(delta.index, ChatDelta(), log, delta.finish_reason)

    async def first() -> list[ChatChunk]:
        return [chunk(index, ChatDelta(role="assistant", content="")) for index in range(generation.choices)]

    spellings = _spellings(generation, request, encoder)
    return _frames(generation, request.stream_options, spellings, Chunks(first, text, last, joins_last=False))


@dataclass(frozen=True)
class Chunks:
    """How one endpoint spells a stream."""

    first: Callable[[], Awaitable[Sequence[BaseModel]]]
    """Sent before all else, once the engine has begun: a failure before that can still have its status."""
    text: Callable[[int, str, Sequence[Token]], BaseModel]
    last: Callable[[Delta, Sequence[Token]], BaseModel]
    joins_last: bool
    """The last chunk of a choice carries its last text too."""


async def _frames(
    generation: Generation, options: StreamOptions | None, spellings: Sequence[Spelling], chunks: Chunks
) -> AsyncGenerator[bytes, None]:
    """The hot path: one frame for each delta with text, one for each finish, and the usage if asked for."""
    around: dict[int, list[bytes]] = {}
    has_begun, tokens = False, 0
    counts = options is not None and options.continuous_usage_stats
    async with aclosing(generation.deltas) as deltas:
        async for delta in deltas:
            tokens += len(delta.token_ids)
            frames = [] if has_begun else [to_json(chunk) for chunk in await chunks.first()]
            has_begun = True
            log = spellings[delta.index].take(delta) if spellings else ()
            if delta.text and not (chunks.joins_last and delta.finish_reason):
                if log:
                    frames.append(to_json(chunks.text(delta.index, delta.text, log)))
                    log = ()
                else:
                    if delta.index not in around:
                        around[delta.index] = to_json(chunks.text(delta.index, MARK, ())).split(to_json(MARK))
                    before, after = around[delta.index]
                    frames.append(b"%b%b%b" % (before, to_json(delta.text), after))
            if delta.finish_reason:
                frames.append(to_json(chunks.last(delta, log)))
            for frame in frames:
                yield _with_usage(frame, generation.usage(tokens)) if counts else frame
    if options is not None and options.include_usage:
        usage = {"choices": [], "usage": generation.usage(tokens)}
        yield to_json(chunks.text(0, "", ()).model_copy(update=usage))


def _with_usage(frame: bytes, usage: Usage) -> bytes:
    return b'%b,"usage":%b}' % (frame[:-1], to_json(usage))


def _envelope(generation: Generation) -> dict[str, Any]:
    return {"id": generation.id, "created": generation.created, "model": generation.model}


def _spellings(generation: Generation, request: GenerationFields, encoder: Encoder) -> list[Spelling]:
    """One for each choice, if log-probabilities are asked for."""
    if request.alternatives is None:
        return []
    prompts = [prompt for prompt in generation.prompts for _ in range(generation.n)]
    return [Spelling(encoder, request.skip_special_tokens, prompt.answer_lead) for prompt in prompts]


async def _echoes(
    generation: Generation, request: CompletionRequest, encoder: Encoder, spellings: Sequence[Spelling]
) -> list[Echo]:
    """What stands before each choice: the client's own text, or with log-probabilities the prompt that they are of."""
    if not request.echo:
        return [Echo() for _ in range(generation.choices)]
    echoes = [Echo(prompt.text) for prompt in generation.prompts]
    if spellings:
        for echo, sent, score in zip(echoes, request.prompt, await generation.scores(), strict=True):
            echo.log = Spelling(encoder, hides_control=isinstance(sent, str)).prompt(score)
            echo.text = b"".join(token.spelling for token in echo.log).decode(errors="replace")
    echoes = [echo for echo in echoes for _ in range(generation.n)]
    for spelling, echo in zip(spellings, echoes, strict=False):
        spelling.offset = len(echo.text)
    return echoes
