"""What replies say: the events of a stream, an error, the numbers of `/metrics`."""

import json
from typing import Any

import httpx

from protocol import ErrorDetail, ErrorReply
from tests.support.paths import ROOT


def events(body: str) -> list[Any]:
    """The JSON payloads of a stream's events; asserts that it ends with [DONE]."""
    frames = body.split("\n\n")
    assert frames.pop() == ""
    assert frames.pop() == "data: [DONE]"
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def typed_events(body: str) -> list[Any]:
    """The events of a streamed response; asserts that each is named by its type, and that they are numbered."""
    frames = body.split("\n\n")
    assert frames.pop() == ""
    found = []
    for number, frame in enumerate(frames):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        found.append(event)
    return found


def error(reply: httpx.Response, status: int) -> ErrorDetail:
    """The error of a reply whose status and shape are as promised."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert len(reply.content) <= 1024
    body = ErrorReply.model_validate_json(reply.content)
    assert json.loads(reply.content) == body.model_dump()
    assert body.error.type == ("invalid_request_error" if status < 500 else "server_error")
    assert str(ROOT) not in body.error.message
    assert "Traceback" not in body.error.message
    return body.error


def numbers(client: httpx.Client) -> dict[str, float]:
    """The numbers of `/metrics` by their names and labels; vLLM's by their names, summed over its engines."""
    found: dict[str, float] = {}
    for row in client.get("/metrics").text.splitlines():
        if row[:1] not in ("#", ""):
            name, number = row.rsplit(" ", 1)
            if name.startswith("vllm:"):
                name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(number)
    return found
