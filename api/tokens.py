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
from protocol import EMPTY, MAX_MESSAGES, Messages, SentBody, TokenId, ToolFields
from server.offload import THREAD_MIN_BYTES, PausingThread, Result
from server.request_record import request_record

MAX_TOKEN_BYTES = 2**20
"""Of the body of a request that only asks about tokens."""


class TokenizeRequest(ToolFields):
    """The body of `POST /tokenize`: a prompt or messages, as the endpoints for them would read it."""

    model: str | None = None
    """A served model's name; absent: the first."""
    prompt: str | None = None
    """A prompt, read as /v1/completions reads it."""
    messages: Messages = Field(EMPTY, max_length=MAX_MESSAGES)
    """A conversation, read as /v1/chat/completions reads it."""
    raw: bool | None = None
    """true: leave the prompt template out; absent: as --raw-completions says."""
    add_special_tokens: bool = True
    """false: leave out the token that begins a text, <s>."""
    add_generation_prompt: bool = True
    """false is accepted only where the last message is an assistant's, which is continued."""
    return_token_strs: bool = False
    """Also return the text of each token."""


class DetokenizeRequest(SentBody):
    """The body of `POST /detokenize`."""

    model: str | None = None
    """A served model's name; absent: the first."""
    tokens: Annotated[list[TokenId], FailFast()]
    """Token ids."""


class Tokens(BaseModel):
    """The reply of `/tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None
    prompt: str


class Detokenized(BaseModel):
    """The reply of `/detokenize`."""

    prompt: str


class TokenEndpoints:
    """Answers questions about tokens, with the prompts that `admission` would make."""

    def __init__(self, admission: Admission) -> None:
        self._admission, self._engine = admission, admission.engine
        self._encoder, self._models = admission.encoder, admission.models
        self._thread = PausingThread()

    async def tokenize(self, body: TokenizeRequest, request: Request) -> Response:
        """The exact prompt that the same prompt or messages would be sent as."""
        self._engine.check_ready()
        return await self._offload(request, lambda: self._tokenize(body))

    async def detokenize(self, body: DetokenizeRequest, request: Request) -> Response:
        """The text of token ids, control tokens spelt out."""
        self._models.find(body.model)
        text = await self._offload(request, lambda: self._admission.decode(body.tokens, "tokens"))
        return _to_response(Detokenized(prompt=text), body.unknown_fields)

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

    def _tokenize(self, body: TokenizeRequest) -> Response:
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
        return _to_response(tokens, _ignored_fields(body, calls))

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


def _to_response(reply: BaseModel, ignored: Sequence[str]) -> Response:
    """A reply as JSON, with the header that names the fields that were ignored."""
    return Response(to_json(reply), headers=ignored_header(ignored), media_type="application/json")
