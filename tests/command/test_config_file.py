"""Flags that are given twice: in a config file, on the command line, in the environment; and booleans undone."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

import openai_api_server_vllm
from settings import Settings, StartError, parse_settings

ROOT = Path(__file__).parents[2]
BOOLEANS = sorted(
    setting.name
    for setting in fields(Settings)
    if isinstance(getattr(Settings(), setting.name), bool)
)
Parse = Callable[..., tuple[Settings, list[str]]]


@pytest.fixture
def parse(tmp_path: Path) -> Parse:
    """Parses a config file of that text, and arguments of the command line behind it."""

    def parse_both(text: str, *arguments: str) -> tuple[Settings, list[str]]:
        file = tmp_path / "flags.yaml"
        file.write_text(text, encoding="utf-8")
        return parse_settings(["--config", str(file), *arguments])

    return parse_both


@pytest.mark.parametrize("name", BOOLEANS)
@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("spelling", [str, lambda name: name.replace("_", "-")])
def test_the_command_line_undoes_a_boolean_of_the_file(
    parse: Parse, name: str, in_file: bool, spelling: Callable[[str], str]
) -> None:
    text = f"{spelling(name)}: {str(in_file).lower()}\n"
    flag = f"--{'no-' if in_file else ''}{name.replace('_', '-')}"
    for arguments, value in (((), in_file), ((flag,), not in_file)):
        settings, for_vllm = parse(text, *arguments)
        assert getattr(settings, name) is value
        assert for_vllm == []


@pytest.mark.parametrize("name", BOOLEANS)
def test_the_last_form_of_a_boolean_on_the_command_line_wins(name: str) -> None:
    flag = name.replace("_", "-")
    assert not getattr(parse_settings([f"--{flag}", f"--no-{flag}"])[0], name)
    assert getattr(parse_settings([f"--no_{name}", f"--{name}"])[0], name)


def test_help_names_both_forms_of_each_boolean(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(["--help"])
    assert ended.value.code == 0
    words = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    flags = {name.replace("_", "-") for name in BOOLEANS}
    assert words >= {f"--{prefix}{flag}" for flag in flags for prefix in ("", "no-")}


@pytest.mark.engine
@pytest.mark.parametrize(
    ("text", "arguments", "value"),
    [
        ("enable_prefix_caching: false", [], False),
        ("enable_prefix_caching: true", [], True),
        ("enable_prefix_caching: false", ["--enable-prefix-caching"], True),
        ("enable-prefix-caching: true", ["--no-enable-prefix-caching"], False),
    ],
)
def test_the_command_line_undoes_a_boolean_of_vllms_own(
    parse: Parse, text: str, arguments: list[str], value: bool
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from engine.arguments import to_engine_args

    assert to_engine_args(*parse(text, *arguments)).enable_prefix_caching is value


@pytest.mark.parametrize(
    ("text", "arguments", "name", "value"),
    [
        ("api_key: [a, b]", ["--api-key", "c", "--api-key", "d"], "api_key", ["c", "d"]),
        ("api_key: a", ["--api-key=c"], "api_key", ["c"]),
        ("served_model_name: [a, b]", ["--served-model-name", "c"], "served_model_name", ["c"]),
        ('allowed_origins: ["http://a"]', ['--allowed-origins=["http://b"]'], "allowed_origins", ("http://b",)),
        ("override_generation_config: {top_k: 5}", ['--override-generation-config={"top_p": 0.5}'],
         "override_generation_config", {"top_p": 0.5}),
    ],
)  # fmt: skip
def test_a_list_or_object_of_the_command_line_replaces_the_files(
    parse: Parse, text: str, arguments: list[str], name: str, value: object
) -> None:
    settings, for_vllm = parse(text, *arguments)
    assert getattr(settings, name) == value
    assert for_vllm == []


@pytest.mark.parametrize(
    ("arguments", "keys"), [([], ["in-file", "in-env"]), (["--api-key", "given"], ["given", "in-env"])]
)  # fmt: skip
def test_keys_of_the_environment_are_added_to_those_of_the_flag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], keys: list[str]
) -> None:
    (tmp_path / "flags.yaml").write_text("api_key: in-file", encoding="utf-8")
    command = ["server", "--config", str(tmp_path / "flags.yaml"), *arguments]
    seen: list[Settings] = []
    monkeypatch.setattr("sys.argv", command)
    monkeypatch.setenv("VLLM_API_KEY", "in-env")
    monkeypatch.setattr(openai_api_server_vllm, "serve", lambda settings, _: seen.append(settings))
    assert openai_api_server_vllm.main() == 0
    assert [settings.api_key for settings in seen] == [keys]


def test_a_key_of_the_file_may_begin_with_a_dash(parse: Parse) -> None:
    settings, for_vllm = parse("api_key: [-a, --b, c]")
    assert settings.api_key == ["-a", "--b", "c"]
    assert for_vllm == []


def test_no_key_of_a_broken_file_is_shown(parse: Parse) -> None:
    with pytest.raises(StartError) as failure:
        parse("api_key: hidden\nport: [")
    assert "hidden" not in str(failure.value)


@pytest.mark.parametrize(
    "name", ["port", "drain-timeout", "revision", "api_key", "allowed_origins"]
)
@pytest.mark.parametrize("value", ["off", "no", "true"])
def test_a_flag_with_a_value_cannot_be_true_or_false(parse: Parse, name: str, value: str) -> None:
    with pytest.raises(StartError, match=rf"^--config \S+: {name} needs a value .*\.$"):
        parse(f"{name}: {value}")


@pytest.mark.parametrize(
    ("flag", "value", "kind"),
    [("allowed-origins", "*", "json_list"), ("override-generation-config", "[1]", "json_object")],
)
def test_what_is_no_json_of_its_kind_is_named(
    capsys: pytest.CaptureFixture[str], flag: str, value: str, kind: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings([f"--{flag}={value}"])
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(f"error: argument --{flag}: invalid {kind} value: {value!r}")


def test_the_file_on_the_page_of_flags_is_read_as_the_page_says(parse: Parse) -> None:
    page = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    [text] = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    settings, for_vllm = parse(text)
    assert settings.model_names == ("chinese-alpaca-2-7b", "alpaca")
    assert (settings.log_requests, settings.override_generation_config) == (True, {"top_k": 20})
    assert for_vllm == ["--max-model-len=4096", "--no-enable-prefix-caching"]
    assert not parse(text, "--no-log-requests")[0].log_requests
