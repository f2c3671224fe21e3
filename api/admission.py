"""A body -> an accepted generation: the one way in, for every endpoint that generates.

In this order: the server's defaults, the decoding, rules between fields, the model's name, room in the engine, the
prompts, how many tokens may be generated, and the deltas that will come. All of it is done before the first byte of a
reply.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from starlette.requests import Request as HTTPRequest

from api.conversation import to_messages
from api.decoding import to_decoding, to_defaults, with_defaults
from api.field_rules import check_fields, require
from api.ignored_fields import ignored_fields
from api.models import Models
from api.tool_calls import CALL_FIELDS, call_reason, read_calls, to_calls
from errors import APIError, bad_request
from generation import Calls, Decoding, Delta, Engine, Generation, Prompt, Source
from prompt_template import PromptTemplate
from prompts.calls import characters_of
from prompts.encoder import encode_word
from protocol import ChatCompletionRequest, CompletionRequest, Request, ToolFields
from server.logged_texts import keep_texts
from server.offload import offload
from server.request_record import request_record
from settings import Settings
from sources import empty_choices, merge, score_prompts

MAX_CUT_CHARACTERS = 2**20
"""Characters that a text may have which is longer than the context and is to be cut by `truncate_prompt_tokens`."""


class Admission:
    """Accepts the requests of one app: its engine, prompt template and settings."""

    def __init__(self, engine: Engine, template: PromptTemplate, settings: Settings) -> None:
        self.engine, self.settings = engine, settings
        self.models = Models(settings, template)
        self.encoder = template.encoder
        self.defaults = to_defaults(settings.override_generation_config)

    async def accept(self, sent: Request, request: HTTPRequest) -> Generation:
        """Accept a body, or raise APIError; nothing has been generated yet."""
        body = with_defaults(sent, self.defaults)
        served = self.models.find(body.model)
        template = served.template
        calls = calls_of(body, template) if isinstance(body, ToolFields) else None
        decoding = to_decoding(body, calls, served.adapter)
        check_fields(body, decoding)
        record = request_record(request.scope)
        # Room is asked for before prompts are encoded, and taken when they are generated for.
        count = len(body.prompt) if isinstance(body, CompletionRequest) else 1
        self.engine.admit(count * decoding.width)
        prompts, barred = await offload(
            request, lambda: (self._render(body, decoding, template), self._barred(body))
        )
        if barred:
            decoding = replace(decoding, barred=barred)
        prefix = "cmpl" if isinstance(body, CompletionRequest) else "chatcmpl"  # as OpenAI's
        request_id = f"{prefix}-{record.serial}"
        source = self._source(prompts, body, decoding, request_id)
        if self.settings.log_requests:
            source, record.texts = keep_texts(source, prompts, decoding.n, self.encoder.decode_each)
        if calls is not None:
            source = read_calls(source, calls, call_reason(body))
        scores = partial(score_prompts, self.engine, prompts, decoding, request_id)
        ignored = ignored_fields(body, decoding)
        record.generation = Generation(
            request_id, served.name, prompts, decoding, source, scores, ignored
        )
        return record.generation

    def render_completion(
        self, prompt: str | list[int], raw: bool | None, template: PromptTemplate
    ) -> Prompt:
        """The prompt of a completion; token ids are used as they are, and so is text that is to be raw."""
        if isinstance(prompt, list):
            return Prompt(prompt)
        is_raw = self.settings.raw_completions if raw is None else raw
        render = template.render_raw if is_raw else template.render_instruction
        return render(prompt)

    def decode(self, ids: Sequence[int], param: str) -> str:
        """The text of ids; raises APIError (400) for an id outside the vocabulary."""
        try:
            return self.encoder.decode(ids)
        except ValueError as failure:
            raise bad_request(f"Invalid value for '{param}': {failure}.", param) from failure

    def _render(self, body: Request, decoding: Decoding, template: PromptTemplate) -> list[Prompt]:
        """All prompts of a body, cut where it asks for that."""
        if isinstance(body, ChatCompletionRequest):
            template.check_fields(body.model_extra or {})
            messages = to_messages(body.messages)
            self._check_length(characters_of(messages), body)
            prompts = [template.render_chat(messages, decoding.calls)]
        else:
            prompts = self._render_completions(body, template)
        if body.truncate_prompt_tokens is None:
            return prompts
        # As vLLM: room for one token, if any is to be generated.
        limit = self.engine.max_model_len - bool(decoding.max_tokens)
        return [replace(prompt, ids=_truncated(prompt.ids, body, limit)) for prompt in prompts]

    def _render_completions(
        self, body: CompletionRequest, template: PromptTemplate
    ) -> list[Prompt]:
        """One prompt for each that was sent; where it is echoed, token ids have their text too."""
        sent_texts = [prompt for prompt in body.prompt if isinstance(prompt, str)]
        self._check_length(max(map(len, sent_texts), default=0), body)
        prompts = [self.render_completion(prompt, body.raw, template) for prompt in body.prompt]
        if body.echo:
            for prompt, sent in zip(prompts, body.prompt, strict=True):
                if isinstance(sent, list):
                    prompt.text = self.decode(sent, "prompt")
        return prompts

    def _barred(self, body: Request) -> list[list[int]]:
        """The token ids of each of the `bad_words`."""
        return [ids for word in body.bad_words for ids in encode_word(self.encoder, word)]

    def _check_length(self, characters: int, body: Request) -> None:
        """Raise APIError (400) for a text that is known before it is encoded to be longer than the context."""
        per_token = self.encoder.max_token_characters
        if body.truncate_prompt_tokens is not None and characters <= MAX_CUT_CHARACTERS:
            return
        if per_token is not None and characters > per_token * self.engine.max_model_len:
            raise _too_long(self.engine.max_model_len, f"at least {characters // per_token}", body)

    def _source(
        self, prompts: Sequence[Prompt], body: Request, decoding: Decoding, request_id: str
    ) -> Source[Delta]:
        """The deltas of all prompts; nothing has been generated yet."""
        sources: list[Source[Delta]] = []
        for number, prompt in enumerate(prompts):
            budget = _token_budget(prompt, body, decoding, self.engine.max_model_len)
            is_clamped = budget != decoding.max_tokens
            own = replace(decoding, max_tokens=budget) if is_clamped else decoding
            if budget:
                sources.append(self.engine.generate(prompt, own, f"{request_id}-{number}"))
            else:
                sources.append(partial(empty_choices, decoding.n))
        return merge(sources, decoding.n) if len(sources) > 1 else sources[0]


def calls_of(body: ToolFields, template: PromptTemplate) -> Calls | None:
    """What the answer to a conversation may call; None: nothing, it is text. Raises APIError (400)."""
    if CALL_FIELDS.isdisjoint(body.model_fields_set):
        return None
    return to_calls(body, template.layout.call_format)


def _truncated(ids: list[int], body: Request, limit: int) -> list[int]:
    """The prompt's last ids, or its first, as many as `truncate_prompt_tokens` says: at most `limit`."""
    size = body.truncate_prompt_tokens or 0
    is_valid = size != 0 and size <= limit
    require(is_valid, "truncate_prompt_tokens", f"must be -1 or from 1 to {limit}.")
    size = limit if size == -1 else size
    return ids[:size] if body.truncation_side == "right" else ids[-size:]


def _token_budget(prompt: Prompt, body: Request, decoding: Decoding, max_model_len: int) -> int:
    """Tokens that may be generated: what was asked for, clamped to the room that the prompt leaves."""
    used, limit = len(prompt.ids), decoding.max_tokens
    room = max_model_len - used
    if room < 1 and (limit or decoding.alternatives is not None):
        raise _too_long(max_model_len, str(used), body)
    has_room = decoding.min_tokens <= limit
    require(has_room, "min_tokens", f"must be at most the {limit} of 'max_tokens'.")
    return min(limit, max(room, 0))


def _too_long(max_model_len: int, used: str, body: Request) -> APIError:
    param = "messages" if isinstance(body, ChatCompletionRequest) else "prompt"
    message = (
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt has {used} tokens. "
        "The prompt is too long."  # the words that LangChain knows an overflow by
    )
    return bad_request(message, param, "context_length_exceeded")
