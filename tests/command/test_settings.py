"""Flags and the config file: how they are read, and which values cannot work."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from server.uvicorn_server import uvicorn_config
from settings import Settings, StartError, check_settings, parse_settings
from tests.support.server_process import USERS_COMMAND


def test_the_users_command_is_understood() -> None:
    settings, others = parse_settings(USERS_COMMAND.split())
    assert (settings.model, settings.tokenizer, settings.tokenizer_mode) == ("DIR", "DIR", "slow")
    assert settings.model_names == ("chinese-llama-alpaca-2",)
    assert (settings.host, settings.port) == ("localhost", 8000)
    assert others == ["--tensor-parallel-size", "1"]


def test_no_flag_at_all_is_the_demo_model() -> None:
    settings, others = parse_settings([])
    assert settings.is_demo
    assert settings.model_names == ("chinese-llama-alpaca-2",)
    assert others == []
    check_settings(settings)


def test_underscores_and_equals_signs() -> None:
    settings, others = parse_settings(
        ["--served_model_name=a", "--max_model_len=99", "--raw_completions"]
    )
    assert (settings.served_model_name, settings.raw_completions) == (["a"], True)
    assert others == ["--max-model-len=99"]


def test_a_config_file_gives_flags_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    flags = {"port": 9000, "host": "0.0.0.0", "served_model_name": ["a", "b"], "raw-completions": True,
             "allow-credentials": False, "max-model-len": 512, "override-generation-config": {"top_k": 5}}  # fmt: skip
    file.write_text(json.dumps(flags), encoding="utf-8")
    settings, others = parse_settings(["--config", str(file), "--port", "9001"])
    assert (settings.port, settings.host, settings.raw_completions) == (9001, "0.0.0.0", True)
    assert settings.model_names == ("a", "b")
    assert settings.override_generation_config == {"top_k": 5}
    assert not settings.allow_credentials
    assert others == ["--max-model-len=512"]


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ({"enable-prefix-caching": False}, ["--no-enable-prefix-caching"]),
        ({"enable_prefix_caching": True}, ["--enable-prefix-caching"]),
        ({"revision": None, "served-model-name": []}, []),
        (
            {"compilation-config.cudagraph_mode": "NONE"},
            ["--compilation-config.cudagraph_mode=NONE"],
        ),
        ({"allowed-origins": ["http://a.example"]}, []),
        ({"middleware-names": ["a=b", "c=d"]}, ["--middleware-names", "a=b", "c=d"]),
        ({"hf-overrides": {"rope_theta": 1}}, ['--hf-overrides={"rope_theta": 1}']),
    ],
)
def test_a_config_file_speaks_for_vllm_too(
    tmp_path: Path, flags: dict[str, Any], arguments: list[str]
) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(json.dumps(flags), encoding="utf-8")
    settings, others = parse_settings(["--config", str(file)])
    assert others == arguments
    assert settings.allowed_origins == tuple(flags.get("allowed-origins", ["*"]))
    assert (settings.revision, settings.served_model_name) == (None, ())


@pytest.mark.parametrize(
    "content", [b"- a\n- b", b"just text", b"\xff\xfe\x00", b"a: [", b"a: b: c"]
)
def test_a_config_file_that_is_none_of_flags(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "flags.yaml"
    file.write_bytes(content)
    with pytest.raises(StartError, match="--config"):
        parse_settings(["--config", str(file)])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"port": 70000}, "not a port"),
        ({"ssl_keyfile": "key.pem"}, "needs --ssl-certfile"),
        ({"ssl_certfile": __file__}, "cannot be used"),
        ({"ssl_certfile": "/no/such/file"}, "cannot be used"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(StartError, match=reason):
        check_settings(Settings(**settings))


SECONDS = ("--request-timeout", "--drain-timeout", "--timeout-keep-alive")
NEVER = {"-1", "-0.5", "-1e-9", "nan", "inf", "-inf", "1e300", "10000001"}


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(
            (flag, value)
            for flag in SECONDS
            for value in sorted(NEVER)
            if flag != "--timeout-keep-alive"
        ),
        *(("--timeout-keep-alive", value) for value in ("-1", "10000001", "9" * 400)),
        *(("--max-num-queued-reqs", value) for value in ("-1", "-512")),
        *(("--max-body-bytes", value) for value in ("0", "-1", "-8388608")),
        *(("--port", value) for value in ("-1", "65536", "9" * 30)),
    ],
)
def test_a_number_that_cannot_work_is_one_sentence_that_names_its_flag(
    flag: str, value: str
) -> None:
    settings, _ = parse_settings([f"{flag}={value}"])
    with pytest.raises(StartError) as failure:
        check_settings(settings)
    sentence = str(failure.value)
    assert sentence.startswith(f"{flag} ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert " must be " in sentence


@pytest.mark.parametrize("flag", [*SECONDS, "--max-num-queued-reqs", "--port"])
def test_zero_and_large_numbers_are_welcome(flag: str) -> None:
    for value in ("0", "9999"):
        check_settings(parse_settings([flag, value])[0])
    check_settings(parse_settings(["--max-body-bytes", "1"])[0])


def test_a_number_in_a_config_file_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "flags.yaml").write_text("drain-timeout: .inf\nport: 0\n")
    with pytest.raises(StartError, match="--drain-timeout inf must be"):
        check_settings(parse_settings(["--config", str(tmp_path / "flags.yaml")])[0])


def test_uvicorn_gets_our_settings() -> None:
    config = uvicorn_config(FastAPI(), Settings(root_path="/api/", timeout_keep_alive=99))
    assert (config.root_path, config.timeout_keep_alive, config.access_log) == ("/api", 99, False)


@pytest.mark.parametrize(
    ("flag", "prefix"), [("", ""), ("/", ""), ("api", "/api"), ("/api//v2/", "/api/v2"), ("//", "")]
)
def test_a_root_path_begins_with_one_slash_and_ends_with_none(flag: str, prefix: str) -> None:
    assert uvicorn_config(FastAPI(), Settings(root_path=flag)).root_path == prefix


@pytest.mark.parametrize("root_path", ["/接口", "/a b", "/a%20b", "/a?b", "/a\n"])
def test_a_root_path_that_no_request_could_name(root_path: str) -> None:
    with pytest.raises(StartError, match="--root-path may have"):
        check_settings(Settings(root_path=root_path))


def test_flags_take_their_defaults_from_the_settings() -> None:
    assert parse_settings([])[0] == Settings()
    assert {setting.name for setting in fields(Settings)} >= {"model", "port", "prompt_template"}


def test_a_mark_before_a_config_file_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "flags.yaml").write_bytes(b"\xef\xbb\xbfport: 9000\r\nsystem-prompt: a\r\n")
    settings, others = parse_settings(["--config", str(tmp_path / "flags.yaml")])
    assert (settings.port, settings.system_prompt, others) == (9000, "a", [])


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("localhost", "http://localhost:80"),
        ("0.0.0.0", "http://localhost:80"),
        ("::1", "http://[::1]:80"),
    ],
)
def test_the_url_that_the_banner_shows(host: str, url: str) -> None:
    assert Settings(host=host, port=80).url == url
    assert Settings(host=host, port=80, ssl_certfile="c").url == url.replace("http", "https")
    assert Settings(host=host, port=80, root_path="llm/").url == f"{url}/llm"
