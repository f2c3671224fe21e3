"""Starts of the command: those that cannot work end with one sentence, and those that can serve."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.sockets import bind_sockets
from settings import DEMO_MODEL, Settings
from tests.support.model_directory import copy_of_demo_model
from tests.support.paths import ROOT
from tests.support.server_process import USERS_COMMAND, Server, run_command


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return copy_of_demo_model(tmp_path / "some-model")


def run(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The finished process, and the seconds it took."""
    began = time.monotonic()
    process = run_command(*arguments)
    return process, time.monotonic() - began


def refused(*arguments: str) -> str:
    """The one sentence of a start that cannot work; it comes within seconds, and before vLLM is imported."""
    process, seconds = run("--port", "0", *arguments)  # unless the arguments say otherwise
    assert process.returncode == 1
    assert seconds < 20
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_no_such_directory() -> None:
    assert refused("--model", "/no/such/model") == "error: There is no directory /no/such/model."


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    assert "config.json" in refused("--model", str(tmp_path))


def test_no_tokenizer(model: Path) -> None:
    (model / "tokenizer.model").unlink()
    (model / "tokenizer_config.json").unlink()
    assert "tokenizer.json" in refused("--model", str(model))


def test_slow_without_sentencepiece(model: Path) -> None:
    (model / "tokenizer.model").unlink()
    line = refused("--model", str(model), "--tokenizer-mode", "slow")
    assert "--tokenizer-mode slow needs a SentencePiece tokenizer.model" in line


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"Port {port}" in refused("--host", "127.0.0.1", "--port", port)


def test_no_template_is_found(model: Path) -> None:
    line = refused("--model", str(model))
    assert "--prompt-template" in line
    assert "alpaca-2" in line
    assert "vicuna_v1.1" in line
    assert "--raw-completions" in line


@pytest.mark.parametrize("choice", ["alpaca-3", "model", "none.jinja"])
def test_a_template_that_does_not_exist(choice: str) -> None:
    refused("--prompt-template", choice)


@pytest.mark.parametrize("config", ['{"temperature": 5}', '{"temprature": 1}'])
def test_sampling_defaults_that_no_request_could_have(config: str) -> None:
    refused("--override-generation-config", config)


def test_a_system_text_file_that_is_missing() -> None:
    refused("--system-prompt", "@/no/such/file")


def test_a_config_file_that_is_missing() -> None:
    refused("--config", "/no/such/file.yaml")


def test_a_wrong_value_is_told_by_the_parser() -> None:
    process, seconds = run("--port", "eight")
    assert process.returncode == 2
    assert seconds < 20
    assert "invalid int value" in process.stderr


def test_what_zero_means_is_in_the_sentence() -> None:
    sentence = refused("--request-timeout", "-1")
    assert (
        sentence == "error: --request-timeout -1 must be 0 (off) or more seconds, at most 10000000."
    )
    assert "0 (no limit)" in refused("--max-num-queued-reqs", "-1")


@pytest.mark.engine
def test_the_users_command_serves_a_model_from_another_directory(tmp_path: Path) -> None:
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
    ask: dict[str, Any] = {"model": "chinese-llama-alpaca-2", "prompt": "告诉我中国的首都在哪里"}
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
def test_a_signal_during_the_start_ends_it_quietly(number: signal.Signals, step: str) -> None:
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


def may_make_namespaces() -> bool:
    return os.geteuid() == 0 and shutil.which("unshare") is not None


@pytest.mark.engine
@pytest.mark.skipif(not may_make_namespaces(), reason="only root makes a namespace of processes")
def test_sigterm_ends_the_start_of_the_first_process_of_a_container() -> None:
    """Linux gives such a process no signal that it has no handler for."""
    command = ["unshare", "--pid", "--fork", sys.executable, "openai_api_server_vllm.py"]
    container = subprocess.Popen(
        [*command, "--port", "0"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert container.stderr is not None
    while "Importing vLLM" not in (line := container.stderr.readline()):
        assert line, "the server ended by itself"
    children = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text()
    os.kill(int(children), signal.SIGTERM)
    container.communicate(timeout=20)
    assert container.returncode == 128 + signal.SIGTERM


@pytest.mark.engine
def test_a_model_that_vllm_refuses_is_one_sentence_at_the_end() -> None:
    process, _ = run("--port", "0", "--max-model-len", "999999")
    assert process.returncode == 1
    lines = process.stderr.strip().splitlines()
    assert lines[-1].startswith(
        "error: vLLM cannot start the model: User-specified max_model_len (999999)"
    )
    assert all(line.startswith(("Importing vLLM", "Loading ")) for line in lines[:-1])


@pytest.mark.engine
def test_a_flag_that_nobody_knows_is_named() -> None:
    process, _ = run("--port", "0", "--max-num-sequences", "5")
    assert process.returncode == 2
    assert process.stderr.strip().endswith("error: unrecognized arguments: --max-num-sequences 5")
