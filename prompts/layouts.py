"""Prompt templates: conversations -> runs of text and control tokens, in the layout that a model was trained with.

Alpaca-2 and Alpaca are written here; others are rendered by fastchat, or by Jinja (`prompts/chat_templates.py`).
Text only: no images. Knows nothing about tokenizers beyond their control tokens.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

from errors import APIError, bad_request
from generation import CallFormat, Calls
from prompts.calls import Call, Message, is_plain
from prompts.encoder import Encoder, Run, control_pattern

ALPACA_2_SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
FIRST_PLACEHOLDER = 0xF0000
"""The first of the private-use characters (Unicode's plane 15) that replace control tokens in client text.

Only while a template renders it: the text itself comes back afterwards.
"""
END_OF_PARTIAL = "\uffff"
"""Put after an answer that is to be continued, and cut off with what a template renders behind it.

It is a noncharacter of Unicode, so no text needs it.
"""

SYSTEM_ROLES = ("system", "developer")
JSON_LINES = CallFormat()
"""How calls are written where a template has no words of its own for them."""
ChatInputs = dict[str, Any]
"""What is rendered: `messages`, and `tools` if there are any, as transformers' chat templates take them."""


@dataclass(frozen=True)
class Conversation:
    """A conversation in the order that templates need: a user's message first, then assistant and user in turns."""

    system: str | None
    """The system text; None: the template's default."""
    messages: tuple[Message, ...]
    """At least one; the only roles are `user` and `assistant`, and `tool` where the layout takes tools."""
    calls: Calls | None = None
    """What the answer may call, where the layout takes tools."""

    @property
    def is_partial(self) -> bool:
        """Whether the last message is the assistant's, which the model is to continue."""
        return self.messages[-1].role == "assistant"

    @property
    def turns(self) -> list[tuple[str, str | None]]:
        """Pairs of texts, the user's and the assistant's; the last assistant's is None if it is to be generated."""
        texts = [message.text for message in self.messages]
        return list(zip_longest(texts[::2], texts[1::2]))


SHORTEST_CONVERSATION = Conversation(None, (Message("user", "?"),))
"""Laid out at start, so that a template that cannot render any conversation fails there."""


def to_conversation(
    messages: Sequence[Message], default_system: str | None = None, system_addition: str = ""
) -> Conversation:
    """Join system texts and successive messages of one role, unless they have calls or results.

    `default_system` is used if no system message is sent; `system_addition` is a last paragraph of the system text. An
    empty last message of the assistant is left out, and a user's empty one put before an assistant's first.
    """
    sent = [message.text for message in messages if message.role in SYSTEM_ROLES]
    system = "\n".join(sent) if sent else default_system
    if system_addition:
        system = f"{system}\n\n{system_addition}" if system else system_addition
    merged: list[Message] = []
    for message in messages:
        if message.role in SYSTEM_ROLES:
            continue
        if merged and merged[-1].role == message.role and is_plain([merged[-1], message]):
            merged[-1] = Message(message.role, f"{merged[-1].text}\n{message.text}")
        else:
            merged.append(message)
    if merged and merged[-1] == Message("assistant", ""):
        merged.pop()
    if not merged or merged[0].role == "assistant":
        merged.insert(0, Message("user", ""))
    return Conversation(system, tuple(merged))


@dataclass(frozen=True)
class Layout:
    """The prompt template of one family of models."""

    name: str
    """The value of `--prompt-template` that chooses it; `none` where there is no template."""
    to_runs: Callable[[Conversation, Encoder], list[Run]]
    """Lays out a conversation; raises APIError (400) for one that the template cannot express."""
    answer_lead: str = ""
    """`Prompt.answer_lead` of a prompt that ends before an answer."""
    default_system: str = ""
    """The system text that `to_runs` puts where a conversation has None; empty if unknown, as in a Jinja template."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer besides those of the request."""
    stop_token_ids: tuple[int, ...] = ()
    is_jinja: bool = False
    """Whether it is a chat template in Jinja, which in other servers takes `chat_template_kwargs`."""
    call_format: CallFormat = JSON_LINES
    """How its answers write calls of functions."""
    takes_tools: bool = False
    """Whether it has words of its own for functions, calls and their results; if not, they are text."""


def alpaca_2_runs(conversation: Conversation, encoder: Encoder) -> list[Run]:
    """Lay out each turn as a text of its own between <s> and </s>, as Chinese-LLaMA-Alpaca-2's training script does.

    The last </s> is left out: that turn's answer is generated or continued.
    """
    system = ALPACA_2_SYSTEM if conversation.system is None else conversation.system
    head = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    runs: list[Run] = []
    for user, assistant in conversation.turns:
        question = f"[INST] {head}{user} [/INST]"
        turn = question if assistant is None else f"{question} {assistant}"
        runs += [encoder.bos_id, turn, encoder.eos_id]
        head = ""
    return runs[:-1]


def alpaca_runs(conversation: Conversation, encoder: Encoder) -> list[Run]:
    """Lay out the whole conversation as one text: Stanford Alpaca's format, and the first Chinese-LLaMA-Alpaca's."""
    system = ALPACA_SYSTEM if conversation.system is None else conversation.system
    paragraphs = [system] if system else []
    for user, assistant in conversation.turns:
        paragraphs.append(f"### Instruction:\n{user}")
        paragraphs.append("### Response:" if assistant is None else f"### Response: {assistant}")
    return [encoder.bos_id, "\n\n".join(paragraphs)]


def refuse_messages(_: Conversation, __: Encoder) -> list[Run]:
    """Raise APIError (400): a base model was trained with no template for messages."""
    reason = "This server has no prompt template for its model: start it with --prompt-template to choose one"
    raise bad_request(f"{reason}, or send text to /v1/completions.", "messages")


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
            raise _no_system(name)
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


def _no_system(name: str) -> APIError:
    return bad_request(f"The prompt template {name} has no place for a system message.", "messages")


ALPACA_2 = Layout("alpaca-2", alpaca_2_runs, answer_lead=" ", default_system=ALPACA_2_SYSTEM)
ALPACA = Layout(
    "alpaca", alpaca_runs, answer_lead=" ", default_system=ALPACA_SYSTEM, stop=("### Instruction:",)
)
BASE_MODEL = Layout("none", refuse_messages)
"""The layout of a base model, which continues the text of `/v1/completions` as it is."""
