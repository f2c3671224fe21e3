"""Streams of `/v1/responses`: typed events in OpenAI's order, which add up to the plain reply."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from openai import APIError as ClientsError
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from api import responses_protocol
from api.events import to_named_event
from api.responses_protocol import Event
from errors import APIError
from generation import Decoding, Delta, Deltas, FinishReason, Prompt, TokenLogprob
from prompts.encoder import SentencePieceEncoder
from tests.support.app_on_fake_engine import listening
from tests.support.bodies import RESPONSES
from tests.support.fake_engine import SCRIPTS, FakeEngine
from tests.support.joined import items, without_ids
from tests.support.polling import wait_for
from tests.support.replies import typed_events

ASK: dict[str, Any] = {"input": "你好"}
STREAM = {**ASK, "stream": True}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
MODELS = {
    kind: model
    for model in vars(responses_protocol).values()
    if isinstance(model, type) and issubclass(model, Event) and model is not Event
    for kind in getattr(model.model_fields["type"].annotation, "__args__", ())
}
"""By the type of an event."""
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
BEGIN = ["response.created", "response.in_progress"]
BEGIN_MESSAGE = ["response.output_item.added", "response.content_part.added"]
END_MESSAGE = [
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
TEXT, ARGUMENTS = "response.output_text.delta", "response.function_call_arguments.delta"
END_CALL = ["response.function_call_arguments.done", "response.output_item.done"]


class SpeakingEngine(FakeEngine):
    """Gives a plain reply too its deltas one by one, with the calls that they begin."""

    async def _speak(self, prompt: Prompt, decoding: Decoding) -> Deltas:
        for delta in self.script:
            if isinstance(delta, Exception):
                raise delta
            yield replace(delta)


@pytest.fixture
def engine() -> FakeEngine:
    return SpeakingEngine()


def streamed(client: TestClient, **fields: Any) -> list[Any]:
    """The events of a stream, each by the strict types of OpenAI's client, and byte by byte its model's."""
    reply = client.post(RESPONSES, json={**STREAM, **fields})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    found = typed_events(reply.text)
    for event, frame in zip(found, reply.text.split("\n\n"), strict=False):
        assert EVENTS.validate_python(event, strict=True).type == event["type"]
        model = MODELS[event["type"]].model_validate(event)
        assert to_named_event(model).decode() == f"{frame}\n\n"
    return found


def types(events: Sequence[Any]) -> list[str]:
    return [event["type"] for event in events]


CALLS = [
    Delta(0, "我", (5,)),
    Delta(0, "看看", (6,)),
    Delta(0, "", (7,), call="weather"),
    Delta(0, '{"city":', (8,)),
    Delta(0, ' "杭州"}', (9,)),
    Delta(0, "{}", (10,), call="now"),
    Delta(0, "", (2,), "tool_calls"),
]
KINDS: dict[str, tuple[list[Delta | Exception], list[str]]] = {
    "text": (SCRIPTS["stop"], [*BEGIN_MESSAGE, TEXT, TEXT, *END_MESSAGE, "response.completed"]),
    "text that is cut": (
        SCRIPTS["length"],
        [*BEGIN_MESSAGE, TEXT, TEXT, *END_MESSAGE, "response.incomplete"],
    ),
    "no text": (SCRIPTS["empty"], [*BEGIN_MESSAGE, *END_MESSAGE, "response.completed"]),
    "text that comes late": (
        SCRIPTS["emoji and quotes"],
        [*BEGIN_MESSAGE, TEXT, TEXT, *END_MESSAGE, "response.completed"],
    ),
    "separators": (
        [Delta(0, "一\x85二\u2028三\u2029", (5,)), Delta(0, "\u2028", (2,), "stop")],
        [*BEGIN_MESSAGE, TEXT, TEXT, *END_MESSAGE, "response.completed"],
    ),
    "a call": (
        [
            Delta(0, "", (5,)),
            Delta(0, '{"a"', (6,), call="f"),
            Delta(0, ": 1}", (7,), "tool_calls"),
        ],
        ["response.output_item.added", ARGUMENTS, ARGUMENTS, *END_CALL, "response.completed"],
    ),
    "a call that is cut": (
        [Delta(0, "", (5,), call="f"), Delta(0, '{"a"', (6,), "length")],
        ["response.output_item.added", ARGUMENTS, *END_CALL, "response.incomplete"],
    ),
    "a call without arguments so far": (
        [Delta(0, "", (5,), "length", call="f")],
        ["response.output_item.added", *END_CALL, "response.incomplete"],
    ),
    "text and calls": (
        [*CALLS],
        [
            *BEGIN_MESSAGE,
            *(TEXT, TEXT),
            *END_MESSAGE,
            "response.output_item.added",
            *(ARGUMENTS, ARGUMENTS),
            *END_CALL,
            "response.output_item.added",
            ARGUMENTS,
            *END_CALL,
            "response.completed",
        ],
    ),
    "a second call that is cut": (
        [*CALLS[2:-2], Delta(0, "{", (5,), call="now"), Delta(0, "", (6,), "length")],
        [
            "response.output_item.added",
            *(ARGUMENTS, ARGUMENTS),
            *END_CALL,
            "response.output_item.added",
            ARGUMENTS,
            *END_CALL,
            "response.incomplete",
        ],
    ),
}


@pytest.mark.parametrize(("script", "order"), KINDS.values(), ids=KINDS)
def test_events_come_in_openais_order_and_add_up_to_the_plain_reply(
    client: TestClient, engine: FakeEngine, script: list[Delta | Exception], order: list[str]
) -> None:
    engine.script = script
    plain = client.post(RESPONSES, json=ASK).json()
    Response.model_validate(plain, strict=True)
    events = streamed(client)
    assert types(events) == [*BEGIN, *order]
    last = events[-1]["response"]
    assert without_ids(last) == without_ids(plain)
    assert items(events) == last["output"]
    for begun in (event["response"] for event in events[:2]):
        assert (begun["status"], begun["output"]) == ("in_progress", [])
        assert "usage" not in begun
        for name in ("id", "created_at", "model", "tools", "temperature"):
            assert begun[name] == last[name]
    ids = [item["id"] for item in last["output"]]
    assert len({*ids}) == len(ids)


def test_items_are_whole_or_cut_off(client: TestClient, engine: FakeEngine) -> None:
    engine.script = CALLS
    assert [item["status"] for item in streamed(client)[-1]["response"]["output"]] == [
        "completed"
    ] * 3
    engine.script = KINDS["a second call that is cut"][0]
    assert [item["status"] for item in streamed(client)[-1]["response"]["output"]] == [
        "completed",
        "incomplete",
    ]
    call = '{"name": "weather", "arguments": {"city": '
    ends: tuple[FinishReason, ...] = ("length", "stop")
    for reason in ends:
        engine.script = [Delta(0, call, (5,)), Delta(0, "", (2,), reason)]
        last = streamed(client, tools=[TOOL], tool_choice="required")[-1]["response"]
        assert last["output"][0]["status"] == "incomplete"
        assert last["status"] == ("incomplete" if reason == "length" else "completed")


def test_log_probabilities_are_in_deltas_and_in_the_part(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    ids = demo_encoder.encode(["北京。"])[1:]
    spelt = [demo_encoder.token_bytes(token_id).decode() for token_id in ids]
    script = [
        Delta(0, text, (token_id,), logprobs=[TokenLogprob(token_id, -0.5, [(token_id, -0.5), (5, -2.0)])])
        for token_id, text in zip(ids, spelt, strict=True)
    ]  # fmt: skip
    engine.script = [
        *script,
        Delta(0, "", (2,), "stop", logprobs=[TokenLogprob(2, -0.1, [(2, -0.1)])]),
    ]
    ask = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    plain = client.post(RESPONSES, json={**ASK, **ask}).json()
    [message] = Response.model_validate(plain, strict=True).output
    assert message.type == "message"
    [part] = message.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert [token.logprob for token in part.logprobs] == [-0.5] * len(ids) + [-0.1]
    assert b"".join(bytes(token.bytes) for token in part.logprobs).decode() == part.text
    assert [len(token.top_logprobs) for token in part.logprobs] == [2] * len(ids) + [1]
    events = streamed(client, **ask)
    assert without_ids(events[-1]["response"]) == without_ids(plain)
    assert items(events) == events[-1]["response"]["output"]
    assert client.post(RESPONSES, json=ASK).json()["output"][0]["content"][0]["logprobs"] == []


def test_log_probabilities_of_calls_are_left_out(client: TestClient, engine: FakeEngine) -> None:
    engine.script = [
        replace(delta, logprobs=[TokenLogprob(token_id, -1.0) for token_id in delta.token_ids])
        for delta in CALLS
    ]
    events = streamed(client, include=["message.output_text.logprobs"])
    assert items(events) == events[-1]["response"]["output"]
    assert [item["type"] for item in items(events)] == ["message", *["function_call"] * 2]


def test_usage_counts_what_was_generated(client: TestClient) -> None:
    usage = streamed(client)[-1]["response"]["usage"]
    assert usage["output_tokens"] == 4
    assert usage["total_tokens"] == usage["input_tokens"] + 4


FAILURES = [
    (
        APIError(503, "The engine died.", code="engine_dead"),
        {"code": "engine_dead", "type": "server_error", "message": "The engine died."},
    ),
    (
        RuntimeError("secret"),
        {
            "code": "server_error",
            "type": "server_error",
            "message": "The server failed unexpectedly; the failure is in its log.",
        },
    ),
]


@pytest.mark.parametrize(("failure", "told"), FAILURES, ids=str)
@pytest.mark.parametrize("script", [SCRIPTS["stop"][:1], CALLS[:4]], ids=["text", "call"])
def test_a_failure_in_mid_stream_is_an_error_and_a_failed_response(
    client: TestClient,
    engine: FakeEngine,
    script: list[Delta],
    failure: Exception,
    told: dict[str, str],
) -> None:
    engine.script = [*script, failure]
    events = streamed(client)
    error, last = events[-2:]
    assert types(events[-2:]) == ["error", "response.failed"]
    assert error["error"] == {**told, "param": None}
    assert {name: error[name] for name in ("code", "message", "param")} == {
        "code": told["code"],
        "message": told["message"],
        "param": None,
    }
    response = last["response"]
    assert (response["status"], response["completed_at"]) == ("failed", None)
    assert response["error"] == {"code": "server_error", "message": told["message"]}
    *whole, cut = response["output"]
    assert cut["status"] == "incomplete"
    assert all(item["status"] == "completed" for item in whole)
    assert response["usage"]["output_tokens"] == sum(len(delta.token_ids) for delta in script)


def test_openais_client_reads_streams_and_their_failures(
    engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    engine.script = CALLS
    with listening(engine, demo_encoder) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with client.responses.stream(model="chinese-llama-alpaca-2", input="你好") as stream:
            seen = [event.type for event in stream]
            response = stream.get_final_response()
        assert response.output_text == "我看看"
        assert [item.type for item in response.output] == ["message", *["function_call"] * 2]
        assert seen[-1] == "response.completed"
        engine.script = [*CALLS[:2], RuntimeError()]
        with (
            pytest.raises(ClientsError, match="failed unexpectedly"),
            client.responses.stream(model="chinese-llama-alpaca-2", input="你好") as stream,
        ):
            list(stream)


def test_what_comes_too_late_fails(demo_encoder: SentencePieceEncoder) -> None:
    slow = FakeEngine(delay=0.2)
    with listening(slow, demo_encoder, request_timeout=0.3) as url:
        events = typed_events(httpx.post(f"{url}{RESPONSES}", json=STREAM).text)
    assert types(events[-2:]) == ["error", "response.failed"]
    assert events[-2]["code"] == "request_timeout"


def test_a_stream_that_fails_behind_a_comment_begins_with_its_error(
    demo_encoder: SentencePieceEncoder,
) -> None:
    slow = FakeEngine(script=[RuntimeError()], delay=1.5)
    with listening(slow, demo_encoder, sse_keep_alive=1) as url:
        text = httpx.post(f"{url}{RESPONSES}", json=STREAM).text
    assert text.startswith(": keep-alive\n\n")
    assert types(typed_events(text.removeprefix(": keep-alive\n\n"))) == [
        "error",
        "response.failed",
    ]


def test_a_client_that_leaves_frees_the_engine(demo_encoder: SentencePieceEncoder) -> None:
    engine = FakeEngine(script=[Delta(0, "字", (5,))] * 1000, delay=0.01)
    with listening(engine, demo_encoder) as url:
        for fields in ({}, {"stream": True}):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(
                    f"{url}{RESPONSES}",
                    json={**ASK, **fields},
                    timeout=httpx.Timeout(5, read=0.005),
                )
            assert wait_for(lambda: engine.running == 0, 5)


def test_ignored_fields_are_named_before_the_stream(serve: Callable[..., TestClient]) -> None:
    reply = serve().post(RESPONSES, json={**STREAM, "nobody": 1})
    assert reply.headers["X-Ignored-Parameters"] == "nobody"
    assert reply.headers["Cache-Control"] == "no-cache"
