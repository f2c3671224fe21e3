"""Fields of a request that have no effect, which the header `X-Ignored-Parameters` of its reply names."""

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote

from starlette.requests import Request as HTTPRequest

from api.conversation import unshown_names
from api.tool_calls import CALL_FIELDS, unused_fields
from generation import Decoding
from protocol import ChatCompletionRequest, GuidedFields, Request
from server.request_record import request_record

MAX_NAMES, MAX_NAME_CHARACTERS = 10, 40
PLAIN = "!#$&()*+-./:;<=>?@[]^_{|}~"
"""Besides letters and digits, the characters that a name in the header has as they are."""

UNUSED_WITHOUT_BEAMS = ("length_penalty", "early_stopping")


def ignored_fields(body: Request, decoding: Decoding) -> list[str]:
    """Fields that were sent and have no effect: unknown ones, and what this way of decoding has no use for."""
    sent = body.model_fields_set
    names = body.unknown_fields + [name for name in _unused(body, decoding) if name in sent]
    if body.structured_outputs is not None:
        names += sorted(GuidedFields.model_fields.keys() & sent)
    options = body.stream_options
    if options is not None and options.include_beams and not decoding.include_beams:
        names.append("stream_options.include_beams")
    if isinstance(body, ChatCompletionRequest):
        if any(message.name for message in body.messages):
            names += unshown_names(body.messages)
        if not CALL_FIELDS.isdisjoint(sent):
            names += unused_fields(body, decoding)
    return names


def _unused(body: Request, decoding: Decoding) -> Sequence[str]:
    """Fields that this way of decoding has no use for, whether they were sent or not."""
    if decoding.is_beam_search:
        return _unused_with_beams(body)
    if not decoding.is_greedy:
        return UNUSED_WITHOUT_BEAMS
    return UNUSED_WITHOUT_BEAMS + _unused_if_greedy(body)


def _unused_if_greedy(body: Request) -> tuple[str, ...]:
    """Of `temperature` and `top_p`, the one that did not make it greedy, and what only sampling has a use for."""
    is_top_p_0 = body.top_p == 0 and "top_p" in body.model_fields_set
    return ("temperature" if is_top_p_0 else "top_p", "top_k", "min_p", "seed", "best_of")


def _unused_with_beams(body: Request) -> Sequence[str]:
    names = ["temperature", "top_p", "top_k", "min_p", "seed"]
    if body.do_sample:
        names.append("do_sample")
    if body.num_beams > 1:
        names.append("best_of")
    return names


def ignored_header(request: HTTPRequest, fields: Sequence[str]) -> dict[str, str]:
    """The header that names `fields`, cut to a length that proxies let through; none for no fields.

    Characters that are not `PLAIN`, such as those of other scripts, are percent-encoded as UTF-8. The record of the
    request notes the header, for the log.
    """
    names = [_quoted(name[:MAX_NAME_CHARACTERS]) for name in fields[:MAX_NAMES]]
    if len(fields) > MAX_NAMES:
        names.append(f"and {len(fields) - MAX_NAMES} more")
    if not names:
        return {}
    header = request_record(request.scope).ignored = ", ".join(names)
    return {"X-Ignored-Parameters": header}


@lru_cache
def _quoted(name: str) -> str:
    return quote(name, PLAIN)
