"""Hostile requests of each kind, with the statuses that may answer them."""

from typing import Any

from tests.support.bodies import CHAT, COMPLETIONS, RESPONSES
from tests.support.server_process import ROOM
from tests.support.wire import posted

MEGABYTES = 8 * 2**20 - 1000


def asked(path: str, content: dict[str, Any] | str | bytes) -> bytes:
    return posted(path, content, "Connection: close")


def filled(before: str, unit: str, after: str, size: int = MEGABYTES) -> str:
    return before + unit * (size // len(unit.encode())) + after


def completion(**fields: object) -> bytes:
    return asked(COMPLETIONS, {"prompt": "a", "max_tokens": 2, **fields})


WELL = {
    "type": "object",
    "properties": {f"p{at}": {"type": "string", "pattern": "^[a-z]{1,50}$"} for at in range(200)},
}
KINDS = {
    "a word of 8 MB": ({400}, asked(COMPLETIONS, filled('{"prompt": "', "a", '"}'))),
    "Chinese of 8 MB": ({400}, asked(COMPLETIONS, filled('{"prompt": "', "字", '"}'))),
    "8 MB to a chat": ({400}, asked(CHAT, filled('{"messages": "', "a ", '"}'))),
    "a word that is nearly too long": ({400}, completion(prompt="a" * 28_000)),
    "8 MB of spaces": ({200, 503}, asked(COMPLETIONS, filled('{"max_tokens": 1, "prompt": "a"', " ", "}"))),
    "8 MB that is no JSON": ({400}, asked(COMPLETIONS, b"\0" * MEGABYTES)),
    "8 MB of brackets": ({413}, asked(COMPLETIONS, filled('{"prompt": ', "[", ""))),
    "nested as deep as may be": ({400}, asked(COMPLETIONS, filled('{"prompt": ', "[", "", 250_000))),
    "many numbers": ({400}, asked(COMPLETIONS, filled('{"prompt": [', "1,", "1]}", 2 * 250_000))),
    "many prompts": ({400}, asked(COMPLETIONS, filled('{"prompt": [', "[1],", "[1]]}", 4 * 125_000))),
    "as many prompts as may be": ({400}, completion(prompt=["a"] * 2048)),
    "as many messages as may be": ({400}, asked(CHAT, {"messages": [{"role": "user"}, {"role": "assistant"}] * 2048})),
    "many messages": (
        {400}, asked(CHAT, filled('{"messages": [', '{"role":"user"},', '{"role":"user"}]}', 1_200_000)),
    ),
    "many fields": ({400}, completion(**{f"field {at}": at for at in range(120_000)})),
    "many biases": ({400}, completion(logit_bias=dict.fromkeys(range(120_000), 1))),
    "many parts": ({400}, asked(CHAT, {"messages": [{"role": "user", "content": ["a"] * 250_000}]})),
    "many calls": ({400}, asked(CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"name": 1}] * 80_000}]})),
    "8 MB to a response": ({400}, asked(RESPONSES, filled('{"truncation": "auto", "input": "', "a ", '"}'))),
    "as many items as may be": (
        {200, 503},
        asked(
            RESPONSES,
            {"input": [{"role": "user", "content": "a"}] * 4095, "truncation": "auto", "max_output_tokens": 2},
        ),
    ),
    "as many outputs as may be": (
        {400}, asked(RESPONSES, {"input": [{"type": "function_call_output", "call_id": "a", "output": "b"}] * 4095}),
    ),
    "many items": (
        {400}, asked(RESPONSES, {"input": [{"type": "reasoning"}] * 80_000}),
    ),
    "tokens of 1 MB": ({200}, asked("/tokenize", filled('{"prompt": "', "a", '"}', 2**20 - 100))),
    "tokens of a large body": ({413}, asked("/tokenize", filled('{"prompt": "', "a", '"}'))),
    "text of many tokens": ({200}, asked("/detokenize", {"tokens": [1000] * 170_000})),
    "text of too many tokens": ({413}, asked("/detokenize", {"tokens": [1000] * 250_000})),
    "a batch for all room": ({200, 503}, completion(prompt=["a"] * (ROOM - 1))),
    "many choices": ({200, 503}, completion(n=ROOM - 1)),
    "many beams": ({200, 503}, completion(num_beams=16, n=16)),
    "long stop strings": ({200, 503}, completion(stop=["字" * 1024] * 16, n=16)),
    "long lists of tokens": (
        {200, 503},
        completion(stop_token_ids=[*range(2, 1026)], logit_bias=dict.fromkeys(range(2, 1026), 1), n=16),
    ),
    "too many choices": ({400}, completion(n=10**9)),
    "a large schema": (
        {200, 400, 503}, completion(response_format={"type": "json_schema", "json_schema": {"schema": WELL}}),
    ),
    "a regex that explodes": ({200, 400, 503}, completion(structured_outputs={"regex": "((a{1,200}){1,200}){1,99}"})),
    "another that explodes": ({200, 400, 503}, completion(structured_outputs={"regex": "(.*a.*){40}b"})),
    "a grammar that goes in circles": (
        {200, 400, 503}, completion(structured_outputs={"grammar": "start: start start | \"a\""}),
    ),
    "large choices": (
        {200, 400, 503}, completion(structured_outputs={"choice": [f"{at}" + "字" * 1000 for at in range(1000)]}),
    ),
    "a length that lies": ({413}, asked(COMPLETIONS, "{}").replace(b"Length: 2", b"Length: 1000000000000")),
    "no length": ({400, 408}, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    "a head without end": ({431}, b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000),
    "noise": ({400}, bytes(range(256)) * 100),
    "an unknown path": ({404}, asked("/" + "a" * 60_000, "{}")),
}  # fmt: skip
