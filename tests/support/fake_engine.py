"""An engine without a model: it yields the deltas that a test wrote down, and remembers what it was asked."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from errors import APIError, engine_died
from generation import BeamsDelta, Decoding, Delta, Deltas, Prompt, Source, TokenLogprob, pour

Script = Sequence[Delta | Exception]

SCRIPTS: dict[str, list[Delta | Exception]] = {
    "stop": [Delta(0, "北京", (5, 6)), Delta(0, "。", (7,)), Delta(0, "", (2,), "stop")],
    "length": [Delta(0, "北", (5,)), Delta(0, "京", (6,), "length")],
    "empty": [Delta(0, "", (2,), "stop")],
    "emoji and quotes": [Delta(0, "", (9,)), Delta(0, "😀\n\"\\\t", (9, 9)), Delta(0, "\x00龘", (1,), "stop")],
    "two choices": [
        Delta(1, "B", (3,)), Delta(0, "A", (3,)), Delta(1, "b", (4,), "length"), Delta(0, "a", (4,), "stop"),
    ],
}  # fmt: skip
HUNDRED: list[Delta | Exception] = [
    *(Delta(0, "字", (5,)) for _ in range(100)),
    Delta(0, "", (2,), "stop"),
]
"""A script of a hundred tokens, for an engine with a delay."""


@dataclass
class FakeEngine:
    """Speaks `script` for every prompt; a plain request gets each choice in one piece, as from vLLM."""

    script: Script = (Delta(0, "北京", (5, 6)), Delta(0, "。", (7,)), Delta(0, "", (2,), "stop"))
    max_model_len: int = 2048
    memory: str = "KV cache 1.0 GB"
    delay: float = 0.0
    by_seed: Mapping[int | None, tuple[Script, float]] = field(default_factory=dict)
    """Other scripts with their delays, for requests with these seeds."""
    room: int = 512
    is_ready: bool = True
    asked: list[tuple[Prompt, Decoding, int]] = field(default_factory=list)
    running: int = 0
    is_dead: bool = False
    is_draining: bool = False
    is_aborted: bool = False
    adapters: dict[str, str] = field(default_factory=dict)
    refusal: APIError | None = None
    """Of adapters."""

    @property
    def unfinished(self) -> int:
        return self.running

    async def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def drain(self) -> None:
        self.is_draining = True

    def abort(self) -> None:
        self.is_aborted = True

    def check_ready(self) -> None:
        if self.is_dead:
            raise engine_died()
        if self.is_draining:
            raise APIError(
                503,
                "The server is shutting down.",
                code="shutting_down",
                headers={"Retry-After": "1"},
            )
        if not self.is_ready:
            raise APIError(
                503,
                "The model is still loading.",
                code="server_loading",
                headers={"Retry-After": "1"},
            )

    def admit(self, choices: int) -> None:
        self.check_ready()
        if self.running + choices > self.room:
            raise APIError(
                503, "The server is full.", code="server_overloaded", headers={"Retry-After": "1"}
            )

    async def load_adapter(self, name: str, path: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.adapters[name] = path

    async def unload_adapter(self, name: str) -> None:
        del self.adapters[name]

    async def score(
        self, prompt: Prompt, decoding: Decoding, request_id: str
    ) -> list[TokenLogprob]:
        top = [(5, -0.5), (6, -1.5)][: decoding.alternatives or 0]
        return [
            TokenLogprob(token_id, -float(at) if at else None, top if at else ())
            for at, token_id in enumerate(prompt.ids)
        ]

    def generate(self, prompt: Prompt, decoding: Decoding, request_id: str) -> Source[Delta]:
        return partial(pour, self._speak(prompt, decoding))

    async def _speak(self, prompt: Prompt, decoding: Decoding) -> Deltas:
        self.asked.append((prompt, decoding, decoding.max_tokens))
        self.running += 1
        script, delay = self.by_seed.get(decoding.seed, (self.script, self.delay))
        try:
            for delta in script if decoding.stream else joined(script):
                if isinstance(delta, BeamsDelta) and not decoding.include_beams:
                    continue
                await asyncio.sleep(delay)
                if self.is_dead:
                    raise engine_died()
                if self.is_aborted:
                    raise APIError(503, "The server is shutting down.", code="shutting_down")
                if isinstance(delta, Exception):
                    raise delta
                yield replace(delta)
        finally:
            self.running -= 1


def joined(script: Script) -> list[Delta | Exception]:
    """Each choice of a script in one delta; a failure stays where it ends everything."""
    whole: dict[int, Delta] = {}
    for delta in script:
        if isinstance(delta, Exception):
            return [delta]
        if isinstance(delta, BeamsDelta):
            continue
        if (first := whole.get(delta.index)) is None:
            whole[delta.index] = replace(delta, token_ids=list(delta.token_ids))
        else:
            if delta.logprobs is not None:
                first.logprobs = [*(first.logprobs or ()), *delta.logprobs]
            first.text += delta.text
            first.token_ids = [*first.token_ids, *delta.token_ids]
            first.finish_reason = delta.finish_reason
    return list(whole.values())
