"""The reply of `/v1/chat/completions`: one body, or the chunks of a stream."""

from collections.abc import Sequence

import shortuuid

import protocol
from api.logprobs import Token, to_chat_logprobs
from api.replies import Choice, ChunkFormat, envelope, fold, logprob_aligners, stream
from api.tool_calls import is_older
from generation import Delta, Generation, Source
from prompts.encoder import Encoder
from protocol import ChatChunk, ChatCompletion, ChatCompletionRequest, ChatDelta, ToolCall


async def chat_completion(
    generation: Generation, request: ChatCompletionRequest, encoder: Encoder
) -> ChatCompletion:
    """The whole reply."""
    choices = [Choice() for _ in range(generation.choices)]
    aligners = logprob_aligners(generation, encoder)
    usage = await fold(generation, aligners, choices)
    whole = [
        protocol.ChatChoice(
            index=index,
            message=_to_message(choice, request),
            logprobs=to_chat_logprobs(choice.tokens) if aligners else None,
            finish_reason=choice.finish_reason,
            stop_reason=choice.stop_reason,
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

    def to_chunk(delta: Delta, added: ChatDelta, tokens: Sequence[Token] = ()) -> ChatChunk:
        choice = protocol.ChatChunkChoice(
            index=delta.index,
            delta=added,
            logprobs=to_chat_logprobs(tokens) if tokens else None,
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
        )
        return ChatChunk(**envelope(generation), choices=[choice])

    def chunk(delta: Delta, tokens: Sequence[Token]) -> ChatChunk:
        if delta.finish_reason:
            return to_chunk(delta, ChatDelta(), tokens)
        if delta.call_index is None:
            return to_chunk(delta, ChatDelta(content=delta.text), tokens)
        return to_chunk(delta, _to_call_delta(delta, request))

    async def first() -> list[ChatChunk]:
        role = ChatDelta(role="assistant", content=None if generation.decoding.is_call else "")
        chunks = [to_chunk(Delta(index, "", ()), role) for index in range(generation.choices)]
        if request.return_token_ids:
            chunks[0].prompt_token_ids = generation.prompts[0].ids
        return chunks

    aligners = logprob_aligners(generation, encoder)
    return stream(generation, request, aligners, ChunkFormat(first, chunk))


def _to_message(choice: Choice, request: ChatCompletionRequest) -> protocol.AssistantMessage:
    if choice.calls:
        return _to_calling_message(choice, request)
    return protocol.AssistantMessage(content=choice.text)


def _to_calling_message(
    choice: Choice, request: ChatCompletionRequest
) -> protocol.AssistantMessage:
    """A message of calls, and of the text before them if there is any."""
    message = protocol.AssistantMessage(content=choice.text or None)
    if is_older(request):
        [call] = choice.calls
        message.function_call = protocol.CalledFunction(name=call.name, arguments=call.arguments)
    else:
        message.tool_calls = [_to_call(*call) for call in choice.calls]
    return message


def _to_call_delta(delta: Delta, request: ChatCompletionRequest) -> ChatDelta:
    """A call, or a piece of its arguments."""
    if is_older(request):
        function = protocol.CalledFunction(name=delta.call, arguments=delta.text)
        return ChatDelta(function_call=function)
    return ChatDelta(tool_calls=[_to_call(delta.call, delta.text, delta.call_index)])


def _to_call(name: str | None, arguments: str, index: int | None = None) -> ToolCall:
    """The call of a function, or with no name a piece of its arguments."""
    function = protocol.CalledFunction(name=name, arguments=arguments)
    if name is None:
        return ToolCall(index=index, function=function)
    call_id = f"call_{shortuuid.uuid()}"
    return ToolCall(index=index, id=call_id, type="function", function=function)
