"""The beams of a running search among the events of a stream, where `stream_options` ask for them."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from generation import BeamsDelta, BeamState, Delta
from protocol import ChatChunk, Completion
from tests.support.bodies import ASK, CHAT, COMPLETIONS, RESPONSES, TALK
from tests.support.fake_engine import FakeEngine
from tests.support.replies import error, events

BEGUN = [BeamState("北", -0.5, None), BeamState("上\u2028", -1.25, None)]
ENDED = [BeamState("上海", -1.5, None), BeamState("北京。", -0.25, "stop")]
SEARCH = (
    BeamsDelta(0, "", (), beams=BEGUN),
    Delta(0, "北", (5,)),
    Delta(0, "", (6,)),
    BeamsDelta(0, "", (), beams=ENDED),
    Delta(0, "京。", (7, 2), "stop"),
)
BEAMS = {"num_beams": 2}
IGNORED = "stream_options.include_beams"
OPTIONS: list[dict[str, Any]] = [
    {},
    {"include_usage": True},
    {"include_usage": True, "continuous_usage_stats": True},
]
both_endpoints = pytest.mark.parametrize(
    ("path", "body"), [(COMPLETIONS, ASK), (CHAT, TALK)], ids=["completions", "chat"]
)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(SEARCH)


def streamed(
    client: TestClient, path: str, body: dict[str, Any], **options: Any
) -> list[dict[str, Any]]:
    body = {**BEAMS, **body, "stream": True, "stream_options": options}
    return events(client.post(path, json=body).text)


@both_endpoints
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_beams_come_among_the_chunks_and_change_no_other(
    client: TestClient, path: str, body: dict[str, Any], options: dict[str, Any]
) -> None:
    without = streamed(client, path, body, **options)
    shown = streamed(client, path, body, **options, include_beams=True)
    beams = [event for event in shown if "beams" in event]
    assert [event["choices"] for event in beams] == [[], []]
    assert [event["beams"] for event in beams] == [
        [
            {"text": "北", "score": -0.5, "finish_reason": None},
            {"text": "上\u2028", "score": -1.25, "finish_reason": None},
        ],
        [
            {"text": "上海", "score": -1.5, "finish_reason": None},
            {"text": "北京。", "score": -0.25, "finish_reason": "stop"},
        ],
    ]
    for event in (*shown, *without):
        del event["id"], event["created"]
    assert [event for event in shown if event not in beams] == without
    assert shown.index(beams[0]) < shown.index(beams[1]) < len(shown) - 1
    assert all(("usage" in event) == ("continuous_usage_stats" in options) for event in beams)


@both_endpoints
@pytest.mark.parametrize("fields", [{}, {"return_token_ids": True}, {"logprobs": 1}], ids=str)
def test_each_event_is_one_of_the_wire_format(
    client: TestClient, path: str, body: dict[str, Any], fields: dict[str, Any]
) -> None:
    chunk: type[ChatChunk | Completion] = ChatChunk if path == CHAT else Completion
    schema = client.get("/openapi.json").json()
    if path == CHAT:
        validator = Draft202012Validator(ChatChunk.model_json_schema(mode="serialization"))
    else:
        schema["$ref"] = "#/components/schemas/Completion"
        validator = Draft202012Validator(schema)
    if path == CHAT and "logprobs" in fields:
        fields = {"logprobs": True}
    found = streamed(client, path, {**body, **fields}, include_beams=True, include_usage=True)
    assert sum("beams" in event for event in found) == 2
    for event in found:
        assert (
            chunk.model_validate(event, extra="forbid", strict=True)
            .model_dump(exclude_unset=True)
            .keys()
            == event.keys()
        )
        validator.validate(event)


@both_endpoints
def test_the_engine_is_asked_for_beams_only_where_a_stream_asks(
    client: TestClient, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    for options in ({"include_beams": True}, {"include_beams": False}, {}):
        streamed(client, path, body, **options)
    client.post(path, json={**BEAMS, **body})
    asked = [decoding.include_beams for _, decoding, _ in engine.asked]
    assert asked == [True, False, False, False]


@both_endpoints
@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        (BEAMS, None),
        ({"use_beam_search": True}, None),
        ({}, IGNORED),
        ({"n": 2, "best_of": 3}, IGNORED),
    ],
    ids=str,
)
def test_where_it_has_no_effect_it_is_named(
    client: TestClient, path: str, body: dict[str, Any], fields: dict[str, Any], ignored: str | None
) -> None:
    asked = {**body, **fields, "stream": True}
    named = client.post(path, json={**asked, "stream_options": {"include_beams": True}}).headers
    assert named.get("X-Ignored-Parameters") == ignored
    unnamed = client.post(path, json={**asked, "stream_options": {"include_beams": False}}).headers
    assert "X-Ignored-Parameters" not in unnamed


@both_endpoints
def test_without_a_stream_it_is_a_400_and_responses_name_it(
    client: TestClient, path: str, body: dict[str, Any]
) -> None:
    options = {"stream_options": {"include_beams": True}}
    assert (
        error(client.post(path, json={**BEAMS, **body, **options}), 400).param == "stream_options"
    )
    wrong = {"stream": True, "stream_options": {"include_beams": "some"}}
    fault = error(client.post(path, json={**BEAMS, **body, **wrong}), 400)
    assert fault.param == "stream_options.include_beams"
    for stream in (False, True):
        asked = {"input": "你好", **BEAMS, **options, "stream": stream}
        reply = client.post(RESPONSES, json=asked)
        assert (reply.status_code, reply.headers["X-Ignored-Parameters"]) == (200, IGNORED)


@both_endpoints
def test_a_beam_of_any_text_is_one_line(
    client: TestClient, path: str, body: dict[str, Any]
) -> None:
    asked = {**BEAMS, **body, "stream": True, "stream_options": {"include_beams": True}}
    text = client.post(path, json=asked).text
    assert "上\\u2028" in text
    assert all(line == "" or line.startswith("data: ") for line in text.splitlines())


@pytest.mark.parametrize(("prompts", "shown"), [(["你好"], 2), (["你好", "再见"], 0)], ids=str)
def test_of_several_prompts_no_beams_are_shown(
    client: TestClient, prompts: list[str], shown: int
) -> None:
    asked = {**BEAMS, "prompt": prompts, "stream": True, "stream_options": {"include_beams": True}}
    reply = client.post(COMPLETIONS, json=asked)
    assert sum("beams" in event for event in events(reply.text)) == shown
    assert reply.headers.get("X-Ignored-Parameters") == (None if shown else IGNORED)
