"""Messages or an instruction -> prompt token ids.

A template lays a conversation out as text runs and control ids; the encoder turns those into token ids, so text from a
client never becomes a control token. Knows nothing about HTTP, sampling or the engine, and covers text alone: no
images, no schemas of tools.
"""

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from encoder import Encoder, Run, TokenizerEncoder, control_pattern, load_encoder, load_tokenizer
from errors import bad_request
from generation import Prompt
from settings import Settings, StartError

ALPACA_2_SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
ALPACA_2_NAMES = ("chinese-llama-alpaca-2", "chinese-alpaca-2")
ALPACA_NAMES = ("chinese-llama-alpaca", "chinese-alpaca")
FIRST_MARK = 0xF0000
"""A private-use plane: characters that stand for control tokens in client text while a template is rendered."""
END = "\uffff"
"""Marks where an answer that is to be continued ends: a code point that is no character."""
LONG_TEXT = 8_000
"""Characters from which a text is encoded in a thread: below, encoding costs less than the hop."""

Item = TypeVar("Item")
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
        texts: list[str | None] = [text for _, text in self.messages]
        if not self.is_partial:
            texts.append(None)
        return [(texts[at] or "", texts[at + 1]) for at in range(0, len(texts), 2)]


PROBE = Conversation(None, (("user", "?"),))
"""What every template must be able to render."""


def to_conversation(messages: Iterable[Message]) -> Conversation:
    """Join system texts, merge neighbours of one role; whoever is neither system nor assistant speaks as the user."""
    system: list[str] = []
    merged: list[Message] = []
    for role, text in messages:
        if role in ("system", "developer"):
            system.append(text)
            continue
        speaker = "assistant" if role == "assistant" else "user"
        if merged and merged[-1][0] == speaker:
            merged[-1] = (speaker, f"{merged[-1][1]}\n{text}")
        else:
            merged.append((speaker, text))
    if merged and merged[-1] == ("assistant", ""):
        merged.pop()
    if not merged or merged[0][0] == "assistant":
        merged.insert(0, ("user", ""))
    return Conversation("\n".join(system) if system else None, tuple(merged))


@dataclass(frozen=True)
class Layout:
    """How one family of models wants its conversations; a run of None is a token that the tokenizer lacks."""

    name: str
    runs: Callable[[Conversation, Encoder], list[Run | None]]
    answer_lead: str = ""
    """Text that parts the prompt from the answer and belongs to neither, though the model generates it."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()


def alpaca_2_runs(conversation: Conversation, encoder: Encoder) -> list[Run | None]:
    """Each turn is a text of its own between <s> and </s> (Chinese-LLaMA-Alpaca-2's training script)."""
    system = ALPACA_2_SYSTEM if conversation.system is None else conversation.system
    head = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    runs: list[Run | None] = []
    for user, assistant in conversation.turns:
        question = f"[INST] {head}{user} [/INST]"
        runs += [encoder.bos_id, question if assistant is None else f"{question} {assistant}", encoder.eos_id]
        head = ""
    return runs[:-1]


def alpaca_runs(conversation: Conversation, encoder: Encoder) -> list[Run | None]:
    """Alpaca, first generation: one text for the whole conversation."""
    system = ALPACA_SYSTEM if conversation.system is None else conversation.system
    paragraphs = [system] if system else []
    for user, assistant in conversation.turns:
        paragraphs.append(f"### Instruction:\n{user}")
        paragraphs.append("### Response:" if assistant is None else f"### Response: {assistant}")
    return [encoder.bos_id, "\n\n".join(paragraphs)]


def rendered_runs(
    render: Callable[[Conversation], str], conversation: Conversation, encoder: Encoder
) -> list[Run | None]:
    """The runs of a template that renders one string, fastchat's or Jinja's.

    Client text that spells a control token is hidden while rendering, so those found afterwards are the template's.
    """
    controls = control_pattern(encoder.control_ids)
    texts = "".join((conversation.system or "", *(text for _, text in conversation.messages)))
    used = {ord(character) for character in texts if ord(character) >= FIRST_MARK}
    free = (chr(code) for code in range(FIRST_MARK, sys.maxunicode) if code not in used)
    marks = dict(zip(encoder.control_ids, free, strict=False))
    shown = {ord(mark): text for text, mark in marks.items()}
    hide = partial(controls.sub, lambda found: marks[found[0]])
    system = None if conversation.system is None else hide(conversation.system)
    rendered = render(Conversation(system, tuple((role, hide(text)) for role, text in conversation.messages)))
    runs: list[Run | None] = []
    end = 0
    for control in controls.finditer(rendered):
        runs += [rendered[end : control.start()].translate(shown), encoder.control_ids[control[0]]]
        end = control.end()
    return [run for run in (*runs, rendered[end:].translate(shown)) if run != ""]


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
            raise bad_request(f"The prompt template {name} has no place for a system message.", "messages")
        return rendered

    def runs(conversation: Conversation, encoder: Encoder) -> list[Run | None]:
        """fastchat leaves the beginning of the text to the tokenizer, but for some templates."""
        rendered = rendered_runs(render, conversation, encoder)
        return rendered if rendered[:1] == [encoder.bos_id] else [encoder.bos_id, *rendered]

    template = get_conv_template(name)
    stop = [template.stop_str] if isinstance(template.stop_str, str) else template.stop_str or []
    lead = "" if render(PROBE)[-1:].isspace() else " "
    return Layout(name, runs, lead, tuple(stop), tuple(template.stop_token_ids or ()))


def chat_template_layout(name: str, tokenizer: Any, source: str | None = None) -> Layout:
    """The tokenizer's own chat template, or `source`, a Jinja template in its place."""

    def render(conversation: Conversation) -> str:
        from jinja2 import TemplateError  # noqa: PLC0415

        messages = [{"role": role, "content": text} for role, text in conversation.messages]
        if conversation.system is not None:
            messages.insert(0, {"role": "system", "content": conversation.system})
        ending = {("continue_final_message" if conversation.is_partial else "add_generation_prompt"): True}
        try:
            return str(tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **ending))
        except TemplateError as failure:
            raise bad_request(f"The model's chat template refuses these messages: {failure}", "messages") from failure
        except (ValueError, TypeError, KeyError):  # they may hold the client's text, so they go no further
            raise bad_request("The model's chat template cannot render these messages.", "messages") from None

    return Layout(name, partial(rendered_runs, render))


