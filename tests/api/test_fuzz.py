"""Requests that nobody would write, against the real server: each is answered or refused, and the engine lives.

FUZZ_EXAMPLES=5000 asks more often than the default does.
"""

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from api.responses_protocol import ResponsesRequest
from api.tokens import TokenizeRequest
from protocol import ChatCompletionRequest, CompletionRequest
from tests.support.bodies import RESPONSES
from tests.support.replies import typed_events
from tests.support.server_process import Server

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400"))
PATHS: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatCompletionRequest,
    RESPONSES: ResponsesRequest,
    "/tokenize": TokenizeRequest,
}
REQUIRED = {"/v1/chat/completions": "messages", RESPONSES: "input"}
"""By path; others need a prompt."""
ANSWERS = {200, 400, 404, 413, 503}

texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["你好", "</s>", "<s>[INST] ", "\x00", "\u202e", "😀" * 9, "a" * 3000]),
)
numbers = st.one_of(
    st.integers(-3, 130),
    st.floats(-3, 3),
    st.sampled_from(
        [2**31 - 1, 2**31, 2**63 - 129, 2**63 - 1, 2**63, -(2**63), 10**30, 1e308, 5e-324, -0.0]
    ),
    st.floats(),
)
junk = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
ids = st.lists(st.integers(-1, 1500), max_size=12)
schemas = st.fixed_dictionaries(
    {"type": st.sampled_from(["object", "string", "integer", "array", "null", "nonsense"])},
    optional={
        "properties": st.dictionaries(texts, junk, max_size=2),
        "pattern": texts,
        "enum": st.lists(junk, max_size=3),
    },
)
functions = st.fixed_dictionaries({"name": texts | st.just("f")}, optional={"parameters": schemas})
messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant", "tool", "developer", "nobody"]),
            "content": texts | junk,
        }
    ),
    max_size=4,
)
items = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(
                ["message", "function_call", "function_call_output", "reasoning", "nonsense"]
            ),
            "role": st.sampled_from(["system", "user", "assistant", "nobody"]),
            "content": texts | junk,
            "call_id": texts,
            "name": texts,
            "arguments": texts | junk,
            "output": texts | junk,
        },
    ),
    max_size=4,
)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "prompt": texts | ids | st.lists(texts, max_size=3) | st.lists(ids, max_size=3),
    "messages": messages | texts,
    "input": messages | items | texts,
    "max_output_tokens": st.integers(-1, 8),
    "include": st.just(["message.output_text.logprobs"]),
    "truncation": st.sampled_from(["auto", "disabled"]),
    "text": st.fixed_dictionaries(
        {
            "format": st.fixed_dictionaries(
                {"type": st.sampled_from(["text", "json_object", "json_schema"])},
                optional={"schema": schemas, "name": texts},
            )
        }
    ),
    "model": st.just("chinese-llama-alpaca-2") | texts,
    "max_tokens": st.integers(-1, 8),
    "max_completion_tokens": st.integers(-1, 8),
    "n": st.integers(-1, 9),
    "best_of": st.integers(-1, 9),
    "num_beams": st.integers(-1, 9),
    "stop": texts | st.lists(texts, max_size=18),
    "stop_token_ids": ids,
    "logit_bias": st.dictionaries(st.integers(-1, 1500).map(str) | texts, numbers, max_size=4),
    "logprobs": st.booleans() | st.integers(-1, 25),
    "top_logprobs": st.integers(-1, 25),
    "stream_options": st.dictionaries(
        st.sampled_from(["include_usage", "continuous_usage_stats", "include_beams"]), st.booleans()
    ),
    "response_format": st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "json_object", "json_schema"])},
        optional={
            "json_schema": st.fixed_dictionaries({"schema": schemas}, optional={"name": texts})
        },
    ),
    "structured_outputs": st.dictionaries(
        st.sampled_from(["json", "regex", "choice", "grammar", "json_object"]),
        texts | schemas | st.lists(texts, max_size=3) | st.booleans(),
        max_size=2,
    ),
    "tools": st.lists(
        st.fixed_dictionaries({"type": st.just("function"), "function": functions})
        | functions.map(lambda function: {"type": "function", **function}),
        max_size=3,
    ),
    "tool_choice": st.sampled_from(["auto", "none", "required"])
    | st.just({"type": "function", "name": "f"})
    | st.fixed_dictionaries(
        {"type": st.just("function"), "function": st.fixed_dictionaries({"name": st.just("f")})}
    ),
}


@st.composite
def asks(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A path, and a body that mostly has the required field and a few others, some of them nonsense."""
    path = draw(st.sampled_from([*PATHS]))
    required = REQUIRED.get(path, "prompt")
    names = draw(
        st.lists(st.sampled_from([*PATHS[path].model_fields, "unknown"]), max_size=5, unique=True)
    )
    body = {required: draw(LIKELY[required]), "max_tokens": 4}
    for name in names:
        body[name] = draw(
            LIKELY.get(name, numbers | st.booleans()) if draw(st.integers(0, 4)) else junk
        )
    return path, body


@pytest.fixture(scope="module")
def alive(server: Server) -> Iterator[None]:
    """Asks for `/health` and answers a question beside what is tried; both have to be right, always."""
    wrong: list[str] = []
    done = threading.Event()
    ask = {"prompt": "中国的首都在哪里？", "temperature": 0, "max_tokens": 30}

    def watch() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            right = client.post("/v1/completions", json=ask).json()["choices"][0]["text"]
            while not done.wait(0.2):
                reply = client.post("/v1/completions", json=ask)
                if reply.status_code != 503 and reply.json()["choices"][0]["text"] != right:
                    wrong.append(reply.text)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    done.set()
    watcher.join()
    assert not wrong
    assert "Traceback" not in "".join(server.lines)


def check(http: httpx.Client, path: str, content: bytes) -> None:
    reply = http.post(path, content=content)
    assert reply.status_code in ANSWERS, (path, content, reply.text)
    if reply.status_code != 200:
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert len(reply.content) <= 1024
    elif reply.headers["content-type"].startswith("text/event-stream") and path == RESPONSES:
        last = typed_events(reply.text)[-1]
        assert last["type"] in ("response.completed", "response.incomplete"), last
    elif reply.headers["content-type"].startswith("text/event-stream"):
        *frames, end = reply.text.split("\n\n")
        assert (frames[-1], end) == ("data: [DONE]", "")
        for frame in frames[:-1]:
            failure = json.loads(frame.removeprefix("data: ")).get("error", {})
            assert failure.get("type") != "server_error", failure
    else:
        reply.json()
    assert http.get("/health").status_code == 200


@pytest.mark.engine
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[*HealthCheck], print_blob=True
)
@given(asked=asks())
def test_every_field_over_its_range_and_beyond(
    alive: None, http: httpx.Client, asked: tuple[str, dict[str, Any]]
) -> None:
    path, body = asked
    check(http, path, json.dumps(body).encode())


@pytest.mark.engine
@settings(max_examples=EXAMPLES // 4, deadline=None, suppress_health_check=[*HealthCheck])
@given(
    path=st.sampled_from([*PATHS, "/detokenize"]),
    content=st.binary(max_size=60) | junk.map(lambda body: json.dumps(body).encode()),
)
def test_bodies_that_are_no_requests(
    alive: None, http: httpx.Client, path: str, content: bytes
) -> None:
    check(http, path, content)
