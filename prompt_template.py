"""Messages or an instruction -> prompt token ids: a layout, chosen for the model, on the model's encoder.

Knows nothing about HTTP, sampling or the engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from errors import bad_request
from generation import Prompt
from model_files import read_config, vocabulary_rows
from prompts.encoder import Encoder, TokenizerEncoder, load_encoder, load_tokenizer
from prompts.layouts import (
    ALPACA,
    ALPACA_2,
    NO_LAYOUT,
    PROBE,
    Layout,
    Message,
    chat_template_layout,
    fastchat_layout,
    to_conversation,
)
from settings import Settings, StartError, raising_start_error

ALPACA_2_NAMES = ("chinese-llama-alpaca-2", "chinese-alpaca-2")
ALPACA_NAMES = ("chinese-llama-alpaca", "chinese-alpaca")


class PromptTemplate:
    """One layout on one encoder."""

    def __init__(self, layout: Layout, encoder: Encoder, system_prompt: str | None = None) -> None:
        self.layout = layout
        self.encoder = encoder
        self._system_prompt = system_prompt
        self._lead_ids = (
            encoder.ids_spelt(layout.answer_lead) if layout.answer_lead else frozenset()
        )

    def check_fields(self, sent: Mapping[str, Any]) -> None:
        """Raise APIError (400) for fields that a chat template in Jinja would take: other templates take none."""
        if self.layout.is_jinja and sent.get("chat_template_kwargs"):
            raise bad_request("'chat_template_kwargs' is not supported.", "chat_template_kwargs")

    def render_chat(self, messages: Sequence[Message], functions: str = "") -> Prompt:
        """The prompt of a conversation; a final assistant message is continued, `functions` end the system text."""
        default = (
            self.layout.system if functions and self._system_prompt is None else self._system_prompt
        )
        conversation = to_conversation(messages, default, functions)
        ids = self.encoder.encode(self.layout.runs(conversation, self.encoder))
        prompt = Prompt(ids, stop=self.layout.stop, stop_token_ids=self.layout.stop_token_ids)
        if not conversation.is_partial:
            prompt.answer_lead, prompt.lead_ids = self.layout.answer_lead, self._lead_ids
        return prompt

    def render_instruction(self, text: str) -> Prompt:
        """The prompt of one instruction: a conversation of one user message."""
        if self.layout is NO_LAYOUT:
            raise bad_request(
                "This server has no prompt template: start it with --prompt-template to choose one.",
                "raw",
            )
        return replace(self.render_chat([("user", text)]), text=text)

    def render_raw(self, text: str) -> Prompt:
        """The text as it is, after the tokenizer's own beginning of a text."""
        return Prompt(self.encoder.encode([self.encoder.bos_id, text]), text)


def load_prompt_template(settings: Settings) -> PromptTemplate:
    """The template that the settings name, or that fits the model (`auto`); raises StartError."""
    encoder = load_encoder(settings)
    system_prompt = settings.system_prompt
    if system_prompt and system_prompt.startswith("@"):
        system_prompt = _read(system_prompt[1:], "--system-prompt")
    with raising_start_error("The prompt template cannot render a message"):
        layout = _choose_layout(settings, encoder)
        _check_rows(layout, encoder, vocabulary_rows(read_config(settings)))
    return PromptTemplate(layout, encoder, system_prompt)


def _check_rows(layout: Layout, encoder: Encoder, rows: int | None) -> None:
    """Raise StartError where text or the template has ids that the model, with so many rows, does not know.

    Control tokens beyond the rows, such as an added <pad>, hurt nobody as long as no prompt has them.
    """
    runs = layout.runs(PROBE, encoder) if layout is not NO_LAYOUT else []
    if rows is None:
        return
    if encoder.text_size > rows:
        counts = (
            f"{encoder.text_size:,} pieces, and the model {rows:,} rows (vocab_size in config.json)"
        )
        raise StartError(
            f"The tokenizer has {counts}: has the model been merged, and is this its tokenizer?"
        )
    if beyond := [
        encoder.control_texts[run] for run in runs if isinstance(run, int) and run >= rows
    ]:
        raise StartError(
            f"The prompt template {layout.name} has {beyond[0]}, for which the model has no row."
        )


def _choose_layout(settings: Settings, encoder: Encoder) -> Layout:
    if settings.prompt_template != "auto":
        return _named_layout(settings.prompt_template, settings, encoder)
    if settings.is_demo:  # it was trained on this one, whatever it is served as
        return ALPACA_2
    names = [*settings.model_names, settings.model]
    for layout, marks in ((ALPACA_2, ALPACA_2_NAMES), (ALPACA, ALPACA_NAMES)):
        if any(mark in name.lower() for name in names for mark in marks):
            return layout
    return _other_layout([*names, Path(settings.model).name], settings, encoder)


def _other_layout(names: Sequence[str], settings: Settings, encoder: Encoder) -> Layout:
    tokenizer = _tokenizer(settings, encoder)
    if tokenizer.chat_template:
        return chat_template_layout("model", tokenizer)
    fastchat_names = _fastchat_names()
    if known := [name for name in names if name in fastchat_names]:
        return fastchat_layout(known[0])
    if settings.raw_completions:
        return NO_LAYOUT
    raise StartError(
        f"No prompt template is known for {settings.model}: give --prompt-template alpaca-2, alpaca, a .jinja file "
        f"or one of fastchat's ({', '.join(sorted(fastchat_names))}), or --raw-completions for a base model."
    )


def _named_layout(choice: str, settings: Settings, encoder: Encoder) -> Layout:
    for layout in (ALPACA_2, ALPACA):
        if choice == layout.name:
            return layout
    if choice.endswith(".jinja"):
        return chat_template_layout(
            choice, _tokenizer(settings, encoder), _read(choice, "--prompt-template")
        )
    if choice == "model":
        tokenizer = _tokenizer(settings, encoder)
        if not tokenizer.chat_template:
            raise StartError(
                f"--prompt-template model: the tokenizer {settings.tokenizer_path} has no chat template."
            )
        return chat_template_layout("model", tokenizer)
    if choice in _fastchat_names():
        return fastchat_layout(choice)
    raise StartError(
        f"There is no prompt template {choice}: the choices are auto, alpaca-2, alpaca, model, a .jinja file and "
        f"fastchat's {', '.join(sorted(_fastchat_names()))}."
    )


def _tokenizer(settings: Settings, encoder: Encoder) -> Any:
    return encoder.tokenizer if isinstance(encoder, TokenizerEncoder) else load_tokenizer(settings)


def _fastchat_names() -> frozenset[str]:
    from fastchat.conversation import conv_templates  # noqa: PLC0415

    return frozenset(conv_templates)


def _read(file: str, flag: str) -> str:
    """The text of a file, without what editors add: a byte order mark, the end of the last line."""
    try:
        return Path(file).read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as failure:
        raise StartError(f"{flag}: the file {file} cannot be read.") from failure
