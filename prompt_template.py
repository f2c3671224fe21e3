"""Messages, an instruction or raw text -> a prompt of token ids; and which template a model gets.

A layout (`prompts/layouts.py`) makes runs of text and control tokens, the encoder (`prompts/encoder.py`) their ids.
Knows nothing about HTTP, sampling or the engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from errors import bad_request
from generation import Calls, Prompt
from model_files import read_config, vocabulary_rows
from prompts.calls import Message, describe, is_plain, to_plain_message
from prompts.chat_templates import chat_template_layout
from prompts.encoder import Encoder, Run, TokenizerEncoder, load_encoder, load_tokenizer
from prompts.layouts import (
    ALPACA,
    ALPACA_2,
    BASE_MODEL,
    SHORTEST_CONVERSATION,
    Layout,
    fastchat_layout,
    to_conversation,
)
from settings import AdapterModule, Settings, StartError, raising_start_error

ALPACA_2_NAMES = ("chinese-llama-alpaca-2", "chinese-alpaca-2")
ALPACA_NAMES = ("chinese-llama-alpaca", "chinese-alpaca")
"""Parts of model names in lower case: a model with one of them was trained with that layout."""


class PromptTemplate:
    """Makes the prompts of one model."""

    def __init__(self, layout: Layout, encoder: Encoder, system_prompt: str | None = None) -> None:
        """`system_prompt`: the system text of conversations that have none; None: the layout's own default."""
        self.layout = layout
        self.encoder = encoder
        self.system_prompt = system_prompt
        self._lead_ids = (
            encoder.ids_spelt_as(layout.answer_lead) if layout.answer_lead else frozenset()
        )

    def check_fields(self, sent: Mapping[str, Any]) -> None:
        """Raise APIError (400) for `chat_template_kwargs` if the template is in Jinja: others have no use for them."""
        if self.layout.is_jinja and sent.get("chat_template_kwargs"):
            raise bad_request("'chat_template_kwargs' is not supported.", "chat_template_kwargs")

    def render_chat(self, messages: Sequence[Message], calls: Calls | None = None) -> Prompt:
        """Return the prompt of a conversation: for an answer, or for the rest of it if the assistant's message is last.

        `calls`: the functions that the answer may call, which the template describes in its own way, or the end of the
        system text does. Raises APIError (400) for messages that the template cannot express.
        """
        layout, default_system, addition = self.layout, self.system_prompt, ""
        if calls is not None and not layout.takes_tools:
            addition = describe(calls)
            # Now there is a system text, so the layout would leave its own default out.
            default_system = layout.default_system if default_system is None else default_system
        if not layout.takes_tools and not is_plain(messages):
            messages = [to_plain_message(message, layout.call_format) for message in messages]
        conversation = to_conversation(messages, default_system, addition)
        if layout.takes_tools:
            conversation = replace(conversation, calls=calls)
        ids = self.encoder.encode(layout.to_runs(conversation, self.encoder))
        prompt = Prompt(ids, stop=layout.stop, stop_token_ids=layout.stop_token_ids)
        if not conversation.is_partial:
            prompt.answer_lead, prompt.lead_ids = layout.answer_lead, self._lead_ids
        return prompt

    def render_instruction(self, text: str) -> Prompt:
        """Return the prompt of one instruction, a conversation of one user message; raises APIError (400)."""
        if self.layout is BASE_MODEL:
            raise bad_request(
                "This server has no prompt template: start it with --prompt-template to choose one.",
                "raw",
            )
        return replace(self.render_chat([Message("user", text)]), text=text)

    def render_raw(self, text: str) -> Prompt:
        """Return the prompt of a text without a template, after the token that begins a text, if there is one."""
        return Prompt(self.encoder.encode([self.encoder.bos_id, text]), text)


def load_prompt_template(settings: Settings) -> PromptTemplate:
    """Load the template that `--prompt-template` names, or in `auto` that of the model; raises StartError."""
    encoder = load_encoder(settings)
    system_prompt = settings.system_prompt
    if system_prompt and system_prompt.startswith("@"):
        system_prompt = _read_text(system_prompt[1:], "--system-prompt")
    with raising_start_error("The prompt template cannot render a message"):
        layout = _choose_layout(settings, encoder)
        runs = layout.to_runs(SHORTEST_CONVERSATION, encoder) if layout is not BASE_MODEL else []
        rows = vocabulary_rows(read_config(settings))
        if rows is not None:
            _check_vocabulary(rows, encoder, layout.name, runs)
    return PromptTemplate(layout, encoder, system_prompt)


