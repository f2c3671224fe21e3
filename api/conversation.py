"""A chat's messages -> those of a prompt template: calls with their results in order, speakers by name."""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from prompts.calls import RESULT_ROLES, Call, Message
from protocol import ChatMessage


def to_messages(sent: Sequence[ChatMessage]) -> list[Message]:
    """The messages in their order; successive results of functions are put in the order of their calls."""
    if all(map(is_text, sent)):
        return [Message(message.role, message.content) for message in sent]
    return _with_calls(sent)


def is_text(message: ChatMessage) -> bool:
    """Whether a message is nothing but its content."""
    has_more = message.refusal or message.name or message.tool_calls or message.function_call
    return not (has_more or _is_result(message))


def _with_calls(sent: Sequence[ChatMessage]) -> list[Message]:
    roles = roles_of_several(sent)
    called: dict[str, str] = {}
    """By the id of a call, the name of its function, in the order of the calls."""
    messages: list[Message] = []
    for are_results, group in groupby(sent, _is_result):
        if are_results:
            messages += _to_results(list(group), called)
            continue
        for message in group:
            read = [(sent_call, _to_call(sent_call)) for sent_call in message.calls]
            calls = tuple(call for _, call in read if call is not None)
            others = [sent_call for sent_call, call in read if call is None]
            messages.append(Message(message.role, _to_text(message, roles, others), calls))
            for sent_call, call in read:
                if call is not None and isinstance(sent_call.get("id"), str):
                    called[sent_call["id"]] = call.name
    return messages


def roles_of_several(sent: Sequence[ChatMessage]) -> set[str]:
    """The roles of two or more speakers, by their names; those without a name are one of them."""
    if not any(message.name for message in sent):
        return set()
    speakers = {(message.role, message.name) for message in sent if not _is_result(message)}
    roles = [role for role, _ in speakers]
    return {role for role in roles if roles.count(role) > 1}


def _is_result(message: ChatMessage) -> bool:
    return message.role in RESULT_ROLES


def unshown_names(sent: Sequence[ChatMessage]) -> list[str]:
    """The paths of the names of speakers that the model is not shown."""
    roles = roles_of_several(sent)
    return [
        f"messages[{at}].name"
        for at, message in enumerate(sent)
        if message.name and message.role not in roles and not _is_result(message)
    ]


def _to_text(message: ChatMessage, roles: set[str], others: Sequence[Any]) -> str:
    """What the model reads of a message besides its calls, after its speaker's name if others speak in its role.

    `others`: what was sent as calls, and is none of functions; it is shown as JSON.
    """
    shown = [json.dumps(other, ensure_ascii=False) for other in others]
    text = "\n".join(filter(None, (message.content, message.refusal, *shown)))
    return f"{message.name}: {text}" if message.name and message.role in roles else text


def _to_results(results: Sequence[ChatMessage], called: Mapping[str, str]) -> list[Message]:
    """Results in the order of their calls, each with the function's name: its own, or that of the call it names."""
    places = {call_id: place for place, call_id in enumerate(called)}
    in_order = sorted(results, key=lambda result: places.get(result.tool_call_id, len(places)))
    return [
        Message("tool", result.content, function=result.name or called.get(result.tool_call_id, ""))
        for result in in_order
    ]


def _to_call(sent: Any) -> Call | None:
    """A call with its arguments as JSON: a string in OpenAI's API, an object in others'; None: it has another form."""
    function = sent.get("function", sent) if isinstance(sent, dict) else sent
    match function:
        case {"name": str(name), "arguments": str(arguments)}:
            return Call(name, arguments or "{}")
        case {"name": str(name), **others}:
            return Call(name, json.dumps(others.get("arguments", {}), ensure_ascii=False))
    return None
