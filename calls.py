"""Calls of functions: how they are described to the model, and how its text is read as one.

A call is text like any other, which constrained decoding keeps: `{"name": "f", "arguments": {…}}`. The functions are
the client's to run.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from generation import Delta, Source, changed
from protocol import Function, to_call_text


def describe(functions: Sequence[Function]) -> str:
    """What a system text says of functions, one of which the answer has to call."""
    described = [function.model_dump(include={"name", "description", "parameters"}) for function in functions]
    lines = [json.dumps(each, ensure_ascii=False) for each in described]
    return "\n".join(["你可以调用以下函数：", *lines, f"只用 JSON 回答：{to_call_text('函数名', '{参数}')}"])


def read_calls(source: Source, functions: Sequence[Function]) -> Source:
    """The same choices as calls: the delta that names the function, then the text of its arguments.

    A choice that ends before its call is whole keeps the reason that ended it.
    """
    names = {to_call_text(function.name, "")[:-1]: function.name for function in functions}
    heard: dict[int, str] = {}
    sent: dict[int, int] = {}
    """Characters of what was heard that have been sent, the name as its head."""

    def read(delta: Delta) -> Delta:
        text = heard[delta.index] = heard.get(delta.index, "") + delta.text
        call = None
        if delta.index not in sent and (head := next(filter(text.startswith, names), None)) is not None:
            sent[delta.index], call = len(head), names[head]
        is_whole = delta.finish_reason is not None and delta.index in sent and _is_json(text)
        # The last brace closes the call, not its arguments.
        end = len(text) - (is_whole or (delta.finish_reason is None and text.endswith("}")))
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
