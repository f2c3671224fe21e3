"""The reply of `/v1/chat/completions`: one body, or the chunks of a stream."""

from collections.abc import Sequence

import shortuuid

import protocol
from api.logprobs import Token, to_chat_logprobs
from api.replies import Choice, ChunkFormat, envelope, fold, logprob_aligners, stream
from generation import Delta, Generation, Source
from prompts.encoder import Encoder
from protocol import ChatChunk, ChatCompletion, ChatCompletionRequest, ChatDelta, ToolCall


async def chat_completion(
    generation: Generation, request: ChatCompletionRequest, encoder: Encoder
) -> ChatCompletion:
    """The whole reply."""
    choices = [Choice() for _ in range(generation.choices)]
    usage = await fold(generation, logprob_aligners(generation, encoder), choices)
    whole = [
        protocol.ChatChoice(
            index=index,
            message=_to_message(choice),
            logprobs=to_chat_logprobs(choice.tokens) if request.logprobs else None,
            finish_reason=choice.finish_reason,
            token_ids=choice.token_ids if request.return_token_ids else None,
        )
        for index, choice in enumerate(choices)
    ]
    prompt_ids = generation.prompts[0].ids if request.return_token_ids else None
    return ChatCompletion(
        **envelope(generation), choices=whole, usage=usage, prompt_token_ids=prompt_ids
    )


def chat_chunks(
    generation: Generation, request: ChatCompletionRequest, encoder: Encoder
) -> Source[bytes]:
    """The chunks of a stream: for each choice the role, then its text or call, then its finish reason."""
    is_call = generation.decoding.is_call

    def to_chunk(delta: Delta, added: ChatDelta, tokens: Sequence[Token] = ()) -> ChatChunk:
        choice = protocol.ChatChunkChoice(
            index=delta.index,
            delta=added,
            logprobs=to_chat_logprobs(tokens) if tokens else None,
            finish_reason=delta.finish_reason,
        )
        return ChatChunk(**envelope(generation), choices=[choice])

    def chunk(delta: Delta, tokens: Sequence[Token]) -> ChatChunk:
        added = ChatDelta()
        if is_call and not delta.finish_reason:
            added.tool_calls = [_to_call(delta.call, delta.text, index=0)]
        elif not delta.finish_reason:
            added.content = delta.text
        return to_chunk(delta, added, tokens)

    async def first() -> list[ChatChunk]:
        role = ChatDelta(role="assistant", content=None if is_call else "")
        chunks = [to_chunk(Delta(index, "", ()), role) for index in range(generation.choices)]
        if request.return_token_ids:
            chunks[0].prompt_token_ids = generation.prompts[0].ids
        return chunks

    aligners = logprob_aligners(generation, encoder)
    return stream(generation, request, aligners, ChunkFormat(first, chunk))


def _to_message(choice: Choice) -> protocol.AssistantMessage:
    if choice.call is None:
        return protocol.AssistantMessage(content=choice.text)
    call = _to_call(choice.call, choice.text)
    return protocol.AssistantMessage(content=None, tool_calls=[call])


def _to_call(name: str | None, arguments: str, index: int | None = None) -> ToolCall:
    """The call of a function, or with no name a piece of its arguments."""
    function = protocol.CalledFunction(name=name, arguments=arguments)
    if name is None:
        return ToolCall(index=index, function=function)
    call_id = f"call_{shortuuid.uuid()}"
    return ToolCall(index=index, id=call_id, type="function", function=function)
