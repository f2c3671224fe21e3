"""How each family of models wants its conversations: as text runs and control ids.

Knows nothing about tokenizers beyond their control tokens, and covers text alone: no images, no schemas of tools.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

from errors import bad_request
from prompts.encoder import Encoder, Run, control_pattern

ALPACA_2_SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
FIRST_MARK = 0xF0000
"""A private-use plane: characters that stand for control tokens in client text while a template is rendered."""
END = "\uffff"
"""Marks where an answer that is to be continued ends: a code point that is no character."""

SYSTEM_ROLES = ("system", "developer")
Message = tuple[str, str]
"""A role and its text."""


@dataclass(frozen=True)
class Conversation:
    """Messages put in order: one system text at most, then user and assistant in turns, the user first."""

    system: str | None
    messages: tuple[Message, ...]

    @property
    def is_partial(self) -> bool:
        """The last message is an assistant's, to be continued."""
        return self.messages[-1][0] == "assistant"

    @property
    def turns(self) -> list[tuple[str, str | None]]:
        """(user, assistant) pairs; the assistant's text is None where it is to be generated."""
        texts = [text for _, text in self.messages]
        users = texts[::2]
        assistants = texts[1::2]
        return list(zip_longest(users, assistants))


PROBE = Conversation(None, (("user", "?"),))
"""What every template must be able to render."""


def to_conversation(
    messages: Sequence[Message], default: str | None = None, more: str = ""
) -> Conversation:
    """Join system texts, merge neighbours of one role; whoever is neither system nor assistant speaks as the user.

    `default` stands in for a system text that is not sent, and `more` comes after either.
    """
    sent = [text for role, text in messages if role in SYSTEM_ROLES]
    system = "\n".join(sent) if sent else default
    if more:
        system = f"{system}\n\n{more}" if system else more
    merged: list[Message] = []
    for role, text in messages:
        speaker = "assistant" if role == "assistant" else "user"
        if role in SYSTEM_ROLES:
            continue
        if merged and merged[-1][0] == speaker:
            merged[-1] = (speaker, f"{merged[-1][1]}\n{text}")
        else:
            merged.append((speaker, text))
    if merged and merged[-1] == ("assistant", ""):
        merged.pop()
    if not merged or merged[0][0] == "assistant":
        merged.insert(0, ("user", ""))
    return Conversation(system, tuple(merged))


@dataclass(frozen=True)
class Layout:
    """How one family of models wants its conversations."""

    name: str
    runs: Callable[[Conversation, Encoder], list[Run]]
    answer_lead: str = ""
    """Text that parts the prompt from the answer and belongs to neither, though the model generates it."""
    system: str = ""
    """The default system text, as far as it is known."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    is_jinja: bool = False
    """A template that a request could give fields of its own."""


def alpaca_2_runs(conversation: Conversation, encoder: Encoder) -> list[Run]:
    """Each turn is a text of its own between <s> and </s> (Chinese-LLaMA-Alpaca-2's training script)."""
    system = ALPACA_2_SYSTEM if conversation.system is None else conversation.system
    head = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    runs: list[Run] = []
    for user, assistant in conversation.turns:
        question = f"[INST] {head}{user} [/INST]"
        runs += [
            encoder.bos_id,
            question if assistant is None else f"{question} {assistant}",
            encoder.eos_id,
        ]
        head = ""
    return runs[:-1]


def alpaca_runs(conversation: Conversation, encoder: Encoder) -> list[Run]:
    """Alpaca, first generation: one text for the whole conversation."""
    system = ALPACA_SYSTEM if conversation.system is None else conversation.system
    paragraphs = [system] if system else []
    for user, assistant in conversation.turns:
        paragraphs.append(f"### Instruction:\n{user}")
        paragraphs.append("### Response:" if assistant is None else f"### Response: {assistant}")
    return [encoder.bos_id, "\n\n".join(paragraphs)]


def no_runs(_: Conversation, __: Encoder) -> list[Run]:
    """A base model has no way of putting a conversation."""
    reason = "This server has no prompt template for its model: start it with --prompt-template to choose one"
    raise bad_request(f"{reason}, or send text to /v1/completions.", "messages")


def rendered_runs(
    render: Callable[[Conversation], str], conversation: Conversation, encoder: Encoder
) -> list[Run]:
    """The runs of a template that renders one string, fastchat's or Jinja's.

    Client text that spells a control token is hidden while rendering, so those found afterwards are the template's.
    """
    controls = control_pattern(encoder.control_ids)
    used = set(conversation.system or "")
    for _, sent in conversation.messages:
        used.update(sent)
    private = range(FIRST_MARK, sys.maxunicode)
    free = (mark for mark in map(chr, private) if mark not in used)
    marks = dict(zip(encoder.control_ids, free, strict=False))
    shown: dict[int, str] = {}
    for text, mark in marks.items():
        shown[ord(mark)] = text
    hide = partial(controls.sub, lambda found: marks[found[0]])
    system = None if conversation.system is None else hide(conversation.system)
    messages = tuple((role, hide(text)) for role, text in conversation.messages)
    rendered = render(Conversation(system, messages))
    runs: list[Run] = []
    for at, piece in enumerate(controls.split(rendered)):
        is_control = at % 2 == 1  # text and control tokens come in turns
        if is_control:
            runs.append(encoder.control_ids[piece])
        elif piece:
            runs.append(piece.translate(shown))
    return runs


def _to_strings(stop: Any) -> tuple[str, ...]:
    """One string, several, or None."""
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,)
    return tuple(stop)


