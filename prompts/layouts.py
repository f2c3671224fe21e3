"""Prompt templates: conversations -> runs of text and control tokens, in the layout that a model was trained with.

Alpaca-2 is written here, and Alpaca in `prompts/alpaca.py`; others are rendered by fastchat
(`prompts/rendered_layouts.py`), or by Jinja (`prompts/chat_templates.py`). Text only: no images. Knows nothing about
tokenizers beyond their control tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from errors import bad_request
from generation import CallFormat, Calls
from prompts.calls import Message, is_plain
from prompts.encoder import Encoder, Run

ALPACA_2_SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
SYSTEM_ROLES = ("system", "developer")
JSON_LINES = CallFormat()
"""How calls are written where a template has no words of its own for them."""


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


def refuse_messages(_: Conversation, __: Encoder) -> list[Run]:
    """Raise APIError (400): a base model was trained with no template for messages."""
    reason = "This server has no prompt template for its model: start it with --prompt-template to choose one"
    raise bad_request(f"{reason}, or send text to /v1/completions.", "messages")


ALPACA_2 = Layout("alpaca-2", alpaca_2_runs, answer_lead=" ", default_system=ALPACA_2_SYSTEM)
BASE_MODEL = Layout("none", refuse_messages)
"""The layout of a base model, which continues the text of `/v1/completions` as it is."""
