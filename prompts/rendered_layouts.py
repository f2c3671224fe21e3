"""Layouts whose template renders a conversation as one string: what fastchat's and Jinja's share, and fastchat's."""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from errors import bad_request
from prompts.calls import Call, Message
from prompts.encoder import Encoder, Run, control_pattern
from prompts.layouts import Conversation, Layout

FIRST_PLACEHOLDER = 0xF0000
"""The first of the private-use characters (Unicode's plane 15) that replace control tokens in client text.

Only while a template renders it: the text itself comes back afterwards.
"""
END_OF_PARTIAL = "\uffff"
"""Put after an answer that is to be continued, and cut off with what a template renders behind it.

It is a noncharacter of Unicode, so no text needs it.
"""
SHORTEST_CONVERSATION = Conversation(None, (Message("user", "?"),))
"""Laid out at start, so that a template that cannot render any conversation fails there."""
ChatInputs = dict[str, Any]
"""What is rendered: `messages`, and `tools` if there are any, as transformers' chat templates take them."""


def rendered_runs(
    render: Callable[[ChatInputs], str], inputs: ChatInputs, encoder: Encoder
) -> list[Run]:
    """Split what a template renders as one string, fastchat's or Jinja's, into text and control tokens.

    Client text that spells a control token has a placeholder while it is rendered, so those found afterwards are the
    template's own.
    """
    controls = control_pattern(encoder.control_ids)
    used = set(json.dumps(inputs, ensure_ascii=False))
    private = map(chr, range(FIRST_PLACEHOLDER, sys.maxunicode))
    free = (character for character in private if character not in used)
    placeholders = dict(zip(encoder.control_ids, free, strict=False))
    spelt = {ord(placeholder): text for text, placeholder in placeholders.items()}
    hide = partial(controls.sub, lambda found: placeholders[found[0]])
    rendered = render(with_changed_texts(inputs, hide))
    runs: list[Run] = []
    for at, piece in enumerate(controls.split(rendered)):
        is_control = at % 2 == 1  # `split` gives text and matches in turns
        if is_control:
            runs.append(encoder.control_ids[piece])
        elif piece:
            runs.append(piece.translate(spelt))
    return runs


def with_changed_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Copy a value of JSON with each text in it changed, also each key of its objects."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [with_changed_texts(member, change) for member in value]
    if isinstance(value, dict):
        return {change(key): with_changed_texts(member, change) for key, member in value.items()}
    return value


def to_chat_inputs(conversation: Conversation) -> ChatInputs:
    """Write a conversation in the form of transformers' chat templates, in which arguments are objects, not JSON."""
    messages: list[dict[str, Any]] = []
    if conversation.system is not None:
        messages.append({"role": "system", "content": conversation.system})
    for message in conversation.messages:
        written: dict[str, Any] = {"role": message.role, "content": message.text}
        if message.function:
            written["name"] = message.function
        if message.calls:
            written["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": _parsed(call)}}
                for call in message.calls
            ]
        messages.append(written)
    inputs: ChatInputs = {"messages": messages}
    if conversation.calls is not None:
        inputs["tools"] = [
            {"type": "function", "function": dict(function)}
            for function in conversation.calls.functions
        ]
    return inputs


def _parsed(call: Call) -> Any:
    """The arguments of a call as an object; as they are if they are not JSON."""
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments


def fastchat_layout(name: str) -> Layout:
    """Return the layout of a template of `fastchat.conversation`, with its stop strings and stop token ids.

    Raises KeyError if there is none of that name, and what fastchat raises if the template cannot be rendered.
    """
    from fastchat.conversation import get_conv_template  # noqa: PLC0415

    def render(inputs: ChatInputs) -> str:
        template = get_conv_template(name)
        system = ""
        for message in inputs["messages"]:
            if message["role"] == "system":
                system = message["content"]
                template.set_system_message(system)
            else:
                speaker = assistant if message["role"] == "assistant" else user
                template.append_message(speaker, message["content"].replace(END_OF_PARTIAL, ""))
        if template.messages[-1][0] == assistant:
            template.messages[-1][1] += END_OF_PARTIAL
        else:
            template.append_message(assistant, None)
        rendered = str(template.get_prompt()).partition(END_OF_PARTIAL)[0]
        if system and system not in rendered:
            raise bad_request(
                f"The prompt template {name} has no place for a system message.", "messages"
            )
        return rendered

    def to_runs(conversation: Conversation, encoder: Encoder) -> list[Run]:
        # Most of fastchat's templates leave the token that begins a text to the tokenizer, some spell it.
        rendered = rendered_runs(render, to_chat_inputs(conversation), encoder)
        if rendered[:1] == [encoder.bos_id]:
            return rendered
        return [encoder.bos_id, *rendered]

    template = get_conv_template(name)
    user, assistant = template.roles[:2]  # a third one is the system's
    ends_with_space = render(to_chat_inputs(SHORTEST_CONVERSATION))[-1:].isspace()
    stop = template.stop_str or ()  # None, one string, or a list
    return Layout(
        name,
        to_runs,
        answer_lead="" if ends_with_space else " ",
        default_system=str(template.system_message),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_token_ids=tuple(template.stop_token_ids or ()),
    )
