"""Calls of functions as text, for templates that have no words of their own for them.

The functions are described in the system text; a call is a line of JSON in the assistant's answer; a result is a line
of the next user turn that names its function.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from generation import CallFormat, Calls

RESULT_ROLES = ("tool", "function")


class Call(NamedTuple):
    """A call of a function that an assistant has made."""

    name: str
    arguments: str
    """JSON."""


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    """One of OpenAI's: system, developer, user, assistant, tool, function."""
    text: str
    calls: tuple[Call, ...] = ()
    """Those of an assistant."""
    function: str = ""
    """The function whose result a tool's message is, if that is known."""


def describe(calls: Calls) -> str:
    """Write what the system text says of functions that an answer may call, or has to."""
    lines = [json.dumps(function, ensure_ascii=False) for function in calls.functions]
    example = to_call_text(Call("函数名", "{参数}"), calls.format)
    if calls.is_required:
        instructions = [f"只用 JSON 回答：{example}"]
    else:
        instructions = [
            f"需要调用函数时，只用 JSON 回答，每行一个调用：{example}",
            "如果不需要调用函数，就直接回答。",
        ]
    return "\n".join(["你可以调用以下函数：", *lines, *instructions])


def to_call_text(call: Call, written: CallFormat) -> str:
    """Write a call as the model writes and reads it."""
    return f"{written.begin}{call.name}{written.middle}{call.arguments}{written.end}"


def to_plain_message(message: Message, written: CallFormat) -> Message:
    """Turn calls into text of the assistant, and a result into text of the user that names its function."""
    if message.calls:
        lines = [to_call_text(call, written) for call in message.calls]
        return Message(message.role, "\n".join(filter(None, [message.text, *lines])))
    if message.role not in RESULT_ROLES:
        return message
    text = message.text
    return Message("user", f"函数 {message.function} 的结果：{text}" if message.function else text)


def is_plain(messages: Sequence[Message]) -> bool:
    """Whether no message has calls or the result of one."""
    return not any(message.calls or message.role in RESULT_ROLES for message in messages)


def characters_of(messages: Sequence[Message]) -> int:
    """Characters of all texts and of the arguments of all calls: a prompt of the messages has at least so many."""
    arguments = sum(len(call.arguments) for message in messages for call in message.calls)
    return arguments + sum(len(message.text) for message in messages)
