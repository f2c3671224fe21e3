"""What every endpoint does with deltas: folds them into one body, or makes the events of a stream of them.

Knows nothing about HTTP, and of an endpoint only the shape of its chunks, which is in a module of its own (`chat`,
`completions`). A chunk leaves here as the bytes of its event: what repeats in all chunks of a choice is encoded once,
from the same models that describe the wire format, and only the text is escaped for each delta.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import to_json

from api.events import END, to_event_text, to_json_event
from api.logprobs import LogprobAligner, Token
from generation import BeamsDelta, Delta, Drain, Generation, Sink, Source
from prompts.calls import Call
from prompts.encoder import Encoder
from protocol import Beam, FinishReason, PromptTokens, Request, Usage

TEXT_MARK = "\x00text\x00"
"""Stands for the text in a chunk that is split around it; no chunk has it elsewhere."""


@dataclass(slots=True)
class Choice:
    """One choice of a reply, as far as its deltas have come; with `echo` it begins with its prompt."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    """With their log-probabilities, if these were asked for."""
    finish_reason: FinishReason = "stop"
    stop_reason: int | str | None = None
    calls: list[Call] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        """Add what a delta brings, its tokens apart."""
        if delta.call is not None:
            self.calls.append(Call(delta.call, ""))
        if delta.call_index is None:
            self.text += delta.text
        else:
            name, arguments = self.calls[-1]
            self.calls[-1] = Call(name, arguments + delta.text)
        self.token_ids += delta.token_ids
        if delta.finish_reason is not None:
            self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason


@dataclass
class ChunkFormat:
    """How the chunks of one endpoint look, and their events."""

    first: Callable[[], Awaitable[Sequence[BaseModel]]]
    """Makes the chunks that begin a stream. They are sent with the first delta, not before it: as long as nothing is
    sent, a failure of the engine can still have its status."""
    chunk: Callable[[Delta, Sequence[Token]], BaseModel]
    """Makes the chunk of a delta, with the tokens whose log-probabilities it reports."""
    joins_last: bool = False
    """Whether the chunk with the finish reason of a choice has its last text too."""
    prompts: dict[int, list[int]] = field(default_factory=dict)
    """By choice, token ids of its prompt that its next chunk reports."""
    around: dict[tuple[int, int | None], list[bytes]] = field(default_factory=dict)
    """By choice and call, what stands before and after the text in every event that has nothing but text."""

    def events(
        self, delta: Delta, tokens: Sequence[Token], token_ids: list[int] | None = None
    ) -> list[bytes]:
        """One event for the text of a delta, with its tokens and `token_ids`, and one for its finish reason."""
        has_more = bool(tokens or delta.call or token_ids)
        if not (has_more or delta.finish_reason):
            if isinstance(delta, BeamsDelta):
                return [self._beams_event(delta)]
            return [self._text_event(delta)] if delta.text else []
        events = []
        if (delta.text or delta.call) and not (self.joins_last and delta.finish_reason):
            if has_more:
                begun = replace(delta, finish_reason=None)
                spelt = _without_end(tokens) if delta.finish_reason else tokens
                events.append(to_json_event(self._whole(begun, spelt, token_ids)))
                tokens, token_ids = tokens[len(spelt) :], token_ids and []
            else:
                events.append(self._text_event(delta))
        if delta.finish_reason:
            events.append(to_json_event(self._whole(delta, tokens, token_ids)))
        return events

    def _whole(
        self, delta: Delta, tokens: Sequence[Token], token_ids: list[int] | None
    ) -> BaseModel:
        """The chunk of a delta with all that it reports."""
        chunk: Any = self.chunk(delta, tokens)
        if token_ids is not None:
            chunk.choices[0].token_ids = token_ids
        if delta.index in self.prompts:
            chunk.choices[0].prompt_token_ids = self.prompts.pop(delta.index)
        return cast(BaseModel, chunk)

    def _text_event(self, delta: Delta) -> bytes:
        """The hot path: the event of a delta with nothing but text, encoded once for each choice and call."""
        place = delta.index, delta.call_index
        if place not in self.around:
            marked = Delta(delta.index, TEXT_MARK, (), call_index=delta.call_index)
            self.around[place] = to_json_event(self.chunk(marked, ())).split(to_json(TEXT_MARK))
        before, after = self.around[place]
        return b"%b%b%b" % (before, to_event_text(delta.text), after)

    def _beams_event(self, delta: BeamsDelta) -> bytes:
        beams = [
            Beam(text=beam.text, score=beam.score, finish_reason=beam.finish_reason)
            for beam in delta.beams
        ]
        return self.without_choices(beams=beams)

    def without_choices(self, **fields: Any) -> bytes:
        """The event of a chunk that has these fields, and no choices."""
        chunk = self.chunk(Delta(0, "", ()), ())
        return to_json_event(chunk.model_copy(update={"choices": [], **fields}))


def _without_end(tokens: Sequence[Token]) -> Sequence[Token]:
    """The tokens but for those at the end that spell nothing: to clients, all that come with a text spell it."""
    count = len(tokens)
    while count and not tokens[count - 1].spelling:
        count -= 1
    return tokens[:count]


class TokenIds:
    """Holds back the token ids of each choice until there is text that they go with."""

    def __init__(self) -> None:
        self._held: dict[int, list[int]] = {}

    def due(self, delta: Delta) -> list[int] | None:
        """The ids to be sent with a delta, or None if it has no text yet and is not its choice's last."""
        token_ids = [*self._held.pop(delta.index, ()), *delta.token_ids]
        if delta.text or delta.finish_reason:
            return token_ids
        self._held[delta.index] = token_ids
        return None


