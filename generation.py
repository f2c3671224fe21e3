"""The waist: one accepted request, and the deltas that it is answered with.

Everything before it turns a request into prompt ids; everything after it turns deltas into OpenAI's shapes. Knows
nothing about HTTP, vLLM or templates. An `Engine` is whatever has deltas for a prompt: vLLM, or a test's script.

Deltas are pushed from the engine to the socket by calls, not awaited hop by hop: what a step of the engine has made for
hundreds of streams is then written without a task to wake for each.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from errors import APIError, bad_request
from foreign_fields import CHAT_FIELDS, COMPLETION_FIELDS, FOREIGN_FIELDS, check_foreign_fields
from protocol import MAX_BEAMS, ChatCompletionRequest, CompletionRequest, FinishReason, Request, ToolFields, Usage

MAX_NAME_SHOWN, MAX_NAMES_SHOWN = 64, 120
CUTTING_FIELDS = ("stop", "stop_token_ids", "include_stop_str_in_output")
"""What would leave a call broken."""


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
    barred: Sequence[Sequence[int]] = ()
    """Token ids that an answer may not have one after the other."""


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
    logprobs: Sequence[TokenLogprob] | None = None
    """Of each of `token_ids`, where they were asked for."""
    cut: str = ""
    """What the first of `token_ids` is spelt with and the text leaves out: the prompt's `answer_lead`, or nothing."""
    call: str | None = None
    """The function that is called, where its call begins: the texts from here on are its arguments."""


Deltas = AsyncGenerator[Delta, None]
Drain = Callable[[], Awaitable[None]]
"""Waits until a slow reader has read enough."""
Sink = Callable[[Sequence[Delta]], Drain | None]
"""Takes deltas, without waiting; returns what to await before it gets more, if its reader is slow."""
Source = Callable[[Sink], Awaitable[None]]
"""Gives all its deltas to a sink; to cancel it frees the engine."""


class Engine(Protocol):
    """What generates."""

    max_model_len: int

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

    def generate(self, prompt: Prompt, request: Request, max_tokens: int, request_id: str) -> Source:
        """The deltas of `request.n` choices, in one piece each unless `request.stream`.

        They are what the client sees: without the prompt's `answer_lead`, which counts in no limit. Raises APIError
        at once, not at the first delta, for fields that it cannot honour.
        """

    async def score(self, prompt: Prompt, alternatives: int, request_id: str) -> list[TokenLogprob]:
        """The log-probability of each token of a prompt."""


@dataclass(slots=True)
class Generation:
    """One accepted request."""

    id: str
    model: str
    prompts: list[Prompt]
    n: int
    source: Source
    scores: Callable[[], Awaitable[list[list[TokenLogprob]]]]
    """Of the prompts' tokens."""
    tokens: int = 0
    """Generated so far; this and the next two are kept by whoever reads the deltas."""
    began: float | None = None
    """When the first delta came, by `time.monotonic`."""
    finish_reasons: list[str] = field(default_factory=list)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def choices(self) -> int:
        """Of all prompts together: choice j of prompt i has the index `i * n + j`."""
        return len(self.prompts) * self.n

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def usage(self) -> Usage:
        """So far."""
        sent = self.prompt_tokens
        return Usage(prompt_tokens=sent, completion_tokens=self.tokens, total_tokens=sent + self.tokens)


def check_fields(request: Request) -> None:
    """Raise for fields that this version cannot honour, and for fields that contradict each other."""
    if request.model_extra:
        own = COMPLETION_FIELDS if isinstance(request, CompletionRequest) else CHAT_FIELDS
        check_foreign_fields(request.model_extra, FOREIGN_FIELDS | own)
    param = "num_beams" if request.num_beams > 1 else "best_of"
    _require(request.width >= request.n, param, f"must be at least 'n', which is {request.n}.")
    is_open = "allowed_token_ids" not in request.model_fields_set or bool(request.allowed_token_ids)
    _require(is_open, "allowed_token_ids", "must allow at least one token.")
    _require(all(request.bad_words), "bad_words", "cannot have an empty word.")
    if request.is_beam_search:
        _check_beams(request)
    _require(request.stream or request.stream_options is None, "stream_options", "is only allowed with 'stream': true.")
    if request.constrained_by:
        _check_constraint(request)
    if isinstance(request, CompletionRequest):
        _require(not request.suffix, "suffix", "is not supported: the model continues a prompt, it does not fill it.")
    else:
        _require(request.logprobs or not request.top_logprobs, "top_logprobs", "is only allowed with 'logprobs': true.")
        check_tools(request)


