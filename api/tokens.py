"""`/tokenize` and `/detokenize`, as vLLM has them: the exact prompt of a request, and the text of token ids.

They delay nothing that is to be generated: long bodies are worked on in a thread of their own.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import Request, Response
from pydantic import BaseModel, FailFast, Field
from pydantic_core import to_json

from api.admission import Admission, calls_of
from api.conversation import to_messages, unshown_names
from api.ignored_fields import ignored_header
from api.tool_calls import unused_tools
from errors import APIError, bad_request
from generation import Calls, Prompt
from prompt_template import PromptTemplate
from protocol import EMPTY, MAX_MESSAGES, Messages, ReplyPart, SentBody, TokenId, ToolFields
from server.offload import THREAD_MIN_BYTES, PausingThread, Result
from server.request_record import request_record

MAX_TOKEN_BYTES = 2**20
"""Of the body of a request that only asks about tokens."""


class TokenizeRequest(ToolFields):
    """The body of `POST /tokenize`: a prompt or messages, as the endpoints for them would read it."""

    model: str | None = None
    """Name of the model whose prompt template is used, one of those of `/v1/models`; absent: the first. An unknown one
    is a 404."""
    prompt: str | None = None
    """A text, read as `/v1/completions` reads it. Either this or `messages` is required."""
    messages: Messages = Field(EMPTY, max_length=MAX_MESSAGES)
    """A conversation of up to 4,096 messages, or one string, read as `/v1/chat/completions` reads it. Either this or
    `prompt` is required."""
    raw: bool | None = None
    """`true`: leave the prompt template out; `false`: put the text into it; absent: as `--raw-completions` says. No
    effect on `messages`."""
    add_special_tokens: bool = True
    """`false`: leave out the token that begins a text, such as `<s>`. No effect on `messages`."""
    add_generation_prompt: bool = True
    """`false` is a 400, unless the last message is an assistant's, which is continued. No effect on `prompt`."""
    return_token_strs: bool = False
    """`true`: return the text of each token too, as `token_strs`."""


class DetokenizeRequest(SentBody):
    """The body of `POST /detokenize`."""

    model: str | None = None
    """Name of a served model, one of those of `/v1/models`; absent: the first. An unknown one is a 404. All have the
    same tokenizer."""
    tokens: Annotated[list[TokenId], FailFast()]
    """The token ids whose text is returned, in their order. One outside the vocabulary: 400."""


class Tokens(ReplyPart):
    """The reply of `/tokenize`."""

    count: int
    """How many tokens the prompt has."""
    max_model_len: int
    """The model's context in tokens: prompt and answer together."""
    tokens: list[int]
    """The token ids of the prompt, template included."""
    token_strs: list[str] | None = None
    """The text of each token, with `return_token_strs`."""
    prompt: str
    """The exact prompt, control tokens spelt out."""


class Detokenized(ReplyPart):
    """The reply of `/detokenize`."""

    prompt: str
    """The text of the tokens, control tokens spelt out."""


class TokenEndpoints:
    """Answers questions about tokens, with the prompts that `admission` would make."""

    def __init__(self, admission: Admission) -> None:
        self._admission, self._engine = admission, admission.engine
        self._encoder, self._models = admission.encoder, admission.models
        self._thread = PausingThread()

    async def tokenize(self, body: TokenizeRequest, request: Request) -> Response:
        """The exact prompt that the same prompt or messages would be sent as."""
        self._engine.check_ready()
        return await self._offload(request, lambda: self._tokenize(body, request))

    async def detokenize(self, body: DetokenizeRequest, request: Request) -> Response:
        """The text of token ids, control tokens spelt out."""
        self._models.find(body.model)
        text = await self._offload(request, lambda: self._admission.decode(body.tokens, "tokens"))
        return _to_response(Detokenized(prompt=text), request, body.unknown_fields)

    async def _offload(self, request: Request, work: Callable[[], Result]) -> Result:
        """Call `work`, in the thread of these endpoints if the body is long; raises APIError (413) if it is over 1 MiB.

        What is to be generated does not wait for it.
        """
        size = request_record(request.scope).body_bytes
        if size > MAX_TOKEN_BYTES:
            message = (
                f"The body of a question about tokens may have at most {MAX_TOKEN_BYTES} bytes."
            )
            raise APIError(413, message)
        return work() if size < THREAD_MIN_BYTES else await self._thread.run(work)

    def _tokenize(self, body: TokenizeRequest, request: Request) -> Response:
        template = self._models.find(body.model).template
        calls = calls_of(body, template)
        prompt = self._render(body, calls, template)
        begins_text = prompt.ids[:1] == [self._encoder.bos_id]
        is_cut = body.prompt is not None and not body.add_special_tokens and begins_text
        ids = prompt.ids[1:] if is_cut else prompt.ids
        tokens = Tokens(
            count=len(ids),
            max_model_len=self._engine.max_model_len,
            tokens=ids,
            token_strs=self._spell(ids) if body.return_token_strs else None,
            prompt=self._admission.decode(ids, "prompt"),
        )
        return _to_response(tokens, request, _ignored_fields(body, calls))

    def _render(
        self, body: TokenizeRequest, calls: Calls | None, template: PromptTemplate
    ) -> Prompt:
        if (body.prompt is None) == (not body.messages):
            raise bad_request("Give either 'prompt' or 'messages'.", "prompt")
        if body.prompt is not None:
            return self._admission.render_completion(body.prompt, body.raw, template)
        if body.add_generation_prompt or body.messages[-1].role == "assistant":
            return template.render_chat(to_messages(body.messages), calls)
        reason = "A prompt for an answer cannot be had without its beginning."
        raise bad_request(reason, "add_generation_prompt")

    def _spell(self, ids: Sequence[int]) -> list[str]:
        return [spelling.decode(errors="replace") for spelling in self._encoder.decode_each(ids)]


def _ignored_fields(body: TokenizeRequest, calls: Calls | None) -> list[str]:
    """Unknown fields, those of the other kind of prompt, and tools that need not be called."""
    if body.prompt is None:
        unused = ["raw", "add_special_tokens"]
        names = unshown_names(body.messages) + unused_tools(body, calls)
    else:
        unused = ["add_generation_prompt"]
        names = unused_tools(body, None)
    names += [name for name in unused if name in body.model_fields_set]
    return body.unknown_fields + names


def _to_response(reply: BaseModel, request: Request, ignored: Sequence[str]) -> Response:
    """A reply as JSON, with the header that names the fields that were ignored."""
    headers = ignored_header(request, ignored)
    return Response(to_json(reply), headers=headers, media_type="application/json")
