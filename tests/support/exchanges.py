"""A large set of requests of every kind to the app on a fake engine, each answered whole and as a stream.

What the engine says is drawn by a seed: texts, calls of functions and JSON, cut at any token, with log-probabilities,
for one choice or several that take turns, ended by itself, by length, or by a failure.
"""

import codecs
import json
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
from fastapi.testclient import TestClient

from api.app import build_app
from errors import APIError
from generation import Delta, TokenLogprob
from prompt_template import PromptTemplate
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import ALPACA_2
from settings import DEMO_MODEL, Settings
from tests.support.bodies import ASK, CHAT, COMPLETIONS, RESPONSES, TALK
from tests.support.fake_engine import FakeEngine
from tests.support.replies import events, typed_events
from tests.support.strings import varied_strings

TEXTS = varied_strings(500)
EACH = 20
"""Exchanges of each kind of request."""
END, VOCABULARY = 2, 1000
"""The token that ends a text, and ids below which each is a token."""
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "某地的天气", "parameters": SCHEMA}
NOW = {"name": "now"}
TOOLS = [{"type": "function", "function": each} for each in (WEATHER, NOW)]
FLAT_TOOLS = [{"type": "function", **WEATHER}, {"type": "function", **NOW, "strict": None}]
NAMED, FLAT_NAMED = (
    {"type": "function", "function": {"name": "now"}},
    {"type": "function", "name": "now"},
)
ALLOWED = [{"type": "function", "name": "weather"}]
LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 3}
CALLED = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "杭州"}'},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
FLAT_FORMAT = {"type": "json_schema", "name": "answer", "schema": SCHEMA}