def check_tools(request: ToolFields) -> None:
    """Raise for a choice that is none of the tools."""
    offered = {tool.function.name for tool in request.tools}
    is_known = offered.issuperset(request.tool_choice.allowed_names or ())
    has_some = bool(offered) or not request.tool_choice.is_call_required
    _require(is_known and has_some, "tool_choice", "asks for a function that is not among the 'tools'.")


def truncate(ids: list[int], request: Request, max_model_len: int) -> list[int]:
    """The prompt's last ids, or its first, as many as `truncate_prompt_tokens` says; raises APIError for too many."""
    size = request.truncate_prompt_tokens
    if size is None:
        return ids
    limit = max_model_len - bool(request.token_limit)  # as vLLM: room for one token, if any is to be generated
    _require(size != 0 and size <= limit, "truncate_prompt_tokens", f"must be -1 or from 1 to {limit}.")
    size = limit if size == -1 else size
    return ids[:size] if request.truncation_side == "right" else ids[-size:]


def check_length(characters: int, max_token_characters: int | None, max_model_len: int, param: str) -> None:
    """Refuse, before it is encoded, a text that no tokens could make fit."""
    if max_token_characters is not None and characters > max_token_characters * max_model_len:
        raise _too_long(max_model_len, f"at least {characters // max_token_characters}", param)


