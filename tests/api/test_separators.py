"""Line separators that JSON lets through leave escaped in every event: Python's readers of lines would cut it there."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.events import to_event_text, to_json_event
from errors import APIError
from generation import Delta, FinishReason, TokenLogprob
from prompts.encoder import SentencePieceEncoder
from tests.support.app_on_fake_engine import listening
from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.fake_engine import FakeEngine

SEPARATORS = "\x85\u2028\u2029"
SAID = f"一{SEPARATORS}\\{SEPARATORS}二"
SPOKEN = [Delta(0, SAID, (5,)), Delta(0, SAID, (6,)), Delta(0, "", (2,), "stop")]
NAME = f"模型{SEPARATORS}"
TOOL = {"type": "function", "function": {"name": "f"}}


def heard(reply: httpx.Response) -> list[dict[str, Any]]:
    """The events as a reader hears them that takes lines as Python does, as httpx's `iter_lines`."""
    lines = reply.text.splitlines()
    assert lines == reply.text.split("\n")[:-1], "a separator is raw"
    *payloads, done = [line.removeprefix("data: ") for line in lines if line]
    assert done == "[DONE]"
    return [json.loads(payload) for payload in payloads]


@pytest.mark.parametrize(
    "options", [{}, {"include_usage": True}, {"continuous_usage_stats": True}], ids=str
)
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    ("path", "sent"), [(COMPLETIONS, {"prompt": SAID}), (CHAT, {"messages": SAID})]
)
def test_texts_and_the_name_of_the_model_are_whole_and_on_one_line(
    serve: Callable[..., TestClient],
    engine: FakeEngine,
    path: str,
    sent: dict[str, Any],
    n: int,
    options: dict[str, Any],
) -> None:
    engine.script = [
        *SPOKEN,
        *(Delta(1, delta.text, (5,), delta.finish_reason) for delta in SPOKEN if n == 2),
    ]
    client = serve(served_model_name=(NAME,))
    chunks = heard(
        client.post(path, json={**sent, "n": n, "stream": True, "stream_options": options})
    )
    assert {chunk["model"] for chunk in chunks} == {NAME}
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for index in range(n):
        mine = [choice for choice in choices if choice["index"] == index]
        assert "".join(
            choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in mine
        ) == (SAID * 2)


@pytest.mark.parametrize("finish_reason", [None, "stop"])
def test_log_probabilities_are_on_one_line(
    client: TestClient,
    engine: FakeEngine,
    demo_encoder: SentencePieceEncoder,
    finish_reason: FinishReason | None,
) -> None:
    ids = demo_encoder.encode([SAID])
    logs = [TokenLogprob(token_id, -0.5, [(token_id, -0.5)]) for token_id in ids]
    engine.script = [Delta(0, SAID, ids, finish_reason, logprobs=logs), Delta(0, "", (2,), "stop")]
    for path, fields in (
        (COMPLETIONS, {"prompt": "a", "logprobs": 1}),
        (CHAT, {"messages": "a", "logprobs": True}),
    ):
        choices = [
            chunk["choices"][0]
            for chunk in heard(client.post(path, json={**fields, "stream": True}))
        ]
        assert any(choice.get("logprobs") for choice in choices)
        assert SAID in [
            choice.get("text", choice.get("delta", {}).get("content")) for choice in choices
        ]


def test_an_echo_is_on_one_line(client: TestClient) -> None:
    for fields in ({}, {"logprobs": 1}):
        chunks = heard(
            client.post(COMPLETIONS, json={"prompt": SAID, "echo": True, "stream": True, **fields})
        )
        assert SAID in chunks[0]["choices"][0]["text"]


def test_a_call_is_on_one_line(client: TestClient, engine: FakeEngine) -> None:
    call = json.dumps({"name": "f", "arguments": {"a": SAID}}, ensure_ascii=False)
    engine.script = [*(Delta(0, piece, (5,)) for piece in call), Delta(0, "", (2,), "stop")]
    ask = {"messages": "a", "tools": [TOOL], "tool_choice": "required", "stream": True}
    calls = [
        chunk["choices"][0]["delta"].get("tool_calls", [{}])[0]
        for chunk in heard(client.post(CHAT, json=ask))
    ]
    functions = [call["function"] for call in calls if call]
    assert functions[0]["name"] == "f"
    assert json.loads("".join(function["arguments"] for function in functions)) == {"a": SAID}


def test_a_failure_in_a_stream_is_on_one_line(client: TestClient, engine: FakeEngine) -> None:
    engine.script = [Delta(0, "a", (5,)), APIError(500, SAID, param=SAID)]
    for path, fields in ((COMPLETIONS, {"prompt": "a"}), (CHAT, {"messages": "a"})):
        error = heard(client.post(path, json={**fields, "stream": True}))[-1]["error"]
        assert (error["message"], error["param"]) == (SAID, SAID)


def test_httpx_reads_lines_of_the_real_connection(demo_encoder: SentencePieceEncoder) -> None:
    """What is written at once passes no middleware."""
    with listening(FakeEngine(SPOKEN, delay=0.02), demo_encoder) as url:
        ask = {"messages": "a", "stream": True}
        with httpx.stream("POST", f"{url}{CHAT}", json=ask) as reply:
            payloads = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    chunks = [json.loads(payload) for payload in payloads[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == SAID * 2


@pytest.mark.parametrize(
    "text", ["", "中文", SEPARATORS, f'\\{SEPARATORS}\n"', "\u2027\u202a…“”\x84\x86"]
)
def test_only_the_separators_are_escaped(text: str) -> None:
    event = to_json_event(text)
    for spelt in (event.removeprefix(b"data: ").removesuffix(b"\n\n"), to_event_text(text)):
        assert json.loads(spelt) == text
        assert spelt.decode() == json.dumps(text, ensure_ascii=False).translate(
            {ord(character): f"\\u{ord(character):04x}" for character in SEPARATORS}
        )