def fastchat_layout(name: str) -> Layout:
    """A template of `fastchat.conversation`, with its own stop strings."""
    from fastchat.conversation import get_conv_template  # noqa: PLC0415

    def render(conversation: Conversation) -> str:
        template = get_conv_template(name)
        if conversation.system is not None:
            template.set_system_message(conversation.system)
        for role, text in conversation.messages:
            template.append_message(template.roles[role == "assistant"], text.replace(END, ""))
        if conversation.is_partial:
            template.messages[-1][1] += END
        else:
            template.append_message(template.roles[1], None)
        rendered = str(template.get_prompt()).partition(END)[0]
        if conversation.system and conversation.system not in rendered:
            raise bad_request(
                f"The prompt template {name} has no place for a system message.", "messages"
            )
        return rendered

    def runs(conversation: Conversation, encoder: Encoder) -> list[Run]:
        """fastchat leaves the beginning of the text to the tokenizer, but for some templates."""
        rendered = rendered_runs(render, conversation, encoder)
        if rendered[:1] == [encoder.bos_id]:
            return rendered
        return [encoder.bos_id, *rendered]

    template = get_conv_template(name)
    stop = _to_strings(template.stop_str)
    lead = "" if render(PROBE)[-1:].isspace() else " "
    return Layout(
        name, runs, lead, str(template.system_message), stop, tuple(template.stop_token_ids or ())
    )


def chat_template_layout(name: str, tokenizer: Any, source: str | None = None) -> Layout:
    """The tokenizer's own chat template, or `source`, a Jinja template in its place."""
    own = tokenizer.chat_template
    # Perhaps it was read from a file that an editor began with a byte order mark.
    if source is None and isinstance(own, str):
        source = own.removeprefix("\ufeff")

    def render(conversation: Conversation) -> str:
        from jinja2 import TemplateError  # noqa: PLC0415

        messages = []
        if conversation.system is not None:
            messages.append({"role": "system", "content": conversation.system})
        for role, text in conversation.messages:
            messages.append({"role": role, "content": text})
        ending = {
            ("continue_final_message" if conversation.is_partial else "add_generation_prompt"): True
        }
        try:
            return str(
                tokenizer.apply_chat_template(
                    messages, chat_template=source, tokenize=False, **ending
                )
            )
        except TemplateError as failure:
            raise bad_request(
                f"The model's chat template refuses these messages: {failure}", "messages"
            ) from failure
        except (ValueError, TypeError, KeyError):
            # They may hold the client's text, so they go no further.
            raise bad_request(
                "The model's chat template cannot render these messages.", "messages"
            ) from None

    return Layout(name, partial(rendered_runs, render), is_jinja=True)


ALPACA_2 = Layout("alpaca-2", alpaca_2_runs, " ", ALPACA_2_SYSTEM)
ALPACA = Layout("alpaca", alpaca_runs, " ", ALPACA_SYSTEM, ("### Instruction:",))
NO_LAYOUT = Layout("none", no_runs)
"""For a base model, whose prompts are used as they are."""