KINDS: dict[str, dict[str, dict[str, Any]]] = {
    COMPLETIONS: {
        "text": {},
        "choices": {"n": 3},
        "batch": {"prompt": ["你好", "再见"]},
        "batch of choices": {"prompt": ["你好", "再见"], "n": 2},
        "token ids": {"prompt": [1, 5, 6], "return_token_ids": True},
        "log-probabilities": {"logprobs": 3},
        "log-probabilities alone": {"logprobs": 0},
        "log-probabilities of choices": {"logprobs": 1, "n": 2},
        "echo": {"echo": True},
        "echo with log-probabilities": {"echo": True, "logprobs": 2},
        "prompt alone": {"echo": True, "logprobs": 1, "max_tokens": 0},
        "nothing": {"max_tokens": 0},
        "JSON": {"response_format": {"type": "json_object"}},
        "JSON by a schema": {"response_format": FORMAT},
        "a choice of texts": {"structured_outputs": {"choice": ["是", "否"]}},
        "ignored fields": {"nobody": 1, "user": "me"},
    },
    CHAT: {
        "text": {},
        "choices": {"n": 3},
        "token ids": {"return_token_ids": True},
        "log-probabilities": {"logprobs": True, "top_logprobs": 3},
        "log-probabilities alone": {"logprobs": True},
        "log-probabilities of choices": {"logprobs": True, "top_logprobs": 1, "n": 2},
        "JSON": {"response_format": {"type": "json_object"}},
        "JSON by a schema": {"response_format": FORMAT},
        "tools": {"tools": TOOLS},
        "tools for choices": {"tools": TOOLS, "n": 2},
        "tools with log-probabilities": {"tools": TOOLS, "logprobs": True, "top_logprobs": 2},
        "tools with token ids": {"tools": TOOLS, "return_token_ids": True},
        "one call at most": {"tools": TOOLS, "parallel_tool_calls": False},
        "calls": {"tools": TOOLS, "tool_choice": "required"},
        "calls of choices": {"tools": TOOLS, "tool_choice": "required", "n": 2},
        "a named function": {"tools": TOOLS, "tool_choice": NAMED},
        "no function": {"tools": TOOLS, "tool_choice": "none"},
        "functions": {"functions": [WEATHER, NOW]},
        "functions for choices": {"functions": [WEATHER, NOW], "n": 2},
        "a named function of the older form": {
            "functions": [WEATHER, NOW],
            "function_call": {"name": "weather"},
        },
        "history": {
            "messages": [
                *TALK["messages"],
                {"role": "assistant", "content": None, "tool_calls": [CALLED]},
                {"role": "tool", "tool_call_id": "call_1", "content": "晴"},
            ],
            "tools": TOOLS,
        },
    },
    RESPONSES: {
        "text": {},
        "instructions": {"instructions": "简短", "max_output_tokens": 50, "top_k": 3},
        "log-probabilities": LOGPROBS,
        "JSON": {"text": {"format": {"type": "json_object"}, "verbosity": "low"}},
        "JSON by a schema": {"text": {"format": FLAT_FORMAT}},
        "JSON by a schema without a name": {
            "text": {"format": {"type": "json_schema", "schema": SCHEMA}}
        },
        "tools": {"tools": FLAT_TOOLS},
        "tools with log-probabilities": {"tools": FLAT_TOOLS, **LOGPROBS},
        "one call at most": {"tools": FLAT_TOOLS, "parallel_tool_calls": False},
        "calls": {"tools": FLAT_TOOLS, "tool_choice": "required"},
        "a named function": {"tools": FLAT_TOOLS, "tool_choice": FLAT_NAMED},
        "allowed functions": {
            "tools": FLAT_TOOLS,
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": ALLOWED},
        },
        "no function": {"tools": FLAT_TOOLS, "tool_choice": "none"},
        "metadata": {"metadata": {"run": "7"}, "truncation": "auto", "store": True, "seed": 5},
        "history": {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "你好"}]},
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "c", "name": "now", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "晴"},
            ],
            "tools": FLAT_TOOLS,
            "nobody": {"some": 1},
        },
    },
}
"""By path and name, what a request has beside its prompt."""
PROMPTS: dict[str, dict[str, Any]] = {COMPLETIONS: ASK, CHAT: TALK, RESPONSES: {"input": "你好"}}
STREAMS: dict[str, list[dict[str, bool] | None]] = {
    COMPLETIONS: [None, {"include_usage": True}, {"continuous_usage_stats": True}],
    CHAT: [None, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}],
    RESPONSES: [None],
}
"""By path, the options that streams are asked for with."""
REFUSED: dict[str, list[dict[str, Any]]] = {
    path: [
        dict.fromkeys(prompt),
        {"model": "gpt-4"},
        {"temperature": "warm"},
        {"n": 100000},
        {"text" if path == RESPONSES else "response_format": {"format": 1, "type": 1}},
        dict.fromkeys(prompt, "龘" * 9000),
    ]
    for path, prompt in PROMPTS.items()
}
REFUSED[CHAT] += [{"tools": TOOLS, "tool_choice": {"type": "function", "function": {}}}]
REFUSED[RESPONSES] += [{"previous_response_id": "resp_1"}, {"tools": [{"type": "web_search"}]}]
"""By path, what makes a request one that is answered by an error, streamed or not."""


@dataclass(frozen=True)
class Exchange:
    """A request, and both ways in which it was answered."""

    path: str
    body: dict[str, Any]
    plain: httpx.Response
    streamed: httpx.Response

    @property
    def events(self) -> list[Any]:
        """Of the stream."""
        return (typed_events if self.path == RESPONSES else events)(self.streamed.text)

    @property
    def failure(self) -> Any:
        """The error in which the stream ends, if it does."""
        return next((event["error"] for event in self.events if event.get("error")), None)

    @property
    def chunks(self) -> list[Any]:
        """The events that have a type of their own."""
        return [event for event in self.events if "error" not in event or "type" in event]


@cache
def exchanges(path: str, kind: str) -> list[Exchange]:
    """All of one kind, or those that are refused; the same each time."""
    engine, client, encoder = _app()
    speaker = Speaker(encoder, random.Random(f"{path} {kind}"))
    bodies = REFUSED[path] if kind == "refused" else [KINDS[path][kind]] * EACH
    return [speaker.ask(engine, client, path, {**PROMPTS[path], **body}) for body in bodies]


@cache
def _app() -> tuple[FakeEngine, TestClient, SentencePieceEncoder]:
    engine, encoder = FakeEngine(), SentencePieceEncoder(DEMO_MODEL / "tokenizer.model")
    app = build_app(engine, PromptTemplate(ALPACA_2, encoder), Settings(), log=lambda _: None)
    return engine, TestClient(app, raise_server_exceptions=False), encoder


