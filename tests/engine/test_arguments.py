"""What vLLM is told: what the user says, and else what fits the server and the model."""

from pathlib import Path

import pytest

from settings import Settings
from tests.support.model_directory import change, copy_of_demo_model


@pytest.mark.engine
def test_vllm_gets_what_the_user_says_and_else_what_fits() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from engine.arguments import NO_LIMIT, to_engine_args

    args = to_engine_args(Settings(), [])
    assert (args.disable_log_stats, args.max_logprobs) == (False, NO_LIMIT)
    args = to_engine_args(Settings(), ["--disable-log-stats", "--max-logprobs", "20"])
    assert (args.disable_log_stats, args.max_logprobs) == (True, 20)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return copy_of_demo_model(tmp_path / "chinese-alpaca-2")


@pytest.mark.engine
@pytest.mark.parametrize(
    ("others", "length"),
    [
        ([], 16384),
        (["--max-model-len", "65536"], 65536),
        (["--max-model-len=512"], 512),
        (["--hf-overrides", '{"rope_scaling": null, "rope_parameters": null}'], None),
        (["--hf-overrides", '{"max_position_embeddings": 4096}'], None),
    ],
)
def test_vllm_is_told_the_trained_length_unless_the_user_says_more(
    model: Path, capsys: pytest.CaptureFixture[str], others: list[str], length: int | None
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from engine.arguments import to_engine_args

    change(
        model / "config.json",
        max_position_embeddings=16384,
        rope_scaling={"type": "linear", "factor": 4.0},
        rope_parameters=...,
    )
    assert to_engine_args(Settings(model=str(model)), others).max_model_len == length
    shown = capsys.readouterr().err
    assert shown.count("Context of 16384 tokens") == (not others)
    assert not others or shown == ""
