"""A body -> an accepted generation: the one way in, for every endpoint that generates.

In this order: the server's defaults, rules between fields, the model's name, room in the engine, the prompts, how many
tokens may be generated, and the deltas that will come. All of it is done before the first byte of a reply.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial

from starlette.requests import Request as HTTPRequest

from api.decoding import (
    alternatives,
    constraining_fields,
    ignored_fields,
    is_beam_search,
    repetition_penalty,
    to_decoding,
    to_defaults,
    token_limit,
    width,
    with_defaults,
)
from api.foreign_fields import CHAT_FIELDS, COMPLETION_FIELDS, FOREIGN_FIELDS, check_foreign_fields
from api.models import check_model
from api.tool_calls import (
    allowed_names,
    callable_functions,
    describe,
    is_call_required,
    read_calls,
    to_message_text,
)
from errors import APIError, bad_request
from generation import (
    Decoding,
    Delta,
    Engine,
    Generation,
    Prompt,
    Source,
    TokenLogprob,
    end,
    merge,
    pour,
)
from prompt_template import PromptTemplate
from prompts.encoder import encode_word
from protocol import (
    MAX_BEAMS,
    ChatCompletionRequest,
    CompletionRequest,
    Request,
    TokenizeRequest,
    ToolFields,
)
from server.access_log import keep_texts
from server.request_body import offload
from server.request_record import request_record
from settings import Settings

MAX_CUT_CHARACTERS = 2**20
"""Of a text that is longer than the context, to be cut by `truncate_prompt_tokens`."""
CUTTING_FIELDS = ("stop", "stop_token_ids", "include_stop_str_in_output")
"""What would leave a call broken."""


class Admission:
    """Accepts requests for one engine and one template."""

    def __init__(self, engine: Engine, template: PromptTemplate, settings: Settings) -> None:
        self.engine, self.template, self.settings = engine, template, settings
        self.encoder = template.encoder
        self.defaults = to_defaults(settings.override_generation_config)

    async def accept(self, sent: Request, request: HTTPRequest) -> Generation:
        """Accept a body, or raise APIError; nothing has been generated yet."""
        body = with_defaults(sent, self.defaults)
        check_fields(body)
        model = check_model(body.model, self.settings.model_names)
        prompts_sent = len(body.prompt) if isinstance(body, CompletionRequest) else 1
        self.engine.admit(
            prompts_sent * width(body)
        )  # before they are encoded; taken when they are generated
        record = request_record(request.scope)
        self._check_length(body)
        prompts = await offload(record.body_bytes, lambda: self._render(body))
        decoding = to_decoding(body, self._barred(body))
        kind = "cmpl" if isinstance(body, CompletionRequest) else "chatcmpl"
        request_id = f"{kind}-{record.serial}"
        budgets = [_token_budget(prompt, body, self.engine.max_model_len) for prompt in prompts]
        source = self._source(prompts, decoding, budgets, request_id)
        if isinstance(body, ChatCompletionRequest) and (functions := callable_functions(body)):
            source = read_calls(source, functions)
        if self.settings.log_requests:
            source, record.texts = keep_texts(source, prompts, decoding.n, self.encoder.spell)
        scores = partial(self._score, prompts, decoding, request_id)
        ignored = ignored_fields(body)
        record.generation = Generation(
            request_id, model, prompts, decoding, source, scores, ignored
        )
        return record.generation

    def render_completion(self, prompt: str | list[int], raw: bool | None) -> Prompt:
        """The prompt of a completion; token ids are used as they are, and so is text that is to be raw."""
        if isinstance(prompt, list):
            return Prompt(prompt)
        is_raw = self.settings.raw_completions if raw is None else raw
        return (
            self.template.render_raw(prompt) if is_raw else self.template.render_instruction(prompt)
        )

    def render_chat(self, body: ChatCompletionRequest | TokenizeRequest) -> Prompt:
        """The prompt of a conversation, with the functions that it has to call."""
        texts = [(message.role, to_message_text(message)) for message in body.messages]
        return self.template.render_chat(texts, describe(callable_functions(body)))

    def decode(self, ids: Sequence[int], param: str) -> str:
        """The text of ids; raises APIError (400) for an id outside the vocabulary."""
        try:
            return self.encoder.decode(ids)
        except ValueError as failure:
            raise bad_request(f"Invalid value for '{param}': {failure}.", param) from failure

    def _render(self, body: Request) -> list[Prompt]:
        """All prompts of a body, cut where it asks for that."""
        if isinstance(body, ChatCompletionRequest):
            self.template.check_fields(body.model_extra or {})
            prompts = [self.render_chat(body)]
        else:
            prompts = [self.render_completion(prompt, body.raw) for prompt in body.prompt]
            if body.echo:
                for prompt, sent in zip(prompts, body.prompt, strict=True):
                    prompt.text = sent if isinstance(sent, str) else self.decode(sent, "prompt")
        if body.truncate_prompt_tokens is None:
            return prompts
        limit = self.engine.max_model_len
        return [replace(prompt, ids=_truncated(prompt.ids, body, limit)) for prompt in prompts]

    def _barred(self, body: Request) -> list[list[int]]:
        return [ids for word in body.bad_words for ids in encode_word(self.encoder, word)]

    def _check_length(self, body: Request) -> None:
        """Refuse, before it is encoded, a text that cannot fit, or is too long to be cut until it does."""
        per_token = self.encoder.max_token_characters
        if isinstance(body, ChatCompletionRequest):
            characters = sum(len(to_message_text(message)) for message in body.messages)
        else:
            characters = max(
                (len(prompt) for prompt in body.prompt if isinstance(prompt, str)), default=0
            )
        if body.truncate_prompt_tokens is not None and characters <= MAX_CUT_CHARACTERS:
            return
        if per_token is not None and characters > per_token * self.engine.max_model_len:
            raise _too_long(self.engine.max_model_len, f"at least {characters // per_token}", body)

    def _source(
        self, prompts: Sequence[Prompt], decoding: Decoding, budgets: Sequence[int], request_id: str
    ) -> Source:
        sources = [
            self.engine.generate(
                prompt, replace(decoding, max_tokens=budget), f"{request_id}-{number}"
            )
            if budget
            else partial(pour, _nothing(decoding.n))
            for number, (prompt, budget) in enumerate(zip(prompts, budgets, strict=True))
        ]
        return merge(sources, decoding.n)

    async def _score(
        self, prompts: Sequence[Prompt], decoding: Decoding, request_id: str
    ) -> list[list[TokenLogprob]]:
        """The log-probabilities of the prompts' own tokens; to cancel it frees the engine."""
        tasks = [
            asyncio.create_task(
                self.engine.score(
                    prompt, decoding.alternatives or 0, f"{request_id}-{number}-prompt"
                )
            )
            for number, prompt in enumerate(prompts)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            await end(tasks)


async def _nothing(n: int) -> AsyncGenerator[Delta, None]:
    """What `max_tokens: 0` generates."""
    for index in range(n):
        yield Delta(index, "", (), "length")


def check_fields(body: Request) -> None:
    """Raise APIError (400) for fields that cannot be honoured, and for fields that contradict each other."""
    if body.model_extra:
        own = COMPLETION_FIELDS if isinstance(body, CompletionRequest) else CHAT_FIELDS
        check_foreign_fields(body.model_extra, FOREIGN_FIELDS | own)
    param = "num_beams" if body.num_beams > 1 else "best_of"
    _require(width(body) >= body.n, param, f"must be at least 'n', which is {body.n}.")
    is_open = "allowed_token_ids" not in body.model_fields_set or bool(body.allowed_token_ids)
    _require(is_open, "allowed_token_ids", "must allow at least one token.")
    _require(all(body.bad_words), "bad_words", "cannot have an empty word.")
    if is_beam_search(body):
        _check_beams(body)
    _require(
        body.stream or body.stream_options is None,
        "stream_options",
        "is only allowed with 'stream': true.",
    )
    if constraining_fields(body):
        _check_constraint(body)
    if isinstance(body, CompletionRequest):
        _require(
            not body.suffix,
            "suffix",
            "is not supported: the model continues a prompt, it does not fill it.",
        )
    else:
        _require(
            body.logprobs or not body.top_logprobs,
            "top_logprobs",
            "is only allowed with 'logprobs': true.",
        )
        check_tools(body)


def check_tools(body: ToolFields) -> None:
    """Raise APIError (400) for a choice that is none of the tools."""
    offered = {tool.function.name for tool in body.tools}
    is_known = offered.issuperset(allowed_names(body.tool_choice) or ())
    has_some = bool(offered) or not is_call_required(body.tool_choice)
    _require(
        is_known and has_some, "tool_choice", "asks for a function that is not among the 'tools'."
    )


def _check_beams(body: Request) -> None:
    """What transformers' beam search has, and what log-probabilities of the likeliest tokens are enough for."""
    param = "best_of" if body.best_of == width(body) else "n"
    _require(width(body) <= MAX_BEAMS, param, f"must be at most {MAX_BEAMS} with beam search.")
    for name in ("presence_penalty", "frequency_penalty"):
        is_unset = name not in body.model_fields_set or not getattr(body, name)
        _require(is_unset, name, "is not supported with beam search; 'repetition_penalty' is.")
    _require(
        repetition_penalty(body) >= 1, "repetition_penalty", "must be at least 1 with beam search."
    )
    for name in ("bad_words", "allowed_token_ids"):
        _require(not getattr(body, name), name, "is not supported with beam search.")
    is_lowering = max(body.logit_bias.values(), default=0) <= 0
    _require(is_lowering, "logit_bias", "must not be above 0 for any token with beam search.")


def _check_constraint(body: Request) -> None:
    """What the reply must look like can be said once, and ends it: nothing can be asked to come after."""
    param, *others = constraining_fields(body)
    _require(not others, param, f"cannot be combined with {' and '.join(map(repr, others))}.")
    _require(not is_beam_search(body), param, "is not supported with beam search.")
    _require(not body.ignore_eos, param, "cannot be combined with 'ignore_eos'.")
    _require(not body.min_tokens, param, "cannot be combined with 'min_tokens'.")
    # Between them they could leave no token at all.
    for name in ("bad_words", "allowed_token_ids"):
        _require(not getattr(body, name), name, f"cannot be combined with '{param}'.")
    if param == "tools":
        _require(
            alternatives(body) is None, "logprobs", "cannot be given for the call of a function."
        )
        for name in CUTTING_FIELDS:
            _require(
                not getattr(body, name), name, "cannot be combined with the call of a function."
            )


def _require(holds: bool, param: str, otherwise: str) -> None:
    """Raise a 400 whose message begins with the field, unless it holds."""
    if not holds:
        raise bad_request(f"'{param}' {otherwise}", param)


def _truncated(ids: list[int], body: Request, max_model_len: int) -> list[int]:
    """The prompt's last ids, or its first, as many as `truncate_prompt_tokens` says; raises APIError for too many."""
    size = body.truncate_prompt_tokens or 0
    limit = max_model_len - bool(
        token_limit(body)
    )  # as vLLM: room for one token, if any is to be generated
    _require(
        size != 0 and size <= limit, "truncate_prompt_tokens", f"must be -1 or from 1 to {limit}."
    )
    size = limit if size == -1 else size
    return ids[:size] if body.truncation_side == "right" else ids[-size:]


def _token_budget(prompt: Prompt, body: Request, max_model_len: int) -> int:
    """Tokens that may be generated: what was asked for, clamped to the room that the prompt leaves."""
    used, limit = len(prompt.ids), token_limit(body)
    room = max_model_len - used
    if room < 1 and (limit or alternatives(body) is not None):
        raise _too_long(max_model_len, str(used), body)
    _require(
        body.min_tokens <= limit, "min_tokens", f"must be at most the {limit} of 'max_tokens'."
    )
    return min(limit, max(room, 0))


def _too_long(max_model_len: int, used: str, body: Request) -> APIError:
    param = "messages" if isinstance(body, ChatCompletionRequest) else "prompt"
    message = (
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt has {used} tokens. "
        "The prompt is too long."  # the words that LangChain knows an overflow by
    )
    return bad_request(message, param, "context_length_exceeded")
