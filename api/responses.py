"""The reply of `/v1/responses`: one body, or the events of a stream.

A response is a list of items: a message with the text, then the calls of functions, each an item of its own.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import shortuuid
from pydantic_core import from_json, to_json

from api.events import to_event_text, to_named_event
from api.logprobs import Token, to_chat_logprobs
from api.replies import TEXT_MARK, logprob_aligners
from api.responses_protocol import (
    ArgumentsDelta,
    ArgumentsDone,
    ErrorEvent,
    Event,
    FunctionCall,
    Incompleteness,
    InputTokens,
    ItemEvent,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
    PartEvent,
    ResponseEvent,
    ResponseFailure,
    ResponsesReply,
    ResponsesRequest,
    ResponseUsage,
    Status,
    TextDelta,
    TextDone,
)
from errors import APIError
from generation import Delta, Drain, FinishReason, Generation, Sink
from prompts.encoder import Encoder
from protocol import SentBody

NUMBER_FIELD = b'"sequence_number":'

Sent = TypeVar("Sent", bound=SentBody)


@dataclass(slots=True)
class Item:
    """An item of the output, as far as its deltas have come: a message, or a call."""

    call: str | None
    """The function that it calls; None: it is a message."""
    index: int
    id: str
    call_id: str
    status: ItemStatus = "in_progress"
    pieces: list[str] = field(default_factory=list)
    """Of its text: a message's, or the arguments of a call."""
    tokens: list[Token] = field(default_factory=list)
    """Of a message, with their log-probabilities, if these were asked for."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def to_part(self) -> OutputText:
        return OutputText(text=self.text, logprobs=to_chat_logprobs(self.tokens).content)

    def to_output(self) -> OutputItem:
        if self.call is None:
            content = [self.to_part()] if self.status != "in_progress" else []
            return OutputMessage(id=self.id, status=self.status, content=content)
        return FunctionCall(
            id=self.id,
            status=self.status,
            call_id=self.call_id,
            name=self.call,
            arguments=self.text if self.status != "in_progress" else "",
        )


class Output:
    """The items of a response, as far as its deltas have come; there is at least one at the end."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.finish_reason: FinishReason | None = None

    def add(self, delta: Delta, tokens: Sequence[Token]) -> bool:
        """Add a delta to the item that it belongs to; returns whether that has begun with it."""
        has_text = bool(delta.text or tokens or delta.finish_reason)
        begins = delta.call is not None or (has_text and not self.items)
        if begins:
            if self.items:
                self.items[-1].status = "completed"
            self.items.append(_new_item(delta.call, len(self.items)))
        if self.items:
            item = self.items[-1]
            item.pieces.append(delta.text)
            if item.call is None:
                item.tokens += tokens
        return begins

    def end(self, finish_reason: FinishReason) -> None:
        """End the last item, which is whole or cut off."""
        self.finish_reason = finish_reason
        last = self.items[-1]
        is_whole = finish_reason != "length" if last.call is None else _is_json(last.text)
        last.status = "completed" if is_whole else "incomplete"


def _new_item(call: str | None, index: int) -> Item:
    if call is None:
        return Item(None, index, f"msg_{shortuuid.uuid()}", "")
    return Item(call, index, f"fc_{shortuuid.uuid()}", f"call_{shortuuid.uuid()}")


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except ValueError:
        return False
    return True


async def refuse() -> None:
    """Raise APIError (404) for a response that is asked for by its id: none is stored."""
    raise APIError(404, "This server keeps no responses.", code="not_found")


