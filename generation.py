"""The interface between API and engine: a prompt and a decoding go in, deltas come out.

Knows nothing about HTTP, OpenAI's wire format, vLLM or templates. An `Engine` is whatever has
deltas for a prompt: vLLM, or a test's script. Nothing behind it asks which endpoint a request
came from.

Deltas are pushed from the engine to the socket by calls, not awaited hop by hop: what a step of the engine has made for
hundreds of streams is then written without a task to wake for each.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


@dataclass(slots=True)
class Prompt:
    """What the engine gets to see, and what the reply needs to know of it."""

    ids: list[int]
    text: str = ""
    """The client's own text, for `echo`."""
    answer_lead: str = ""
    """Text that parts prompt and answer: the model generates it, and the engine leaves it out of its deltas."""
    lead_ids: frozenset[int] = frozenset()
    """Tokens that spell `answer_lead` and nothing else; the first of an answer is left out if it is one of them."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer has to look like. `param` is the request field that asks for it, for errors."""

    param: str
    kind: Literal["schema", "choice", "regex", "grammar"]
    value: Any
    """By kind: a JSON schema (dict); texts; a regular expression; a grammar (Lark or GBNF)."""


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How a family of models writes the call of a function: `begin`, its name, `middle`, its arguments, `end`.

    The arguments are a JSON object, spaced as `json.dumps` does. What an answer says before its calls ends with a
    newline, unless `begin` has words of its own before the JSON.
    """

    begin: str = '{"name": "'
    middle: str = '", "arguments": '
    end: str = "}"
    separator: str | None = "\n"
    """Stands between two calls; None: the model makes one at most."""

    @property
    def mark(self) -> str:
        """The text that makes an answer a call: the words before the JSON of `begin`, else all up to its first key."""
        words = self.begin.partition("{")[0].strip()
        return self.begin.partition(":")[0] if self.begins_line else words

    @property
    def begins_line(self) -> bool:
        """Whether `begin` is just JSON, which makes a call only where an answer or a line begins with it."""
        return not any(map(str.isalpha, self.begin.partition("{")[0]))

    def find(self, text: str, is_beginning: bool = True) -> int | None:
        """Return where the first call of a text begins, with the newline before it; None: there is none.

        `is_beginning`: whether the answer begins with the text.
        """
        if is_beginning and text.startswith(self.mark):
            return 0
        at = text.find(f"\n{self.mark}")
        if at < 0 and not self.begins_line:
            at = text.find(self.mark)
        return None if at < 0 else at


@dataclass(frozen=True, slots=True)
class Calls:
    """The functions that an answer may call, and how."""

    functions: tuple[Mapping[str, Any], ...]
    """Each with its `name`, `description` and `parameters`, a JSON schema."""
    format: CallFormat
    is_required: bool
    """Whether it has to call one, and be nothing else."""
    is_single: bool
    """Whether it may have one call only."""
    param: str = "tools"
    """The request field that asks for them, for errors."""


@dataclass(slots=True, kw_only=True)
class Decoding:
    """How an answer is decoded: the choices of a request, resolved. Names and units are those of the API's fields.

    It never changes; that it is not frozen saves most of the time that making one takes.
    """

    max_tokens: int
    """Of an answer, the prompt's `answer_lead` not counted."""
    n: int = 1
    """Answers that are returned."""
    width: int = 1
    """Answers that are generated, or beams that are kept: at least `n`."""
    stream: bool = False
    """Deltas as they come, not one for each answer."""
    is_beam_search: bool = False
    temperature: float = 0.0
    """0: greedy."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    early_stopping: Literal[True, False, "never"] = False
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: Sequence[int] = ()
    barred: Sequence[Sequence[int]] = ()
    """Token ids that an answer may not have one after the other."""
    alternatives: int | None = None
    """How many of the likeliest tokens are reported beside each; None: no log-probabilities."""
    constraint: Constraint | None = None
    """What an answer has to look like, unless it calls functions."""
    calls: Calls | None = None
    """What an answer may call, or has to; None: nothing."""
    adapter: str = ""
    """The adapter (LoRA) that answers; empty: the model without one."""
    cache_salt: str = ""
    """Cached prefixes of prompts are shared by requests with equal salts."""
    priority: int = 0
    """Requests with lower ones come first, where the engine schedules so."""
    include_beams: bool = False
    """Also `BeamsDelta`s, while a beam search runs whose deltas are streamed."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def is_call(self) -> bool:
        """Whether each answer has to be the call of a function."""
        return self.calls is not None and self.calls.is_required

    @property
    def takes_best(self) -> bool:
        """More are sampled than returned; greedy ones are all equal, so there is no best."""
        return self.width > self.n and not self.is_greedy and not self.is_beam_search


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log-probability, and the likeliest ones in its place, the likeliest first."""

    token_id: int
    logprob: float | None
    """None for the first token of a prompt."""
    top: Sequence[tuple[int, float]] = ()


@dataclass(slots=True)
class Delta:
    """What one choice has gained: `text` may be empty while a character is incomplete or a stop string possible."""

    index: int
    text: str
    token_ids: Sequence[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The stop string, or the id of the token, that ended the answer; None for the model's own end."""
    logprobs: Sequence[TokenLogprob] | None = None
    """Of each of `token_ids`, where they were asked for."""
    cut: str = ""
    """What the first of `token_ids` is spelt with and the text leaves out: the prompt's `answer_lead`, or nothing."""
    call: str | None = None
    """The function that is called, where its call begins."""
    call_index: int | None = None
    """Which call of the choice, from 0, `text` is the arguments of; None: it is what the client is to read."""
    cached_tokens: int = 0
    """In the last delta of a prompt with one choice, how many of its tokens came from a cache, if that is known."""