@dataclass
class Speaker:
    """Makes scripts for a fake engine."""

    encoder: SentencePieceEncoder
    chooser: random.Random

    def ask(
        self, engine: FakeEngine, client: TestClient, path: str, body: dict[str, Any]
    ) -> Exchange:
        """Ask twice, for the whole reply and for a stream, of the same script."""
        engine.script = self.script(body)
        options = self.chooser.choice(STREAMS[path])
        stream = {"stream": True, "stream_options": options}
        plain, streamed = (client.post(path, json={**body, **more}) for more in ({}, stream))
        return Exchange(path, body, plain, streamed)

    def script(self, body: dict[str, Any]) -> list[Delta | Exception]:
        """Of all choices of one prompt, their deltas in any order of choices."""
        waiting = [self._choice(index, body) for index in range(min(body.get("n", 1), 9))]
        deltas: list[Delta | Exception] = []
        while waiting := [each for each in waiting if each]:
            deltas.append(self.chooser.choice(waiting).pop(0))
        if self.chooser.random() < 0.15:
            failures = APIError(503, "The engine died.", code="engine_dead"), RuntimeError("secret")
            deltas[self.chooser.randrange(len(deltas)) :] = [self.chooser.choice(failures)]
        return deltas

    def _choice(self, index: int, body: dict[str, Any]) -> list[Delta]:
        """One choice, a few of its tokens in each delta, whose text lacks a character that is not yet whole."""
        cut = self.chooser.random() < 0.3
        ids = self._ids(self._text(body))
        ids = ids[: self.chooser.randint(0, len(ids))] if cut else [*ids, END]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        deltas = []
        while ids:
            size = self.chooser.choice([1, 1, 1, 2, 5])
            now, ids = ids[:size], ids[size:]
            spelt = b"".join(self.encoder.token_bytes(each) for each in now if each != END)
            text = decoder.decode(spelt, final=not ids)
            deltas.append(Delta(index, text, now, logprobs=[self._logprob(each) for each in now]))
        if not deltas or self.chooser.random() < 0.5:
            deltas.append(Delta(index, "", (), logprobs=[]))
        deltas[-1].finish_reason = "length" if cut else "stop"
        if not body.keys() & {"logprobs", "include"}:
            for delta in deltas:
                delta.logprobs = None
        return deltas

    def _ids(self, text: str) -> list[int]:
        """The tokens of a text that stands behind another one."""
        begin = len(self.encoder.encode(["\n"]))
        return self.encoder.encode([f"\n{text}"])[begin:]

    def _logprob(self, token_id: int) -> TokenLogprob:
        logprob = self.chooser.choice([0.0, -0.5, -7.25, float("-inf")])
        others = self.chooser.sample(range(VOCABULARY), self.chooser.randint(0, 3))
        return TokenLogprob(token_id, logprob, [(token_id, logprob), *((i, -9.0) for i in others)])

    def _text(self, body: dict[str, Any]) -> str:
        """A text, JSON, or calls behind a text; only calls where the answer has to be such."""
        if not body.keys() & {"tools", "functions"}:
            return self.chooser.choice([*TEXTS, "", json.dumps({"city": "杭州"})])
        choice = json.dumps(body.get("tool_choice") or body.get("function_call") or "auto")
        if '"name"' in choice and "allowed" not in choice:
            return self._call("now" if "now" in choice else "weather")
        is_single = "functions" in body or body.get("parallel_tool_calls") is False
        count = 1 if is_single else self.chooser.randint(1, 3)
        names = self.chooser.choices(["weather", "now"], k=count)
        calls = "\n".join(map(self._call, names))
        before = self.chooser.choice(TEXTS)
        may_speak = [before, f"{before}\n{calls}"] if "required" not in choice else []
        return self.chooser.choice([calls, *may_speak])

    def _call(self, name: str) -> str:
        city = self.chooser.choice(['杭"州}', "{[", "\\", "😀", ""])
        arguments = json.dumps({"city": city} if name == "weather" else {}, ensure_ascii=False)
        return f'{{"name": "{name}", "arguments": {arguments}}}'