ALPACA_2 = Layout("alpaca-2", alpaca_2_runs, " ")
ALPACA = Layout("alpaca", alpaca_runs, " ", ("### Instruction:",))


class PromptTemplate:
    """One layout on one encoder."""

    def __init__(self, layout: Layout, encoder: Encoder, system_prompt: str | None = None) -> None:
        self.layout = layout
        self.encoder = encoder
        self._system_prompt = system_prompt
        # One thread: it keeps the loop free, and more would only compete with the engine.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        """The prompt of a conversation; a final assistant message is continued."""
        conversation = to_conversation(messages)
        if conversation.system is None:
            conversation = Conversation(self._system_prompt, conversation.messages)
        runs = self.layout.runs(conversation, self.encoder)
        ids = self.encoder.encode([run for run in runs if run is not None])
        lead = "" if conversation.is_partial else self.layout.answer_lead
        return Prompt(ids, "", lead, self.layout.stop, self.layout.stop_token_ids)

    def render_instruction(self, text: str) -> Prompt:
        """The prompt of one instruction: a conversation of one user message."""
        prompt = self.render_chat([("user", text)])
        prompt.text = text
        return prompt

    def render_raw(self, text: str) -> Prompt:
        """The text as it is, after the tokenizer's own beginning of a text."""
        runs: list[Run | None] = [self.encoder.bos_id, text]
        return Prompt(self.encoder.encode([run for run in runs if run is not None]), text)

    async def aside(self, render: Callable[[Item], Prompt], item: Item, characters: int) -> Prompt:
        """`render(item)`, in a thread if `characters` make it long, so that other streams do not wait."""
        if characters < LONG_TEXT:
            return render(item)
        return await asyncio.get_running_loop().run_in_executor(self._worker, render, item)


def load_prompt_template(settings: Settings) -> PromptTemplate:
    """The template that the settings name, or that fits the model (`auto`); raises StartError."""
    encoder = load_encoder(
        settings.tokenizer_path,
        settings.tokenizer_mode,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )
    system_prompt = settings.system_prompt
    if system_prompt and system_prompt.startswith("@"):
        system_prompt = _read(system_prompt[1:], "--system-prompt")
    try:
        layout = _choose_layout(settings, encoder)
        layout.runs(PROBE, encoder)
    except StartError:
        raise
    except Exception as failure:
        raise StartError(f"The prompt template cannot render a message: {failure}") from failure
    return PromptTemplate(layout, encoder, system_prompt)


def _choose_layout(settings: Settings, encoder: Encoder) -> Layout:
    choice = settings.prompt_template
    if choice != "auto":
        return _named_layout(choice, settings, encoder)
    names = [*settings.model_names, settings.model]
    for layout, marks in ((ALPACA_2, ALPACA_2_NAMES), (ALPACA, ALPACA_NAMES)):
        if any(mark in name.lower() for name in names for mark in marks):
            return layout
    tokenizer = _tokenizer(settings, encoder)
    if tokenizer.chat_template:
        return chat_template_layout("model", tokenizer)
    fastchat_names = _fastchat_names()
    for name in (*names, Path(settings.model).name):
        if name in fastchat_names:
            return fastchat_layout(name)
    raise StartError(
        f"No prompt template is known for {settings.model}: give --prompt-template alpaca-2, alpaca, a .jinja file "
        f"or one of fastchat's ({', '.join(sorted(fastchat_names))})."
    )


def _named_layout(choice: str, settings: Settings, encoder: Encoder) -> Layout:
    for layout in (ALPACA_2, ALPACA):
        if choice == layout.name:
            return layout
    if choice.endswith(".jinja"):
        return chat_template_layout(choice, _tokenizer(settings, encoder), _read(choice, "--prompt-template"))
    if choice == "model":
        tokenizer = _tokenizer(settings, encoder)
        if not tokenizer.chat_template:
            raise StartError(f"--prompt-template model: the tokenizer {settings.tokenizer_path} has no chat template.")
        return chat_template_layout("model", tokenizer)
    if choice in _fastchat_names():
        return fastchat_layout(choice)
    raise StartError(
        f"There is no prompt template {choice}: the choices are auto, alpaca-2, alpaca, model, a .jinja file and "
        f"fastchat's {', '.join(sorted(_fastchat_names()))}."
    )


def _tokenizer(settings: Settings, encoder: Encoder) -> Any:
    if isinstance(encoder, TokenizerEncoder):
        return encoder.tokenizer
    remote_code = settings.trust_remote_code
    return load_tokenizer(settings.tokenizer_path, revision=settings.revision, trust_remote_code=remote_code)


def _fastchat_names() -> frozenset[str]:
    from fastchat.conversation import conv_templates  # noqa: PLC0415

    return frozenset(conv_templates)


def _read(file: str, flag: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        raise StartError(f"{flag}: the file {file} cannot be read.") from failure
