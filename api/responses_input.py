"""The body of `/v1/responses` -> that of a chat, accepted as any other; errors name the fields of the client."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request as HTTPRequest

from api.admission import Admission, calls_of
from api.conversation import to_messages
from api.decoding import to_decoding, with_defaults
from api.foreign_fields import Foreign, check_foreign_fields
from api.responses_protocol import LOGPROBS, FlatToolChoice, InputItem, ResponsesRequest
from errors import APIError, bad_request
from generation import Generation
from prompts.calls import characters_of
from protocol import MAX_TOOLS, ChatCompletionRequest, ChatMessage, GenerationFields, Tool
from server.offload import offload

STATELESS = Foreign("the whole conversation as 'input', for this server keeps no responses")
FOREIGN_FIELDS = {
    "previous_response_id": STATELESS,
    "conversation": STATELESS,
    "background": Foreign("'stream', for this server keeps no responses", neutral=(False,)),
    "prompt": Foreign("'input' and 'instructions', for this server keeps no prompts"),
    "messages": Foreign("'input'"),
    "response_format": Foreign("'text'"),
}
"""Fields of OpenAI's and of a chat that would change the answer."""
NOT_OF_A_CHAT = {"max_completion_tokens", "return_token_ids", "response_format", "stream_options"}
"""Fields of a generation that a response has no use for, or reads itself."""
OWN_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "logprobs": "include",
}
"""What the fields of a chat are called here."""


async def accept_response(
    admission: Admission, body: ResponsesRequest, request: HTTPRequest
) -> Generation:
    """Accept a body as a chat, or raise APIError; nothing has been generated yet."""
    sent = {name: getattr(body, name) for name in body.model_fields_set}
    check_foreign_fields(sent, FOREIGN_FIELDS)
    try:
        chat = await offload(request, partial(to_chat, body))
        if body.truncation == "auto":
            admission.engine.admit(chat.n)
            chat = await offload(request, partial(without_oldest_turns, chat, admission))
        generation = await admission.accept(chat, request)
    except APIError as failure:
        raise _in_own_words(failure) from failure
    generation.id = generation.id.replace("chatcmpl-", "resp_")
    unused = [name for name in generation.ignored if name not in chat.unknown_fields]
    generation.ignored = [*_unused(body), *unused]
    return generation


def to_chat(body: ResponsesRequest) -> ChatCompletionRequest:
    """The chat whose answer is the response; fields that were not sent are not sent there.

    Fields that only a chat declares, and fields that nobody knows, are read or refused as there.
    """
    names = GenerationFields.model_fields.keys() & body.model_fields_set
    fields: dict[str, Any] = dict(body.model_extra or {})
    fields |= {name: getattr(body, name) for name in names - NOT_OF_A_CHAT}
    fields["messages"] = [*_to_messages(body)]
    limits = [body.max_output_tokens, body.max_completion_tokens]
    if given := [limit for limit in limits if limit is not None]:
        fields["max_completion_tokens"] = min(given)
    if body.tools:
        fields["tools"] = [Tool(type="function", function=tool) for tool in body.tools]
    if "tool_choice" in body.model_fields_set:
        fields["tool_choice"] = _to_tool_choice(body.tool_choice)
    if "parallel_tool_calls" in body.model_fields_set:
        fields["parallel_tool_calls"] = body.parallel_tool_calls
    text_format = body.text.format
    if text_format.type != "text":
        fields["response_format"] = {"type": text_format.type, "schema": text_format.schema_}
    if LOGPROBS in body.include:
        fields |= {"logprobs": True, "top_logprobs": body.top_logprobs}
    try:
        return ChatCompletionRequest.model_validate(fields)
    except ValidationError as failure:
        fault = failure.errors(include_url=False, include_input=False)[0]
        param = str(fault["loc"][0]) if fault["loc"] else None
        raise bad_request(f"Invalid value for '{param}': {fault['msg']}.", param) from failure