def start_generation(
    engine: Engine, request: Request, prompts: list[Prompt], model_names: Sequence[str], serial: str
) -> Generation:
    """Accept a request: its model is checked, its tokens counted, the engine asked for room. Raises APIError.

    `serial` is unique, and part of the reply's id.
    """
    engine.check_ready()
    model = check_model(request.model, model_names)
    kind = "cmpl" if isinstance(request, CompletionRequest) else "chatcmpl"
    request_id = f"{kind}-{serial}"
    limits = [_token_budget(prompt, request, engine.max_model_len) for prompt in prompts]
    engine.admit(len(prompts) * request.width)
    sources = [
        engine.generate(prompt, request, limit, f"{request_id}-{number}")
        if limit
        else partial(pour, _nothing(request.n))
        for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
    ]

    async def scores() -> list[list[TokenLogprob]]:
        tasks = [
            asyncio.create_task(engine.score(prompt, request.alternatives or 0, f"{request_id}-{number}-prompt"))
            for number, prompt in enumerate(prompts)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            await end(tasks)

    return Generation(request_id, model, prompts, request.n, merge(sources, request.n), scores)


def check_model(asked: str | None, served: Sequence[str]) -> str:
    """The model's name in the reply: the one that was asked for, else the first; raises a 404 for any other."""
    if asked is None:
        return served[0]
    if asked not in served:
        named, names = _shown(asked, MAX_NAME_SHOWN), _shown("', '".join(served), MAX_NAMES_SHOWN)
        message = f"The model '{named}' does not exist. Served here: '{names}'."
        raise APIError(404, message, param="model", code="model_not_found")
    return asked


def _shown(name: str, limit: int) -> str:
    """A text as it may stand in a message: cut, and with nothing in it that moves a cursor or breaks a line."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name[:limit])
    return escaped if len(escaped) <= limit and len(name) <= limit else f"{escaped[: limit - 1]}…"


async def pour(deltas: Deltas, sink: Sink) -> None:
    """Each delta into the sink, as fast as its reader reads."""
    async with aclosing(deltas):
        async for delta in deltas:
            if drain := sink([delta]):
                await drain()


def changed(source: Source, change: Callable[[Delta], Delta]) -> Source:
    """The same deltas, each changed on its way."""
    return lambda sink: source(lambda deltas: sink([change(delta) for delta in deltas]))


def merge(sources: Sequence[Source], n: int) -> Source:
    """The deltas of several prompts as they come, indices offset by `n` for each; the first failure ends them all."""
    if len(sources) == 1:
        return sources[0]

    def shift(delta: Delta, offset: int) -> Delta:
        return replace(delta, index=delta.index + offset)

    async def merged(sink: Sink) -> None:
        shifted = [changed(source, partial(shift, offset=number * n)) for number, source in enumerate(sources)]
        tasks = [asyncio.ensure_future(source(sink)) for source in shifted]
        try:
            await asyncio.gather(*tasks)
        finally:
            await end(tasks)

    return merged


async def end(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and wait until each is over, however it ends."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _nothing(n: int) -> Deltas:
    """What `max_tokens: 0` generates."""
    for index in range(n):
        yield Delta(index, "", (), "length")


def _token_budget(prompt: Prompt, request: Request, max_model_len: int) -> int:
    """Tokens that may be generated: what was asked for, clamped to the room that the prompt leaves."""
    used, limit = len(prompt.ids), request.token_limit
    room = max_model_len - used
    if room < 1 and (limit or request.alternatives is not None):
        param = "messages" if isinstance(request, ChatCompletionRequest) else "prompt"
        raise _too_long(max_model_len, str(used), param)
    _require(request.min_tokens <= limit, "min_tokens", f"must be at most the {limit} of 'max_tokens'.")
    return min(limit, max(room, 0))


def _too_long(max_model_len: int, used: str, param: str) -> APIError:
    message = (
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt has {used} tokens. "
        "The prompt is too long."  # the words that LangChain knows an overflow by
    )
    return bad_request(message, param, "context_length_exceeded")


def _check_beams(request: Request) -> None:
    """What transformers' beam search has, and what log-probabilities of the likeliest tokens are enough for."""
    param = "best_of" if request.best_of == request.width else "n"
    _require(request.width <= MAX_BEAMS, param, f"must be at most {MAX_BEAMS} with beam search.")
    for name in ("presence_penalty", "frequency_penalty"):
        is_unset = name not in request.model_fields_set or not getattr(request, name)
        _require(is_unset, name, "is not supported with beam search; 'repetition_penalty' is.")
    _require(request.beam_repetition_penalty >= 1, "repetition_penalty", "must be at least 1 with beam search.")
    for name in ("bad_words", "allowed_token_ids"):
        _require(not getattr(request, name), name, "is not supported with beam search.")
    is_lowering = max(request.logit_bias.values(), default=0) <= 0
    _require(is_lowering, "logit_bias", "must not be above 0 for any token with beam search.")


def _check_constraint(request: Request) -> None:
    """What the reply must look like can be said once, and ends it: nothing can be asked to come after."""
    param, *others = request.constrained_by
    _require(not others, param, f"cannot be combined with {' and '.join(map(repr, others))}.")
    _require(not request.is_beam_search, param, "is not supported with beam search.")
    _require(not request.ignore_eos, param, "cannot be combined with 'ignore_eos'.")
    _require(not request.min_tokens, param, "cannot be combined with 'min_tokens'.")
    # Between them they could leave no token at all.
    for name in ("bad_words", "allowed_token_ids"):
        _require(not getattr(request, name), name, f"cannot be combined with '{param}'.")
    if request.callable_functions:
        _require(request.alternatives is None, "logprobs", "cannot be given for the call of a function.")
        for name in CUTTING_FIELDS:
            _require(not getattr(request, name), name, "cannot be combined with the call of a function.")


def _require(holds: bool, param: str, otherwise: str) -> None:
    """Raise a 400 whose message begins with the field, unless it holds."""
    if not holds:
        raise bad_request(f"'{param}' {otherwise}", param)