async def fold(
    generation: Generation, aligners: Sequence[LogprobAligner], choices: Sequence[Choice]
) -> Usage:
    """Add all deltas to their choices, and return the usage of the reply."""

    def add(deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            choices[delta.index].add(delta)
            choices[delta.index].tokens += aligners[delta.index].align(delta) if aligners else ()
            generation.record(delta)

    await generation.source(add)
    return usage_of(generation)


def stream(
    generation: Generation,
    request: Request,
    aligners: Sequence[LogprobAligner],
    chunks: ChunkFormat,
) -> Source[bytes]:
    """All events of a stream, with the usage where it is asked for; what comes at once is written at once."""
    options = request.stream_options
    has_usage_in_each = options is not None and options.continuous_usage_stats
    ends_with_usage = options is not None and options.include_usage
    due_ids = TokenIds().due if request.return_token_ids else lambda _: None

    async def events(sink: "Sink[bytes]") -> None:
        first = [to_json_event(chunk) for chunk in await chunks.first()]

        def add(deltas: Sequence[Delta]) -> Drain | None:
            events: list[bytes] = []
            if generation.began is None:
                events += _with_usage(first, generation) if has_usage_in_each else first
            for delta in deltas:
                generation.record(delta)
                tokens = aligners[delta.index].align(delta) if aligners else ()
                made = chunks.events(delta, tokens, due_ids(delta))
                events += _with_usage(made, generation) if has_usage_in_each else made
                if ends_with_usage and delta.finish_reason and generation.is_over:
                    events.append(chunks.without_choices(usage=usage_of(generation)))
            return sink(events) if events else None

        await generation.source(add)

    return events


def _with_usage(events: Sequence[bytes], generation: Generation) -> list[bytes]:
    """The events of chunks, each with the usage so far."""
    usage = to_json(usage_of(generation))
    return [b'%b,"usage":%b%b' % (event.removesuffix(END), usage, END) for event in events]


def usage_of(generation: Generation) -> Usage:
    """Tokens so far."""
    sent, generated, cached = generation.prompt_tokens, generation.tokens, generation.cached_tokens
    usage = Usage(prompt_tokens=sent, completion_tokens=generated, total_tokens=sent + generated)
    if cached:
        usage.prompt_tokens_details = PromptTokens(cached_tokens=cached)
    return usage


def envelope(generation: Generation) -> dict[str, Any]:
    """The fields that the whole reply and all chunks of a generation share."""
    return {"id": generation.id, "created": generation.created, "model": generation.model}


def logprob_aligners(generation: Generation, encoder: Encoder) -> list[LogprobAligner]:
    """One for each choice; none if log-probabilities are not asked for."""
    decoding = generation.decoding
    if decoding.alternatives is None:
        return []
    hides_control = decoding.skip_special_tokens
    return [LogprobAligner(encoder, hides_control) for _ in range(generation.choices)]
