"""The command line: flags, and starts that cannot work."""

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path

import httpx
import pytest
import uvloop
from fastapi import FastAPI

from prompt_template import load_prompt_template
from prompts.layouts import ALPACA, ALPACA_2, NO_LAYOUT
from server.console import banner
from server.sockets import bind_sockets
from server.uvicorn_server import uvicorn_config
from settings import DEMO_MODEL, Settings, StartError, check_settings, parse_settings
from tests.support.paths import ROOT
from tests.support.server_process import Server

USERS_COMMAND = (
    "--model DIR --tokenizer DIR --tokenizer-mode slow --tensor-parallel-size 1 "
    "--served-model-name chinese-llama-alpaca-2 --host localhost --port 8000"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model."""
    copy = tmp_path / "some-model"
    copy.mkdir()
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, copy)
    (copy / "model.safetensors").symlink_to(DEMO_MODEL / "model.safetensors")
    return copy


def run(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The finished process, and the seconds it took."""
    began = time.monotonic()
    command = [sys.executable, "openai_api_server_vllm.py", *arguments]
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return process, time.monotonic() - began


def refused(*arguments: str) -> str:
    """The one sentence of a start that cannot work; it comes within seconds, and before vLLM is imported."""
    process, seconds = run("--port", "0", *arguments)  # unless the arguments say otherwise
    assert process.returncode == 1
    assert seconds < 20
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_no_such_directory():
    assert refused("--model", "/no/such/model") == "error: There is no directory /no/such/model."


def test_a_directory_without_a_model(tmp_path):
    assert "config.json" in refused("--model", str(tmp_path))


def test_no_tokenizer(model):
    (model / "tokenizer.model").unlink()
    (model / "tokenizer_config.json").unlink()
    assert "tokenizer.json" in refused("--model", str(model))


def test_slow_without_sentencepiece(model):
    (model / "tokenizer.model").unlink()
    line = refused("--model", str(model), "--tokenizer-mode", "slow")
    assert "--tokenizer-mode slow needs a SentencePiece tokenizer.model" in line


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"Port {port}" in refused("--host", "127.0.0.1", "--port", port)


def test_no_template_is_found(model):
    line = refused("--model", str(model))
    assert "--prompt-template" in line
    assert "alpaca-2" in line
    assert "vicuna_v1.1" in line
    assert "--raw-completions" in line


@pytest.mark.parametrize("choice", ["alpaca-3", "model", "none.jinja"])
def test_a_template_that_does_not_exist(choice):
    refused("--prompt-template", choice)


@pytest.mark.parametrize("config", ['{"temperature": 5}', '{"temprature": 1}'])
def test_sampling_defaults_that_no_request_could_have(config):
    refused("--override-generation-config", config)


def test_a_system_text_file_that_is_missing():
    refused("--system-prompt", "@/no/such/file")


def test_a_config_file_that_is_missing():
    refused("--config", "/no/such/file.yaml")


def test_a_wrong_value_is_told_by_the_parser():
    process, seconds = run("--port", "eight")
    assert process.returncode == 2
    assert seconds < 20
    assert "invalid int value" in process.stderr


def test_the_users_command_is_understood():
    settings, others = parse_settings(USERS_COMMAND.split())
    assert (settings.model, settings.tokenizer, settings.tokenizer_mode) == ("DIR", "DIR", "slow")
    assert settings.model_names == ("chinese-llama-alpaca-2",)
    assert (settings.host, settings.port) == ("localhost", 8000)
    assert others == ["--tensor-parallel-size", "1"]


def test_no_flag_at_all_is_the_demo_model():
    settings, others = parse_settings([])
    assert settings.is_demo
    assert settings.model_names == ("chinese-llama-alpaca-2",)
    assert others == []
    check_settings(settings)


def test_underscores_and_equals_signs():
    settings, others = parse_settings(
        ["--served_model_name=a", "--max_model_len=99", "--raw_completions"]
    )
    assert (settings.served_model_name, settings.raw_completions) == (["a"], True)
    assert others == ["--max-model-len=99"]


def test_a_config_file_gives_flags_and_the_command_line_wins(tmp_path):
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
        ({"lora-modules": ["a=b", "c=d"]}, ["--lora-modules", "a=b", "c=d"]),
        ({"hf-overrides": {"rope_theta": 1}}, ['--hf-overrides={"rope_theta": 1}']),
    ],
)
def test_a_config_file_speaks_for_vllm_too(tmp_path, flags, arguments):
    file = tmp_path / "flags.yaml"
    file.write_text(json.dumps(flags), encoding="utf-8")
    settings, others = parse_settings(["--config", str(file)])
    assert others == arguments
    assert settings.allowed_origins == tuple(flags.get("allowed-origins", ["*"]))
    assert (settings.revision, settings.served_model_name) == (None, ())