async def whole_response(
    generation: Generation, body: ResponsesRequest, encoder: Encoder
) -> ResponsesReply:
    """The whole reply."""
    output, aligners = Output(), logprob_aligners(generation, encoder)

    def add(deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            generation.record(delta)
            output.add(delta, aligners[delta.index].align(delta) if aligners else ())
            if delta.finish_reason is not None:
                output.end(delta.finish_reason)

    await generation.source(add)
    return to_reply(generation, body, output, _final_status(output))


def _final_status(output: Output) -> Status:
    return "incomplete" if output.finish_reason == "length" else "completed"


def to_reply(
    generation: Generation,
    body: ResponsesRequest,
    output: Output,
    status: Status,
    error: ResponseFailure | None = None,
) -> ResponsesReply:
    """The response so far, with what was asked for as it was understood."""
    choice = _known(body.tool_choice)
    sent, generated = generation.prompt_tokens, generation.tokens
    usage = ResponseUsage(
        input_tokens=sent,
        input_tokens_details=InputTokens(cached_tokens=generation.cached_tokens),
        output_tokens=generated,
        total_tokens=sent + generated,
    )
    return ResponsesReply(
        id=generation.id,
        created_at=generation.created,
        completed_at=int(time.time()) if status == "completed" else None,
        status=status,
        error=error,
        incomplete_details=Incompleteness() if status == "incomplete" else None,
        model=generation.model,
        output=[item.to_output() for item in output.items],
        usage=usage if status != "in_progress" else None,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        temperature=generation.decoding.temperature,
        top_p=generation.decoding.top_p,
        top_logprobs=body.top_logprobs,
        text=_known(body.text),
        tools=[_known(tool) for tool in body.tools],
        tool_choice=choice if choice.name or choice.tools else choice.type,
        parallel_tool_calls=body.parallel_tool_calls,
        truncation=body.truncation,
        metadata=body.metadata,
    )


def _known(sent: Sent) -> Sent:
    """A part of the body without the fields that nobody knows, to be given back."""
    copy = sent.model_copy()
    if copy.model_extra:
        copy.model_extra.clear()
    for name in type(sent).model_fields:
        value = getattr(sent, name)
        if isinstance(value, SentBody):
            copy.__dict__[name] = _known(value)
        elif isinstance(value, list):
            copy.__dict__[name] = [_known(each) for each in value]
    return copy


class ResponseStream:
    """The events of a stream: those of each item from its beginning to its end, between those of the response."""

    def __init__(self, generation: Generation, body: ResponsesRequest, encoder: Encoder) -> None:
        self._generation, self._body = generation, body
        self._aligners = logprob_aligners(generation, encoder)
        self._output = Output()
        self._number = 0
        """Of the next event."""
        self._around = b"", b"", b""
        """What stands before, between and after the number and the text in events that have nothing but text."""

    async def events(self, sink: Sink[bytes]) -> None:
        """All events; a source. The first are sent with the first delta: a failure before it has its status."""
        aligners = self._aligners

        def add(deltas: Sequence[Delta]) -> Drain | None:
            events: list[bytes] = []
            if self._generation.began is None:
                events.append(self._response_event("response.created", "in_progress"))
                events.append(self._response_event("response.in_progress", "in_progress"))
            for delta in deltas:
                self._generation.record(delta)
                tokens = aligners[delta.index].align(delta) if aligners else ()
                events += self._delta_events(delta, tokens)
            return sink(events) if events else None

        await self._generation.source(add)

    def failure_events(self, failure: APIError) -> bytes:
        """The events of a failure when others have been sent: the error, and the response that has failed."""
        error = from_json(failure.to_json())["error"]
        error["code"] = error["code"] or error["type"]
        shown = {name: error[name] for name in ("code", "message", "param")}
        event = self._event(ErrorEvent, **shown, error=error)
        if self._output.items:
            self._output.items[-1].status = "incomplete"
        reason = ResponseFailure(message=error["message"])
        return event + self._response_event("response.failed", "failed", reason)

    def _delta_events(self, delta: Delta, tokens: Sequence[Token]) -> list[bytes]:
        items = self._output.items
        has_more = tokens or delta.finish_reason is not None or delta.call is not None
        if items and not has_more:
            items[-1].pieces.append(delta.text)
            return [self._text_event(delta.text)] if delta.text else []
        events = []
        if self._output.add(delta, tokens):
            if len(items) > 1:
                events += self._done_events(items[-2])
            events += self._begin(items[-1])
        if tokens and items[-1].call is None:
            events.append(self._text_with_tokens(items[-1], delta.text, tokens))
        elif delta.text:
            events.append(self._text_event(delta.text))
        if delta.finish_reason is not None:
            self._output.end(delta.finish_reason)
            events += self._done_events(items[-1])
            status = _final_status(self._output)
            events.append(self._response_event(f"response.{status}", status))
        return events

    def _begin(self, item: Item) -> list[bytes]:
        """The events that begin an item; those of its text are made to have `_around` from here on."""
        events = [
            self._event(
                ItemEvent,
                type="response.output_item.added",
                output_index=item.index,
                item=item.to_output(),
            )
        ]
        place = {"item_id": item.id, "output_index": item.index}
        piece: Event
        if item.call is None:
            part = OutputText(text="", logprobs=[])
            events.append(
                self._event(PartEvent, type="response.content_part.added", **place, part=part)
            )
            piece = TextDelta(sequence_number=0, **place, delta=TEXT_MARK)
        else:
            piece = ArgumentsDelta(sequence_number=0, **place, delta=TEXT_MARK)
        head, after = to_named_event(piece).split(to_json(TEXT_MARK))
        before, between = head.split(NUMBER_FIELD + b"0")
        self._around = before + NUMBER_FIELD, between, after
        return events

    def _done_events(self, item: Item) -> list[bytes]:
        """The events that end an item."""
        events = []
        place = {"item_id": item.id, "output_index": item.index}
        if item.call is None:
            part = item.to_part()
            done = self._event(TextDone, **place, text=part.text, logprobs=part.logprobs)
            events.append(done)
            events.append(
                self._event(PartEvent, type="response.content_part.done", **place, part=part)
            )
        else:
            done = self._event(ArgumentsDone, **place, name=item.call, arguments=item.text)
            events.append(done)
        events.append(
            self._event(
                ItemEvent,
                type="response.output_item.done",
                output_index=item.index,
                item=item.to_output(),
            )
        )
        return events

    def _text_event(self, text: str) -> bytes:
        """The hot path: the event of a delta with nothing but text, encoded once for each item."""
        before, between, after = self._around
        number = self._number
        self._number = number + 1
        return b"%b%d%b%b%b" % (before, number, between, to_event_text(text), after)

    def _text_with_tokens(self, item: Item, text: str, tokens: Sequence[Token]) -> bytes:
        return self._event(
            TextDelta,
            item_id=item.id,
            output_index=item.index,
            delta=text,
            logprobs=to_chat_logprobs(tokens).content,
        )

    def _response_event(
        self, kind: str, status: Status, error: ResponseFailure | None = None
    ) -> bytes:
        reply = to_reply(self._generation, self._body, self._output, status, error)
        return self._event(ResponseEvent, type=kind, response=reply)

    def _event(self, model: type[Event], **fields: Any) -> bytes:
        event = model(sequence_number=self._number, **fields)
        self._number += 1
        return to_named_event(event)