@dataclass(frozen=True, slots=True)
class BeamState:
    """A beam of a search as it stands, live or finished."""

    text: str
    """If the beam is finished, that of the choice that it would be."""
    score: float
    """The sum of its tokens' log-probabilities, divided by their number to the power of `length_penalty`."""
    finish_reason: FinishReason | None
    """None: it is live."""


@dataclass(slots=True)
class BeamsDelta(Delta):
    """A delta in which no choice gains anything: it shows the beams of a search."""

    beams: Sequence[BeamState] = ()
    """The live ones first, each kind by its score."""


Deltas = AsyncGenerator[Delta, None]
Item = TypeVar("Item")
Drain = Callable[[], Awaitable[None]]
"""Waits until a slow reader has read enough."""
Sink = Callable[[Sequence[Item]], Drain | None]
"""Takes items that come together, without waiting; returns what to await before the next call if its reader is slow.

A `Sink[Delta]` reads an engine's deltas, a `Sink[bytes]` a stream's events. A function within a function has it in
quotes: without them it would be made anew, in 5 µs, for each request.
"""
Source = Callable[[Sink[Item]], Awaitable[None]]
"""Gives all its items to a sink, in their order; cancelling it ends the work that makes them, in the engine too."""


class Engine(Protocol):
    """What generates."""

    max_model_len: int
    memory: str
    """In words what the loaded model takes."""

    async def start(self) -> None:
        """Load; raises StartError."""

    def stop(self) -> None: ...

    @property
    def is_dead(self) -> bool: ...

    @property
    def unfinished(self) -> int:
        """Requests in the engine, each choice and each run of a beam search counted."""

    def check_ready(self) -> None:
        """Raise APIError (503) while the engine loads, after `drain`, and after it died."""

    def drain(self) -> None:
        """Take no more requests."""

    def abort(self) -> None:
        """End what still runs after `drain` with an APIError (503)."""

    def admit(self, choices: int) -> None:
        """Raise APIError (503) if the engine is not ready or has no room for so many more."""

    def generate(self, prompt: Prompt, decoding: Decoding, request_id: str) -> Source[Delta]:
        """The deltas of `decoding.n` choices, in one piece each unless `decoding.stream`.

        They are what the client sees: without the prompt's `answer_lead`, which counts in no limit. Raises APIError
        at once, not at the first delta, for fields that it cannot honour.
        """

    async def score(
        self, prompt: Prompt, decoding: Decoding, request_id: str
    ) -> list[TokenLogprob]:
        """The log-probability of each token of a prompt."""

    async def load_adapter(self, name: str, path: str) -> None:
        """Load an adapter from a folder; raises APIError (400) where there is no room, or the engine cannot use it."""

    async def unload_adapter(self, name: str) -> None:
        """Drop an adapter when what runs on it has ended; raises APIError (404) for new requests from now on."""


@dataclass(slots=True)
class Generation:
    """One accepted request, and how far it has come."""

    id: str
    model: str
    prompts: list[Prompt]
    decoding: Decoding
    source: Source[Delta]
    scores: Callable[[], Awaitable[list[list[TokenLogprob]]]]
    """Of the prompts' tokens."""
    ignored: Sequence[str] = ()
    """Request fields that were sent and have no effect, with their paths."""
    tokens: int = 0
    """Generated so far."""
    cached_tokens: int = 0
    """Of the prompts, those that came from a cache, once their deltas have ended."""
    began: float | None = None
    """When the first delta came, by `time.monotonic`."""
    finish_reasons: list[str] = field(default_factory=list)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def choices(self) -> int:
        """Of all prompts together: choice j of prompt i has the index `i * n + j`."""
        return len(self.prompts) * self.decoding.n

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def is_over(self) -> bool:
        return len(self.finish_reasons) == self.choices

    def record(self, delta: Delta) -> None:
        """Note what a delta brings, for the usage and the log: whoever reads `source` calls this for each."""
        if self.began is None:
            self.began = time.monotonic()
        self.tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self.finish_reasons.append(delta.finish_reason)
            self.cached_tokens += delta.cached_tokens


async def pour(deltas: Deltas, sink: Sink[Delta]) -> None:
    """Each delta into the sink, as fast as its reader reads."""
    async with aclosing(deltas):
        async for delta in deltas:
            if drain := sink([delta]):
                await drain()


async def end(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and wait until each is over, however it ends."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
