"""Which prompt template a model gets: the one that a flag names, or that its name or its tokenizer tells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_files import read_config, vocabulary_rows
from prompt_template import PromptTemplate
from prompts.alpaca import ALPACA
from prompts.chat_templates import chat_template_layout
from prompts.encoder import Encoder, Run, TokenizerEncoder, load_encoder, load_tokenizer
from prompts.layouts import ALPACA_2, BASE_MODEL, Layout
from prompts.rendered_layouts import SHORTEST_CONVERSATION, fastchat_layout
from settings import AdapterModule, Settings, StartError, raising_start_error

ALPACA_2_NAMES = ("chinese-llama-alpaca-2", "chinese-alpaca-2")
ALPACA_NAMES = ("chinese-llama-alpaca", "chinese-alpaca")
"""Parts of model names in lower case: a model with one of them was trained with that layout."""


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
        f"No prompt template is known for {settings.model}: give --prompt-template alpaca-2 (for Chinese-Alpaca-2), "
        f"alpaca, a .jinja file or one of fastchat's ({', '.join(sorted(fastchat_names))}), "
        "or --raw-completions for a base model."
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
