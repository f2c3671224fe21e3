"""Chat templates in Jinja: a tokenizer's own, or one in a file; and how they write calls of functions."""

import json
import re
from collections.abc import Callable, Sequence
from os.path import commonprefix
from typing import Any

from errors import APIError, bad_request
from generation import CallFormat
from prompts.encoder import Encoder, Run, control_pattern
from prompts.layouts import JSON_LINES, Conversation, Layout
from prompts.rendered_layouts import ChatInputs, rendered_runs, to_chat_inputs

QUESTION = {"role": "user", "content": "?"}
OFFERED = "offered_function"
FUNCTION = {"name": OFFERED, "description": "?", "parameters": {"type": "object"}}
CALLED = ("first_called", "second_called")
ARGUMENTS = {"argument": "value"}
ANSWER = "\uffff"
"""Stands for the text of an answer: a noncharacter of Unicode, which no template has."""


def chat_template_layout(name: str, tokenizer: Any, source: str | None = None) -> Layout:
    """Return the layout of the Jinja template `source`, or of the tokenizer's own chat template."""
    own = tokenizer.chat_template
    # An editor may have put a byte order mark before a template in a file, which would become text.
    if source is None and isinstance(own, str):
        source = own.removeprefix("\ufeff")

    def render(inputs: ChatInputs) -> str:
        from jinja2 import TemplateError  # noqa: PLC0415

        is_partial = inputs["messages"][-1]["role"] == "assistant"
        try:
            rendered = tokenizer.apply_chat_template(
                inputs["messages"],
                tools=inputs.get("tools"),
                chat_template=source,
                add_generation_prompt=not is_partial,
                continue_final_message=is_partial,
                tokenize=False,
            )
        except TemplateError as failure:
            raise bad_request(
                f"The model's chat template refuses these messages: {failure}", "messages"
            ) from failure
        except (ValueError, TypeError, KeyError):
            # Their messages may hold the client's text, which is not to get into the log.
            raise bad_request(
                "The model's chat template cannot render these messages.", "messages"
            ) from None
        return str(rendered)

    def to_runs(conversation: Conversation, encoder: Encoder) -> list[Run]:
        return rendered_runs(render, to_chat_inputs(conversation), encoder)

    special = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
    controls = control_pattern({token.content: 0 for token in special})
    call_format = detect_call_format(render, controls)
    return Layout(
        name,
        to_runs,
        is_jinja=True,
        call_format=call_format or JSON_LINES,
        takes_tools=call_format is not None,
    )


def detect_call_format(
    render: Callable[[ChatInputs], str], controls: re.Pattern[str]
) -> CallFormat | None:
    """Find out how a chat template writes calls, from conversations that it renders.

    Returns None for one that takes no tools, and for one whose calls have another form than a `CallFormat`: without
    the arguments as JSON, as in XML, or with control tokens, an id or brackets of a list around them.
    """
    offers = _rendered(render, [QUESTION])
    plain = _rendered(render, [QUESTION, {"role": "assistant", "content": ANSWER}, _result(0)])
    one = _rendered(render, _with_calls(1))
    if offers is None or plain is None or one is None:
        return None
    arguments = json.dumps(ARGUMENTS)
    header = commonprefix([plain, one])  # noqa: RUF071 - texts, not paths
    begin, found, rest = one.removeprefix(header).partition(CALLED[0])
    middle, found_arguments, tail = rest.partition(arguments)
    if not (found and found_arguments and OFFERED in offers):
        return None
    after_answer = plain.partition(ANSWER)[2]
    end = controls.split(tail.removesuffix(after_answer))[0]
    begin = begin.lstrip()
    separator = None
    several = _rendered(render, _with_calls(2))
    if several is not None:
        between = several.partition(arguments)[2].partition(CALLED[1])[0]
        if between.startswith(end) and between.endswith(begin):
            separator = between.removeprefix(end).removesuffix(begin)
    has_control = any(map(controls.search, (begin, middle, end, separator or "")))
    return None if has_control or not begin else CallFormat(begin, middle, end, separator)


def _rendered(
    render: Callable[[ChatInputs], str], messages: Sequence[dict[str, Any]]
) -> str | None:
    """Render messages with a tool; None if the template refuses them."""
    try:
        return render(
            {"messages": list(messages), "tools": [{"type": "function", "function": FUNCTION}]}
        )
    except APIError:
        return None


def _with_calls(count: int) -> list[dict[str, Any]]:
    """A conversation with so many calls in an answer, and their results."""
    calls = [
        {"type": "function", "function": {"name": name, "arguments": ARGUMENTS}}
        for name in CALLED[:count]
    ]
    answer = {"role": "assistant", "content": "", "tool_calls": calls}
    return [QUESTION, answer, *map(_result, range(count))]


def _result(number: int) -> dict[str, Any]:
    return {"role": "tool", "name": CALLED[number], "content": "?"}
