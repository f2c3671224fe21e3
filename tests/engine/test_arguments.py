"""What vLLM is told: what the user says, and else what fits the server and the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quantization import is_cpu_build
from settings import AdapterModule, Settings, StartError
from tests.support.adapters import write_adapter
from tests.support.model_directory import change, copy_of_demo_model

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

CPU = int(is_cpu_build())


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes back what is set for the engine's processes of the demo model: other servers would inherit it."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


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


def flags_for(
    model: Path, ranks: Sequence[int], others: Sequence[str] = (), **settings: Any
) -> "AsyncEngineArgs":
    """What vLLM is told for adapters of these ranks."""
    from engine.arguments import to_engine_args

    modules = []
    for at, rank in enumerate(ranks):
        folder = model.parent / f"adapter-{at}-{rank}"
        write_adapter(folder, at, rank)
        modules.append(AdapterModule(str(at), str(folder)))
    return to_engine_args(Settings(lora_modules=modules, **settings), others)


@pytest.mark.engine
def test_there_is_room_for_the_adapters_and_one_slot_more_on_a_cpu(model: Path) -> None:
    args = flags_for(model, [4, 20])
    assert (args.enable_lora, args.max_lora_rank, args.max_loras) == (True, 32, 2 + CPU)
    args = flags_for(model, [4], ["--max-lora-r", "128", "--max-loras=7"])
    assert (args.max_lora_rank, args.max_loras, args.max_cpu_loras) == (128, 7, 7)
    args = flags_for(model, [], allow_lora_updates=True)
    assert (args.max_lora_rank, args.max_loras) == (64, 4 + CPU)
    plain = flags_for(model, [])
    assert (bool(plain.enable_lora), plain.max_lora_rank, plain.max_loras) == (False, 16, 1)


@pytest.mark.engine
def test_too_little_room_for_adapters_is_an_error_that_says_what_is_enough(model: Path) -> None:
    with pytest.raises(StartError, match="--max-lora-rank 8: an adapter has rank 20"):
        flags_for(model, [20], ["--max-lora-rank", "8"])
    for ranks, settings in (([4, 4], {}), ([], {"allow_lora_updates": True})):
        with pytest.raises(StartError, match=r"--max-loras 1 is too few: it has to be [23]"):
            flags_for(model, ranks, ["--max-loras", "1"], **settings)


@pytest.mark.engine
@pytest.mark.parametrize(
    "flags",
    [
        ["--data-parallel-size", "2", "--data-parallel-size-local", "1"],
        ["--data-parallel-size", "2", "--data-parallel-rank", "0"],
        ["--data-parallel-size", "2", "--data-parallel-start-rank", "0"],
        ["--data-parallel-size", "4", "--data-parallel-size-local", "2", "--data-parallel-hybrid-lb"],
        ["--data-parallel-size", "2", "--data-parallel-external-lb"],
        ["--data-parallel-size", "2", "--data-parallel-backend", "ray"],
    ],
)  # fmt: skip
def test_engines_on_other_machines_whose_death_nobody_would_notice_are_refused(
    flags: list[str],
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from engine.arguments import to_engine_args

    with pytest.raises(StartError, match="all engines have to run on this machine"):
        to_engine_args(Settings(), flags)


@pytest.mark.engine
def test_engines_on_this_machine_may_be_several() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from engine.arguments import to_engine_args

    flags = ["--data-parallel-size", "2", "--data-parallel-size-local", "2"]
    assert to_engine_args(Settings(), flags).data_parallel_size == 2
