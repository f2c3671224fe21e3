"""Calls of functions: how they are described to the model, and how its text is read as one.

A call is text like any other, which constrained decoding keeps: `{"name": "f", "arguments": {…}}`. The functions are
the client's to run.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from errors import bad_request
from generation import Delta, Source, changed
from protocol import ChatMessage, Function, ToolChoice, ToolFields


def callable_functions(body: ToolFields) -> list[Function]:
    """Functions one of which the answer has to call; none: it is text.

    Raises APIError (400) for a `tool_choice` that asks for a function that is not among the tools.
    """
    functions, allowed = [tool.function for tool in body.tools], _allowed_names(body.tool_choice)
    is_required = _is_call_required(body.tool_choice)
    has_unknown = not {function.name for function in functions}.issuperset(allowed or ())
    if has_unknown or (is_required and not functions):
        reason = "'tool_choice' asks for a function that is not among the 'tools'."
        raise bad_request(reason, "tool_choice")
    if not is_required:
        return []
    return [function for function in functions if allowed is None or function.name in allowed]


def _is_call_required(choice: ToolChoice) -> bool:
    if choice.allowed_tools is not None:
        return choice.allowed_tools.mode == "required"
    return choice.type in ("required", "function")


def _allowed_names(choice: ToolChoice) -> list[str] | None:
    """The functions that may be called; None: all."""
    if choice.allowed_tools is not None:
        return [tool.function.name for tool in choice.allowed_tools.tools]
    return None if choice.function is None else [choice.function.name]


def to_call_text(name: str, arguments: str) -> str:
    """A call of a function as the model writes and reads it; `arguments` are JSON."""
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}}}'


def call_prefixes(functions: Sequence[Function]) -> list[str]:
    """The text of a call of each function up to its arguments; after them comes one closing brace."""
    return [to_call_text(function.name, "")[:-1] for function in functions]


def to_message_text(message: ChatMessage) -> str:
    """What the model reads of a message: its content, a refusal, and calls of tools as JSON, a line each."""
    calls = [*message.tool_calls]
    if message.function_call is not None:
        calls.append(message.function_call)
    texts = [message.content, message.refusal]
    texts += map(_to_history_text, calls)
    return "\n".join(filter(None, texts))


def _to_history_text(call: Any) -> str:
    """A call that an assistant has made, in the words of `to_call_text`, if it is one."""
    function = call.get("function", call) if isinstance(call, dict) else call
    match function:
        case {"name": str(name), "arguments": str(arguments)}:
            return to_call_text(name, arguments or "{}")
    return json.dumps(function, ensure_ascii=False)


def describe(functions: Sequence[Function]) -> str:
    """What a system text says of functions, one of which the answer has to call."""
    described = [
        function.model_dump(include={"name", "description", "parameters"}) for function in functions
    ]
    lines = [json.dumps(each, ensure_ascii=False) for each in described]
    example = to_call_text("函数名", "{参数}")
    return "\n".join(["你可以调用以下函数：", *lines, f"只用 JSON 回答：{example}"])


def read_calls(source: Source[Delta], functions: Sequence[Function]) -> Source[Delta]:
    """The same choices as calls: the delta that names the function, then the text of its arguments.

    A choice that ends before its call is whole keeps the reason that ended it.
    """
    prefixes = call_prefixes(functions)
    names = {prefix: function.name for prefix, function in zip(prefixes, functions, strict=True)}
    received: dict[int, str] = {}
    sent: dict[int, int] = {}
    """By choice, once its function is known: characters of what was received that have been sent, prefix included."""

    def read(delta: Delta) -> Delta:
        text = received[delta.index] = received.get(delta.index, "") + delta.text
        call = None
        if delta.index not in sent:
            prefix = next(filter(text.startswith, names), None)
            if prefix is not None:
                sent[delta.index] = len(prefix)
                call = names[prefix]
        is_whole = delta.finish_reason is not None and delta.index in sent and _is_json(text)
        # The last brace closes the call, not its arguments.
        end = len(text)
        if is_whole or (delta.finish_reason is None and text.endswith("}")):
            end -= 1
        begin = sent.get(delta.index, end)
        if delta.index in sent:
            sent[delta.index] = end
        reason = "tool_calls" if is_whole else delta.finish_reason
        return replace(delta, text=text[begin:end], call=call, finish_reason=reason)

    return changed(source, read)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
