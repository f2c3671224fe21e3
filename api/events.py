"""JSON for a server-sent event: in one line for every reader, also for one that knows more line ends than the standard.

Python's `str.splitlines`, and so httpx's `iter_lines`, ends a line at U+0085, U+2028 and U+2029 too. JSON escapes none
of the three, and allows each to be escaped wherever it may stand.
"""

from typing import Any

from pydantic_core import to_json

from errors import APIError
from server.event_stream import StreamFormat

ESCAPES = {character: rb"\u%04x" % ord(character) for character in "\x85\u2028\u2029"}
SEPARATORS = frozenset(ESCAPES)
END = b"}\n\n"
"""What the event of an object ends with."""


def to_event_text(text: str) -> bytes:
    """The JSON of a short text, for the hot path: a look at its few characters costs less than one at its bytes."""
    spelt = to_json(text)
    return spelt if SEPARATORS.isdisjoint(text) else escape_separators(spelt)


def escape_separators(spelt: bytes) -> bytes:
    """The same JSON with its line separators escaped."""
    for character, escape in ESCAPES.items():
        spelt = spelt.replace(character.encode(), escape)
    return spelt


def to_event(payload: bytes) -> bytes:
    """A payload as an event."""
    return b"data: %b\n\n" % payload


def to_json_event(item: Any) -> bytes:
    """A model or plain values as an event."""
    return to_event(escape_separators(to_json(item)))


def to_named_event(item: Any) -> bytes:
    """A model as an event that has its `type` as its name too."""
    return b"event: %b\n%b" % (item.type.encode(), to_json_event(item))


def to_failure_event(failure: APIError) -> bytes:
    """The error body of a failure after the first byte of a stream."""
    return to_event(escape_separators(failure.to_json()))


OPENAI_STREAM = StreamFormat(to_failure_event, last_event=to_event(b"[DONE]"))
"""How a stream of OpenAI's API reports a failure, and how it ends."""