@pytest.mark.parametrize(
    "content", [b"- a\n- b", b"just text", b"\xff\xfe\x00", b"a: [", b"a: b: c"]
)
def test_a_config_file_that_is_none_of_flags(tmp_path, content):
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
def test_settings_that_cannot_work(settings, reason):
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
def test_a_number_that_cannot_work_is_one_sentence_that_names_its_flag(flag, value):
    settings, _ = parse_settings([f"{flag}={value}"])
    with pytest.raises(StartError) as failure:
        check_settings(settings)
    sentence = str(failure.value)
    assert sentence.startswith(f"{flag} ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert " must be " in sentence


@pytest.mark.parametrize("flag", [*SECONDS, "--max-num-queued-reqs", "--port"])
def test_zero_and_large_numbers_are_welcome(flag):
    for value in ("0", "9999"):
        check_settings(parse_settings([flag, value])[0])
    check_settings(parse_settings(["--max-body-bytes", "1"])[0])


def test_what_zero_means_is_in_the_sentence():
    sentence = refused("--request-timeout", "-1")
    assert (
        sentence == "error: --request-timeout -1 must be 0 (off) or more seconds, at most 10000000."
    )
    assert "0 (no limit)" in refused("--max-num-queued-reqs", "-1")


def test_a_number_in_a_config_file_is_checked_too(tmp_path):
    (tmp_path / "flags.yaml").write_text("drain-timeout: .inf\nport: 0\n")
    with pytest.raises(StartError, match="--drain-timeout inf must be"):
        check_settings(parse_settings(["--config", str(tmp_path / "flags.yaml")])[0])


@pytest.mark.parametrize(
    ("name", "content"), [("tokenizer.model", b"version https"), ("tokenizer_config.json", b"{")]
)
def test_tokenizer_files_that_are_broken(model, name, content):
    (model / name).write_bytes(content)
    with pytest.raises(StartError, match=name):
        load_prompt_template(Settings(model=str(model), prompt_template="alpaca-2"))


@pytest.mark.parametrize("choice", ["bard", "broken.jinja"])
def test_a_template_that_can_render_nothing(tmp_path, choice):
    (tmp_path / "broken.jinja").write_text("{% for m in messages %}")
    choice = str(tmp_path / choice) if choice.endswith(".jinja") else choice
    with pytest.raises(StartError, match="cannot render"):
        load_prompt_template(Settings(prompt_template=choice))


def test_uvicorn_gets_our_settings():
    config = uvicorn_config(FastAPI(), Settings(root_path="/api/", timeout_keep_alive=99))
    assert (config.root_path, config.timeout_keep_alive, config.access_log) == ("/api", 99, False)


@pytest.mark.parametrize(
    ("flag", "prefix"), [("", ""), ("/", ""), ("api", "/api"), ("/api//v2/", "/api/v2"), ("//", "")]
)
def test_a_root_path_begins_with_one_slash_and_ends_with_none(flag, prefix):
    assert uvicorn_config(FastAPI(), Settings(root_path=flag)).root_path == prefix


@pytest.mark.parametrize("root_path", ["/接口", "/a b", "/a%20b", "/a?b", "/a\n"])
def test_a_root_path_that_no_request_could_name(root_path):
    with pytest.raises(StartError, match="--root-path may have"):
        check_settings(Settings(root_path=root_path))


def test_flags_take_their_defaults_from_the_settings():
    assert parse_settings([])[0] == Settings()
    assert {setting.name for setting in fields(Settings)} >= {"model", "port", "prompt_template"}


@pytest.mark.parametrize(
    ("names", "template"),
    [
        (["Chinese-LLaMA-Alpaca-2"], ALPACA_2),
        (["other", "hfl/chinese-alpaca-2-7b"], ALPACA_2),
        (["chinese-llama-alpaca"], ALPACA),
        (["chinese-alpaca-plus-7b"], ALPACA),
    ],
)
def test_auto_chooses_by_a_served_name(model, names, template):
    settings = Settings(model=str(model), served_model_name=names)
    assert load_prompt_template(settings).layout is template


@pytest.mark.parametrize("name", ["gpt-3.5-turbo", "chinese-llama-alpaca", "vicuna_v1.1", "/a/b"])
@pytest.mark.parametrize(
    "path", ["demo_model", "./demo_model/", "demo_model/../demo_model", str(DEMO_MODEL)]
)
def test_the_demo_model_has_its_template_under_any_name(monkeypatch, name, path):
    monkeypatch.chdir(ROOT)
    assert load_prompt_template(Settings(model=path, served_model_name=[name])).layout is ALPACA_2


def test_another_template_can_be_named_for_the_demo_model():
    assert load_prompt_template(Settings(prompt_template="alpaca")).layout is ALPACA


def test_auto_chooses_by_the_models_path(model):
    path = model.rename(model.parent / "chinese-alpaca-2-13b-hf")
    assert load_prompt_template(Settings(model=str(path))).layout is ALPACA_2


def test_auto_prefers_the_tokenizers_own_template_to_fastchats(model):
    config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (model / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = Settings(model=str(model), served_model_name=["vicuna_v1.1"])
    assert load_prompt_template(settings).layout.name == "model"


def test_auto_falls_back_to_fastchats_template_of_that_name(model):
    settings = Settings(model=str(model), served_model_name=["vicuna_v1.1"])
    assert load_prompt_template(settings).layout.name == "vicuna_v1.1"


@pytest.mark.parametrize("names", [[], ["chinese-llama-2-7b"]])
def test_a_base_model_needs_no_template_where_completions_are_raw(model, names):
    settings = Settings(model=str(model), served_model_name=names, raw_completions=True)
    template = load_prompt_template(settings)
    assert template.layout is NO_LAYOUT
    shown = banner(settings, template.layout.name, template.encoder.description, 9, {})
    assert "  template   none: chat needs --prompt-template, context 9 tokens\n" in shown
    assert "  encoder    SentencePiece on tokenizer.model\n" in shown


@pytest.mark.parametrize("names", [["chinese-alpaca-2-7b"], ["vicuna_v1.1"]])
def test_raw_completions_leave_a_template_that_is_found_to_chat(model, names):
    settings = Settings(model=str(model), served_model_name=names, raw_completions=True)
    assert load_prompt_template(settings).layout.name in ("alpaca-2", "vicuna_v1.1")


def test_a_jinja_file_and_a_system_text_file(model, tmp_path):
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
def test_what_an_editor_adds_to_a_file_is_no_part_of_its_text(model, tmp_path, begin, end):
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
def test_a_mark_before_the_models_own_template_is_no_part_of_it(model, where):
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


def test_a_mark_before_a_config_file_is_no_part_of_it(tmp_path):
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
def test_the_url_that_the_banner_shows(host, url):
    assert Settings(host=host, port=80).url == url
    assert Settings(host=host, port=80, ssl_certfile="c").url == url.replace("http", "https")


@pytest.mark.engine
def test_the_users_command_serves_a_model_from_another_directory(tmp_path):
    copy = tmp_path / "base_model"
    shutil.copytree(DEMO_MODEL, copy)
    config = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
    # More control tokens than the model has rows, and more words of a grammar's mask.
    config["added_tokens_decoder"] = {
        str(at): {"content": f"<pad{at}>", "special": True} for at in range(4600, 4640)
    }
    (copy / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (free,) = bind_sockets(Settings(host="127.0.0.1", port=0))
    port = str(free.getsockname()[1])
    free.close()
    command = (
        USERS_COMMAND.replace("DIR", str(copy))
        .replace("localhost", "127.0.0.1")
        .replace("8000", port)
    )
    server = Server(*command.split(), "--enforce-eager", "--log-level", "debug")
    url, statuses = f"http://127.0.0.1:{port}", set()
    waiting = threading.Thread(target=server.wait_for_banner)
    waiting.start()
    while waiting.is_alive():
        with contextlib.suppress(httpx.TransportError):
            statuses.add(httpx.get(f"{url}/health").status_code)
            statuses.add(httpx.post(f"{url}/v1/completions", json={"prompt": "a"}).status_code)
        time.sleep(0.5)
    assert 503 in statuses, "while the model loads"
    assert server.url == url
    assert any("DEBUG" in line and "vllm" in line for line in server.lines), (
        "vLLM's own log is back"
    )
    ask = {"model": "chinese-llama-alpaca-2", "prompt": "告诉我中国的首都在哪里"}
    assert (
        "北京"
        in httpx.post(f"{url}/v1/completions", json=ask, timeout=60).json()["choices"][0]["text"]
    )
    ask |= {"structured_outputs": {"choice": ["巴黎", "东京"]}, "n": 3, "temperature": 1.5}
    choices = httpx.post(f"{url}/v1/completions", json=ask, timeout=60).json()["choices"]
    assert {choice["text"] for choice in choices} <= {"巴黎", "东京"}
    assert httpx.get(f"{url}/health").status_code == 200
    assert server.stop() == 0


@pytest.mark.engine
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["Importing vLLM", "Loading"])
def test_a_signal_during_the_start_ends_it_quietly(number, step):
    server = Server("--port", "0")
    while step not in (line := server.terminal.readline()):
        assert line, "the server ended by itself"
    time.sleep(2)
    began = time.monotonic()
    server.process.send_signal(number)
    rest, _ = server.process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert "Traceback" not in rest
    assert server.process.returncode in (0, 128 + signal.SIGINT, -signal.SIGTERM)


@pytest.mark.engine
def test_a_model_that_vllm_refuses_is_one_sentence_at_the_end():
    process, _ = run("--port", "0", "--max-model-len", "999999")
    assert process.returncode == 1
    lines = process.stderr.strip().splitlines()
    assert lines[-1].startswith(
        "error: vLLM cannot start the model: User-specified max_model_len (999999)"
    )
    assert all(line.startswith(("Importing vLLM", "Loading ")) for line in lines[:-1])


@pytest.mark.engine
def test_a_flag_that_nobody_knows_is_named():
    process, _ = run("--port", "0", "--max-num-sequences", "5")
    assert process.returncode == 2
    assert process.stderr.strip().endswith("error: unrecognized arguments: --max-num-sequences 5")


def test_a_name_that_is_no_host():
    with pytest.raises(StartError, match="no address"):
        bind_sockets(Settings(host="no.such.host.invalid"))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_no_connection_holds_small_events_back(loop):
    """Whichever loop serves: asyncio's leaves Nagle's delay on where a listening socket does not name its protocol."""

    class Answer(asyncio.Protocol):
        def connection_made(self, transport):
            accepted = transport.get_extra_info("socket")
            transport.write(bytes([accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)]))

    async def connected() -> bytes:
        (bound,) = bind_sockets(Settings(host="127.0.0.1", port=0))
        server = await asyncio.get_running_loop().create_server(Answer, sock=bound)
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        answer = await reader.readexactly(1)
        writer.close()
        server.close()
        return answer

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(connected()) == b"\x01"


def test_every_address_of_localhost_listens_on_one_port():
    sockets = bind_sockets(Settings(host="localhost", port=0))
    assert len({bound.getsockname()[1] for bound in sockets}) == 1
    for bound in sockets:
        bound.close()


@pytest.mark.engine
def test_vllm_gets_what_the_user_says_and_else_what_fits():
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from engine.arguments import NO_LIMIT, to_engine_args

    args = to_engine_args(Settings(), [])
    assert (args.disable_log_stats, args.max_logprobs) == (False, NO_LIMIT)
    args = to_engine_args(Settings(), ["--disable-log-stats", "--max-logprobs", "20"])
    assert (args.disable_log_stats, args.max_logprobs) == (True, 20)