def _to_messages(body: ResponsesRequest) -> list[ChatMessage]:
    """The messages of a conversation; calls belong to the message of the assistant that they follow."""
    messages: list[ChatMessage] = []
    if body.instructions is not None:
        messages.append(ChatMessage(role="system", content=body.instructions))
    for item in body.input:
        last = messages[-1] if messages else None
        if item.type == "function_call" and last is not None and _takes_calls(last):
            last.tool_calls = [*last.tool_calls, _to_call(item)]
        elif item.type != "reasoning":
            messages.append(_to_message(item))
    return messages


def _takes_calls(message: ChatMessage) -> bool:
    return message.role == "assistant" and len(message.tool_calls) < MAX_TOOLS


def _to_message(item: InputItem) -> ChatMessage:
    if item.type == "function_call":
        return ChatMessage(role="assistant", content="", tool_calls=[_to_call(item)])
    if item.type == "function_call_output":
        return ChatMessage(role="tool", content=item.output, tool_call_id=item.call_id)
    return ChatMessage(role=item.role or "user", content=item.content)


def _to_call(item: InputItem) -> dict[str, Any]:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _to_tool_choice(choice: FlatToolChoice) -> dict[str, Any]:
    """The choice in the form of a chat, in which each type has an object of its own."""
    match choice:
        case FlatToolChoice(type="function"):
            return {"type": "function", "function": {"name": choice.name}}
        case FlatToolChoice(type="allowed_tools", tools=[*tools]):
            nested = [{"type": "function", "function": {"name": tool.name}} for tool in tools]
            return {
                "type": "allowed_tools",
                "allowed_tools": {"mode": choice.mode, "tools": nested},
            }
    return {"type": choice.type}


def without_oldest_turns(
    chat: ChatCompletionRequest, admission: Admission
) -> ChatCompletionRequest:
    """The chat without as many of its oldest turns as have to go so that the rest leaves room for the answer.

    The room is what `max_tokens` asks for, at most a quarter of the context. A turn begins with a user's message; the
    last one stays, and so do system texts. Of outputs whose call goes, nothing stays.
    """
    messages, limit = chat.messages, admission.engine.max_model_len
    begins = [at for at, message in enumerate(messages) if message.role == "user"]
    if len(begins) < 2:
        return chat
    template = admission.models.find(chat.model).template
    calls = calls_of(chat, template)
    asked = to_decoding(with_defaults(chat, admission.defaults)).max_tokens
    room = min(max(asked, 1), max(limit // 4, 1))

    def fits(begin: int) -> bool:
        kept = to_messages(_from(messages, begin))
        per_token = admission.encoder.max_token_characters
        if per_token is not None and characters_of(kept) > per_token * limit:
            return False
        return len(template.render_chat(kept, calls).ids) <= limit - room

    if fits(0):
        return chat
    # Of the turns after the first: the earliest from which all fits, or else the last.
    earliest = 1 + bisect_left(begins[1:-1], True, key=fits)
    return chat.model_copy(update={"messages": _from(messages, begins[earliest])})


def _from(messages: Sequence[ChatMessage], begin: int) -> list[ChatMessage]:
    """System texts, and what is said from `begin` on, without outputs of calls before it."""
    gone = {call["id"] for message in messages[:begin] for call in message.tool_calls}
    kept = [message for message in messages[:begin] if message.role in ("system", "developer")]
    kept += [message for message in messages[begin:] if message.tool_call_id not in gone]
    return kept


def _unused(body: ResponsesRequest) -> list[str]:
    """Fields that were sent and have no effect, those of a chat left out."""
    names = [name for name in body.unknown_fields if name not in ChatCompletionRequest.model_fields]
    if body.return_token_ids:
        names.append("return_token_ids")
    if body.top_logprobs and LOGPROBS not in body.include:
        names.append("top_logprobs")
    if isinstance(body.stream_options, dict) and body.stream_options.get("include_beams"):
        names.append("stream_options.include_beams")
    return names


def _in_own_words(failure: APIError) -> APIError:
    """The same failure with the names that fields have here."""
    message = failure.message
    for name, own in OWN_NAMES.items():
        message = message.replace(f"'{name}'", f"'{own}'")
    param = failure.param and OWN_NAMES.get(failure.param, failure.param)
    return replace(failure, message=message, param=param)
