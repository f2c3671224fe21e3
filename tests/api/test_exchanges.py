"""Many replies and streams of every kind: by the strict types of OpenAI's client, and the same in the end."""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.support import joined
from tests.support.bodies import CHAT, COMPLETIONS, RESPONSES
from tests.support.exchanges import KINDS, exchanges
from tests.support.replies import error

REPLIES: dict[str, Any] = {COMPLETIONS: Completion, CHAT: ChatCompletion, RESPONSES: Response}
EVENTS: dict[str, Any] = {
    COMPLETIONS: Completion,
    CHAT: ChatCompletionChunk,
    RESPONSES: ResponseStreamEvent,
}
UNKNOWN = {"prompt_token_ids", "token_ids", "store", "bytes", "name", "error"}
"""Fields that the client has no type for: vLLM's, and those of responses that OpenAI's servers send."""
ASKED = [(path, kind) for path, kinds in KINDS.items() for kind in (*kinds, "refused")]

to_adapter = cache(TypeAdapter)


def strictly_read(kind: Any, value: Any) -> None:
    """Assert that a value is of a type of OpenAI's client without any conversion, and has no field beside it."""
    read = to_adapter(kind).validate_python(value, strict=True)
    assert set(unknown_fields(read)) <= UNKNOWN


def unknown_fields(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from unknown_fields(each)
    elif isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for _, each in value:
            yield from unknown_fields(each)


def as_typed(reply: Any) -> Any:
    """A completion without the nulls that OpenAI's servers send and its types do not know.

    They are the finish reason of a chunk that is not the last, and the log-probability of the first token of a prompt.
    """
    for choice in reply["choices"] if reply.get("object") == "text_completion" else ():
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        if logprobs := choice["logprobs"]:
            logprobs["token_logprobs"] = [each or 0.0 for each in logprobs["token_logprobs"]]
            logprobs["top_logprobs"] = [each or {} for each in logprobs["top_logprobs"]]
    return reply


@pytest.mark.parametrize(("path", "kind"), ASKED, ids=str)
def test_replies_and_streams_of_every_kind(path: str, kind: str) -> None:
    for exchange in exchanges(path, kind):
        plain, streamed, whole = exchange.plain, exchange.streamed, exchange.plain.json()
        if streamed.status_code != 200:
            assert error(streamed, streamed.status_code) == error(plain, plain.status_code)
            continue
        if plain.status_code == 200:
            assert exchange.failure is None
            assert joined.usage(path, exchange.chunks) in (None, whole["usage"])
            assert joined.of_stream(path, exchange.chunks) == joined.of_reply(path, whole)
            strictly_read(REPLIES[path], as_typed(whole))
        else:
            assert exchange.failure["message"] == error(plain, plain.status_code).message
        for event in exchange.chunks:
            strictly_read(EVENTS[path], as_typed(event))


def test_the_set_has_every_end() -> None:
    found = [exchange for path, kind in ASKED for exchange in exchanges(path, kind)]
    statuses = Counter(exchange.streamed.status_code for exchange in found)
    assert {200, 400, 404, 500, 503} <= statuses.keys()
    streams = [exchange for exchange in found if exchange.streamed.status_code == 200]
    assert len(streams) > 500
    assert sum(exchange.failure is not None for exchange in streams) > 20
    ends = Counter(
        choice["finish_reason"]
        for exchange in streams
        for event in exchange.chunks
        for choice in event.get("choices", ())
    )
    assert min(ends[end] for end in ("stop", "length", "tool_calls", "function_call")) > 10
    kinds = Counter(event["type"] for each in streams for event in each.chunks if "type" in event)
    assert min(kinds.values()) > 5
    assert len(kinds) == 14
