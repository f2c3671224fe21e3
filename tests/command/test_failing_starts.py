"""Starts that fail in vLLM or another library: one sentence at the end, wherever the cause is."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import openai_api_server_vllm
from engine.process import cause, causes_file, environment, keep_cause
from prompts.encoder import load_encoder
from settings import DEMO_MODEL, Settings, StartError, describe_exception, raising_start_error
from tests.support.paths import ROOT


@pytest.fixture
def causes() -> Iterator[Path]:
    """The file that is there while a server starts."""
    file = causes_file()
    file.touch()
    yield file
    file.unlink(missing_ok=True)


def record(
    failure: Exception | None, message: str = "WorkerProc failed to start."
) -> logging.LogRecord:
    info = None if failure is None else (type(failure), failure, failure.__traceback__)
    return logging.LogRecord("vllm.x", logging.ERROR, "x.py", 1, message, None, info)


def raised(failure: Exception) -> Exception:
    try:
        raise failure
    except Exception as caught:  # noqa: BLE001
        return caught


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (ValueError("Too long.\n  By far."), "Too long. By far"),
        (RuntimeError("Value error, no such thing"), "no such thing"),
        (OSError(2, "No such file", "/a"), "[Errno 2] No such file: '/a'"),
        (ImportError("No module named 'x'"), "ImportError: No module named 'x'"),
        (KeyError("vocab"), "KeyError: 'vocab'"),
        (MemoryError(), "MemoryError"),
        (ValueError("long " * 1000), "long long"),
    ],
)
def test_a_reason_is_one_line_that_begins_with_what_was_said(failure: Exception, said: str) -> None:
    for told in (describe_exception(failure), describe_exception(raised(failure))):
        assert told.startswith(said)
        assert "\n" not in told
        assert len(told) < 800


def test_a_failure_that_says_nothing_is_told_by_its_line() -> None:
    loaded, expected = 4600, 4700
    with pytest.raises(AssertionError) as caught:
        raise AssertionError if loaded != expected else ValueError
    assert "AssertionError at raise AssertionError if loaded" in describe_exception(caught.value)
    assert "(test_failing_starts.py, line " in describe_exception(caught.value)


def test_whatever_fails_while_it_is_explained_is_a_sentence() -> None:
    for failure in (KeyError("a"), TypeError(), RecursionError("deep"), ValueError("No.")):
        with (
            pytest.raises(StartError, match=r"^The model is odd: [^\n]+[^.]\.$"),
            raising_start_error("The model is odd"),
        ):
            raise failure
    with pytest.raises(StartError, match=r"^No port\.$"), raising_start_error("The model is odd"):
        raise StartError("No port.")


def test_a_tokenizer_that_transformers_cannot_load_is_a_sentence(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.model"):
        shutil.copy(DEMO_MODEL / name, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"added_tokens_decoder": null}')
    with pytest.raises(StartError, match=r"No tokenizer can be loaded from .*added_tokens_decoder"):
        load_encoder(Settings(model=str(tmp_path), tokenizer_mode="hf"))


def test_the_first_cause_of_a_process_is_told(causes: Path) -> None:
    assert not keep_cause(record(ValueError("The first\ncause")))
    assert not keep_cause(record(RuntimeError("See stack trace for root cause.")))
    assert not keep_cause(record(None, "Worker proc died unexpectedly"))
    assert (
        cause(RuntimeError("Engine core initialization failed. See root cause above."))
        == "The first cause"
    )


def test_a_process_that_says_nothing_is_told_so(causes: Path) -> None:
    told = cause(
        RuntimeError(
            "Engine core initialization failed. See root cause above. Failed core proc(s): {}"
        )
    )
    assert "ended without a word" in told
    assert cause(ValueError("No GPU.")) == "No GPU"


def test_what_vllm_says_in_code_is_put_in_words(causes: Path) -> None:
    causes.write_text(
        "AssertionError at assert rows == self.org_vocab_size (a.py, line 3)\n", encoding="utf-8"
    )
    assert "config.json's vocab_size" in cause(RuntimeError("x"))


def test_vllm_logs_what_fails_after_the_start_and_where_its_log_is_wanted(causes: Path) -> None:
    logger = logging.getLogger("vllm")
    level = logger.level
    try:
        logger.setLevel(logging.INFO)
        assert keep_cause(record(ValueError("told twice")))
        assert cause(RuntimeError()) == "told twice"
        logger.setLevel(logging.ERROR)
        assert not keep_cause(record(ValueError()))
        causes.unlink()
        assert keep_cause(record(ValueError()))
    finally:
        logger.setLevel(level)


def test_a_process_of_a_process_knows_where_to_write(causes: Path) -> None:
    """As vLLM's workers, which its engine's process starts."""
    script = (
        "import multiprocessing\nfrom engine import process\n"
        "def tell(): print(process.causes_file())\n"
        "def start(of=tell):\n"
        "    child = multiprocessing.get_context('spawn').Process(target=of); child.start(); child.join()\n"
        "if __name__ == '__main__': process.causes_file().touch(); tell(); start(start)\n"
    )
    file = causes.parent / "script.py"
    file.write_text(script)
    shown = subprocess.run(
        [sys.executable, file],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    first, second = shown.stdout.split()
    assert first == second
    assert not Path(first).exists()


@pytest.mark.parametrize("level", ["error", "warning", "info", "debug"])
def test_a_traceback_is_shown_only_where_a_log_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: str
) -> None:
    def serve(settings: Settings, others: list[str]) -> None:
        with raising_start_error("vLLM cannot start the model"):
            raise KeyError("x")

    monkeypatch.setattr(openai_api_server_vllm, "serve", serve)
    monkeypatch.setattr(sys, "argv", ["server", "--log-level", level])
    assert openai_api_server_vllm.main() == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(
        "error: vLLM cannot start the model: KeyError: 'x' at raise KeyError"
    )
    assert ("Traceback" in lines[0]) == (level in ("info", "debug"))
    assert ("TRANSFORMERS_VERBOSITY" in environment(Settings(log_level=level))) == (
        level in ("error", "warning")
    )


@pytest.mark.engine
@pytest.mark.parametrize("level", ["warning", "info"])
def test_what_fails_in_a_worker_is_one_sentence_at_the_end(tmp_path: Path, level: str) -> None:
    """Weights of another vocabulary, whose rows vLLM alone can count here, and yarn, of which transformers warns."""
    torch = pytest.importorskip("torch", reason="vLLM is not installed")
    from safetensors.torch import load_file

    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, tmp_path)
    yarn = {
        "factor": 16.0,
        "finetuned": True,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    }
    config = json.loads((DEMO_MODEL / "config.json").read_text(encoding="utf-8"))
    config |= {
        "vocab_size": 4700,
        "max_position_embeddings": 65536,
        "rope_scaling": yarn,
        "rope_parameters": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.save(load_file(DEMO_MODEL / "model.safetensors"), tmp_path / "pytorch_model.bin")
    command = [
        sys.executable,
        "openai_api_server_vllm.py",
        "--port",
        "0",
        "--model",
        str(tmp_path),
        "--log-level",
        level,
    ]
    process = subprocess.run(
        [*command, "--prompt-template", "alpaca-2", "--enforce-eager"],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    told = [
        line
        for line in process.stderr.splitlines()
        if not line.startswith(("Importing vLLM", "Loading "))
    ]
    assert told[-1].startswith(
        "error: vLLM cannot start the model: the embedding in the weights has not as many rows"
    )
    assert (len(told) == 1) == (level == "warning")
    shown = process.stdout + process.stderr
    assert (
        ("Traceback" in shown)
        == ("Unrecognized keys in `rope_parameters`" in shown)
        == (level == "info")
    )
