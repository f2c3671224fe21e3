"""Which template a model gets, and templates and system texts in files."""

import json
from pathlib import Path

import pytest

from prompts.alpaca import ALPACA
from prompts.layouts import ALPACA_2, BASE_MODEL, Layout
from server.console import Loaded, banner
from settings import DEMO_MODEL, Settings, StartError
from template_choice import load_prompt_template
from tests.support.model_directory import copy_of_demo_model
from tests.support.paths import ROOT


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return copy_of_demo_model(tmp_path / "some-model")


@pytest.mark.parametrize(
    ("name", "content"), [("tokenizer.model", b"version https"), ("tokenizer_config.json", b"{")]
)
def test_tokenizer_files_that_are_broken(model: Path, name: str, content: bytes) -> None:
    (model / name).write_bytes(content)
    with pytest.raises(StartError, match=name):
        load_prompt_template(Settings(model=str(model), prompt_template="alpaca-2"))


@pytest.mark.parametrize("choice", ["bard", "broken.jinja"])
def test_a_template_that_can_render_nothing(tmp_path: Path, choice: str) -> None:
    (tmp_path / "broken.jinja").write_text("{% for m in messages %}")
    choice = str(tmp_path / choice) if choice.endswith(".jinja") else choice
    with pytest.raises(StartError, match="cannot render"):
        load_prompt_template(Settings(prompt_template=choice))


@pytest.mark.parametrize(
    ("names", "template"),
    [
        (["Chinese-LLaMA-Alpaca-2"], ALPACA_2),
        (["other", "hfl/chinese-alpaca-2-7b"], ALPACA_2),
        (["chinese-llama-alpaca"], ALPACA),
        (["chinese-alpaca-plus-7b"], ALPACA),
    ],
)
def test_auto_chooses_by_a_served_name(model: Path, names: list[str], template: Layout) -> None:
    settings = Settings(model=str(model), served_model_name=names)
    assert load_prompt_template(settings).layout is template


@pytest.mark.parametrize("name", ["gpt-3.5-turbo", "chinese-llama-alpaca", "vicuna_v1.1", "/a/b"])
@pytest.mark.parametrize(
    "path", ["demo_model", "./demo_model/", "demo_model/../demo_model", str(DEMO_MODEL)]
)
def test_the_demo_model_has_its_template_under_any_name(
    monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    monkeypatch.chdir(ROOT)
    assert load_prompt_template(Settings(model=path, served_model_name=[name])).layout is ALPACA_2


def test_another_template_can_be_named_for_the_demo_model() -> None:
    assert load_prompt_template(Settings(prompt_template="alpaca")).layout is ALPACA


def test_auto_chooses_by_the_models_path(model: Path) -> None:
    path = model.rename(model.parent / "chinese-alpaca-2-13b-hf")
    assert load_prompt_template(Settings(model=str(path))).layout is ALPACA_2


def test_auto_prefers_the_tokenizers_own_template_to_fastchats(model: Path) -> None:
    config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (model / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = Settings(model=str(model), served_model_name=["vicuna_v1.1"])
    assert load_prompt_template(settings).layout.name == "model"


def test_auto_falls_back_to_fastchats_template_of_that_name(model: Path) -> None:
    settings = Settings(model=str(model), served_model_name=["vicuna_v1.1"])
    assert load_prompt_template(settings).layout.name == "vicuna_v1.1"


@pytest.mark.parametrize("names", [[], ["chinese-llama-2-7b"]])
def test_a_base_model_needs_no_template_where_completions_are_raw(
    model: Path, names: list[str]
) -> None:
    settings = Settings(model=str(model), served_model_name=names, raw_completions=True)
    template = load_prompt_template(settings)
    assert template.layout is BASE_MODEL
    loaded = Loaded(template.layout.name, template.encoder.description, 9, "", {})
    shown = banner(settings, loaded)
    assert "  template   none: chat needs --prompt-template, context 9 tokens\n" in shown
    assert "  encoder    SentencePiece on tokenizer.model\n" in shown


@pytest.mark.parametrize("names", [["chinese-alpaca-2-7b"], ["vicuna_v1.1"]])
def test_raw_completions_leave_a_template_that_is_found_to_chat(
    model: Path, names: list[str]
) -> None:
    settings = Settings(model=str(model), served_model_name=names, raw_completions=True)
    assert load_prompt_template(settings).layout.name in ("alpaca-2", "vicuna_v1.1")


def test_a_jinja_file_and_a_system_text_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    (tmp_path / "system.txt").write_text("说真话。", encoding="utf-8")
    choice, system = str(tmp_path / "own.jinja"), f"@{tmp_path / 'system.txt'}"
    template = load_prompt_template(
        Settings(model=str(model), prompt_template=choice, system_prompt=system)
    )
    ids = template.render_instruction("你好").ids
    assert template.encoder.decode(ids) == "<system>说真话。<user>你好"


@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_what_an_editor_adds_to_a_file_is_no_part_of_its_text(
    model: Path, tmp_path: Path, begin: bytes, end: bytes
) -> None:
    (tmp_path / "own.jinja").write_bytes(
        begin + b"{% for m in messages %}<{{ m.content }}>{% endfor %}" + end
    )
    (tmp_path / "system.txt").write_bytes(begin + " 一\r\n二\n".encode() + end)
    choice, system = str(tmp_path / "own.jinja"), f"@{tmp_path / 'system.txt'}"
    template = load_prompt_template(
        Settings(model=str(model), prompt_template=choice, system_prompt=system)
    )
    kept = " 一\n二\n" if end else " 一\n二"
    assert template.encoder.decode(template.render_instruction("你好").ids) == f"<{kept}><你好>"


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_mark_before_the_models_own_template_is_no_part_of_it(model: Path, where: str) -> None:
    source = "\ufeff{% for m in messages %}<{{ m.content }}>{% endfor %}\n"
    if where == "chat_template.jinja":
        (model / where).write_text(source, encoding="utf-8")
    else:
        config = json.loads((model / where).read_text(encoding="utf-8"))
        (model / where).write_text(
            json.dumps({**config, "chat_template": source}), encoding="utf-8"
        )
    template = load_prompt_template(Settings(model=str(model), prompt_template="model"))
    assert template.encoder.decode(template.render_instruction("你好").ids) == "<你好>"
