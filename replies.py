"""Deltas -> the chunks of a stream, or one body: two readers of the same deltas, for both endpoints.

Knows nothing about HTTP. A chunk leaves here as the bytes of its JSON: what repeats in all chunks of a choice is
encoded once, from the same models that describe the wire format, and only the text is escaped for each delta.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from pydantic import BaseModel
from pydantic_core import to_json

from generation import Delta, FinishReason, Generation
from protocol import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    Completion,
    CompletionChoice,
    StreamOptions,
    Usage,
)

MARK = "\x00text\x00"


@dataclass(slots=True)
class Folded:
    """One choice, whole."""

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    finish_reason: FinishReason = "stop"

    @property
    def text(self) -> str:
        return "".join(self.texts)


async def fold(generation: Generation) -> list[Folded]:
    """All choices of a generation, in order."""
    choices = [Folded() for _ in range(generation.choices)]
    async with aclosing(generation.deltas) as deltas:
        async for delta in deltas:
            choice = choices[delta.index]
            choice.texts.append(delta.text)
            choice.tokens += len(delta.token_ids)
            choice.finish_reason = delta.finish_reason or choice.finish_reason
    return choices


async def completion(generation: Generation, echo: bool) -> Completion:
    """The whole reply of `/v1/completions`."""
    choices = await fold(generation)
    return Completion(
        id=generation.id,
        created=generation.created,
        model=generation.model,
        choices=[
            CompletionChoice(
                index=index,
                text=(generation.prompts[index // generation.n].text if echo else "") + choice.text,
                finish_reason=choice.finish_reason,
            )
            for index, choice in enumerate(choices)
        ],
        usage=generation.usage(sum(choice.tokens for choice in choices)),
    )


async def chat_completion(generation: Generation) -> ChatCompletion:
    """The whole reply of `/v1/chat/completions`."""
    choices = await fold(generation)
    return ChatCompletion(
        id=generation.id,
        created=generation.created,
        model=generation.model,
        choices=[
            ChatChoice(index=index, message=AssistantMessage(content=choice.text), finish_reason=choice.finish_reason)
            for index, choice in enumerate(choices)
        ],
        usage=generation.usage(sum(choice.tokens for choice in choices)),
    )


def completion_chunks(generation: Generation, echo: bool, options: StreamOptions | None) -> AsyncGenerator[bytes, None]:
    """The chunks of a streamed completion; with `echo` each choice begins with its prompt."""

    def chunk(index: int, text: str, finish_reason: FinishReason | None = None) -> Completion:
        choice = CompletionChoice(index=index, text=text, finish_reason=finish_reason)
        return Completion(id=generation.id, created=generation.created, model=generation.model, choices=[choice])

    def last(delta: Delta) -> Completion:
        return chunk(delta.index, delta.text, delta.finish_reason)

    prompts = [generation.prompts[index // generation.n].text for index in range(generation.choices)] if echo else []
    first = [chunk(index, prompt) for index, prompt in enumerate(prompts)]
    return _frames(generation, options, Chunks(first, chunk, last, joins_last=True))


def chat_chunks(generation: Generation, options: StreamOptions | None) -> AsyncGenerator[bytes, None]:
    """The chunks of a streamed chat reply: the role, the text, then the finish reason, for each choice."""

    def chunk(index: int, delta: ChatDelta, finish_reason: FinishReason | None = None) -> ChatChunk:
        choice = ChatChunkChoice(index=index, delta=delta, finish_reason=finish_reason)
        return ChatChunk(id=generation.id, created=generation.created, model=generation.model, choices=[choice])

    def text(index: int, content: str) -> ChatChunk:
        return chunk(index, ChatDelta(content=content))

    def last(delta: Delta) -> ChatChunk:
        return chunk(delta.index, ChatDelta(), delta.finish_reason)

    first = [chunk(index, ChatDelta(role="assistant", content="")) for index in range(generation.choices)]
    return _frames(generation, options, Chunks(first, text, last, joins_last=False))


@dataclass(frozen=True)
class Chunks:
    """How one endpoint spells a stream."""

    first: Sequence[BaseModel]
    """Sent before all else, once the engine has begun: a failure before that can still have its status."""
    text: Callable[[int, str], BaseModel]
    last: Callable[[Delta], BaseModel]
    joins_last: bool
    """The last chunk of a choice carries its last text too."""


async def _frames(generation: Generation, options: StreamOptions | None, chunks: Chunks) -> AsyncGenerator[bytes, None]:
    """The hot path: one frame for each delta with text, one for each finish, and the usage if asked for."""
    around: dict[int, list[bytes]] = {}
    first, tokens = chunks.first, 0
    counts = options is not None and options.continuous_usage_stats
    async with aclosing(generation.deltas) as deltas:
        async for delta in deltas:
            tokens += len(delta.token_ids)
            frames = [to_json(chunk) for chunk in first]
            first = ()
            if delta.text and not (chunks.joins_last and delta.finish_reason):
                if delta.index not in around:
                    around[delta.index] = to_json(chunks.text(delta.index, MARK)).split(to_json(MARK))
                before, after = around[delta.index]
                frames.append(b"%b%b%b" % (before, to_json(delta.text), after))
            if delta.finish_reason:
                frames.append(to_json(chunks.last(delta)))
            for frame in frames:
                yield _with_usage(frame, generation.usage(tokens)) if counts else frame
    if options is not None and options.include_usage:
        usage = {"choices": [], "usage": generation.usage(tokens)}
        yield to_json(chunks.text(0, "").model_copy(update=usage))


def _with_usage(frame: bytes, usage: Usage) -> bytes:
    return b'%b,"usage":%b}' % (frame[:-1], to_json(usage))