def adapter_template(
    base: PromptTemplate, module: AdapterModule, settings: Settings
) -> PromptTemplate:
    """Return the template of an adapter: the one that it names, or that its name tells, else that of its base model.

    Raises StartError for a name of no template.
    """
    choice = module.prompt_template
    if choice == "auto":
        layout = _layout_by_name([module.name, module.path]) or base.layout
    else:
        layout = _named_layout(choice, settings, base.encoder)
    return PromptTemplate(layout, base.encoder, base.system_prompt)


def _check_vocabulary(rows: int, encoder: Encoder, layout_name: str, runs: Sequence[Run]) -> None:
    """Raise StartError if any text, or the template that gave `runs`, has ids that are not rows of the embeddings.

    Other control tokens may have such ids, as an added <pad> does: no prompt has them.
    """
    pieces = encoder.text_vocabulary_size
    if pieces > rows:
        counts = f"{pieces:,} pieces, and the model {rows:,} rows (vocab_size in config.json)"
        raise StartError(
            f"The tokenizer has {counts}: has the model been merged, and is this its tokenizer?"
        )
    for run in runs:
        if isinstance(run, int) and run >= rows:
            raise StartError(
                f"The prompt template {layout_name} has {encoder.control_texts[run]}, "
                "for which the model has no row."
            )


def _choose_layout(settings: Settings, encoder: Encoder) -> Layout:
    """Return the layout that `--prompt-template` names; in `auto`, Alpaca's if the model's name tells it."""
    if settings.prompt_template != "auto":
        return _named_layout(settings.prompt_template, settings, encoder)
    # The demo model was trained with this layout, under whatever name it is served.
    if settings.is_demo:
        return ALPACA_2
    names = [*settings.model_names, settings.model]
    return _layout_by_name(names) or _detected_layout(
        [*names, Path(settings.model).name], settings, encoder
    )


def _layout_by_name(names: Sequence[str]) -> Layout | None:
    """Return Alpaca-2's or Alpaca's layout if a model's name tells it."""
    # Alpaca-2 first: its names begin as Alpaca's do.
    for layout, parts in ((ALPACA_2, ALPACA_2_NAMES), (ALPACA, ALPACA_NAMES)):
        if any(part in name.lower() for name in names for part in parts):
            return layout
    return None


def _detected_layout(names: Sequence[str], settings: Settings, encoder: Encoder) -> Layout:
    """Return the layout of the tokenizer's chat template, else fastchat's of one of the names; raises StartError.

    If there is neither, a server with `--raw-completions` does without.
    """
    tokenizer = _tokenizer(settings, encoder)
    if tokenizer.chat_template:
        return chat_template_layout("model", tokenizer)
    fastchat_names = _fastchat_names()
    if known := [name for name in names if name in fastchat_names]:
        return fastchat_layout(known[0])
    if settings.raw_completions:
        return BASE_MODEL
    raise StartError(
        f"No prompt template is known for {settings.model}: give --prompt-template alpaca-2, alpaca, a .jinja file "
        f"or one of fastchat's ({', '.join(sorted(fastchat_names))}), or --raw-completions for a base model."
    )


def _named_layout(choice: str, settings: Settings, encoder: Encoder) -> Layout:
    """Return the layout for a value of `--prompt-template` other than `auto`; raises StartError."""
    for layout in (ALPACA_2, ALPACA):
        if choice == layout.name:
            return layout
    if choice.endswith(".jinja"):
        source = _read_text(choice, "--prompt-template")
        return chat_template_layout(choice, _tokenizer(settings, encoder), source)
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
    """Return transformers' tokenizer, loaded only if the encoder has none: that takes seconds."""
    return encoder.tokenizer if isinstance(encoder, TokenizerEncoder) else load_tokenizer(settings)


def _fastchat_names() -> frozenset[str]:
    from fastchat.conversation import conv_templates  # noqa: PLC0415

    return frozenset(conv_templates)


def _read_text(file: str, flag: str) -> str:
    """Read a flag's file without what editors add, a byte order mark and the last newline; raises StartError."""
    try:
        return Path(file).read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as failure:
        raise StartError(f"{flag}: the file {file} cannot be read.") from failure
