"""Reads the files of an adapter (LoRA) and checks them against those of its base model, before vLLM is imported.

The format is peft's: `adapter_config.json` and `adapter_model.safetensors` or `.bin`. Only the names and shapes of
weights are read here.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_files import check_start, read_json_object, read_shapes
from settings import StartError, raising_start_error

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
"""The files that weights may be in; peft reads the first that is there."""
LORA_WEIGHT = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
"""A factor of a module's update: its name in the base model, and which factor it is."""
WHOLE_WEIGHT = re.compile(
    r"(?:base_model\.model\.)?(.+?)(?:\.modules_to_save)?(?:\.default)?\.weight"
)
"""The weight of a module that was trained whole, as peft writes it now and as it did in 2023."""
OUTER_MODULES = ("lm_head", "embed_tokens")
"""The modules that are outside of all layers."""
PLAIN_BEGINNINGS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Values of `init_lora_weights` that leave the base model's weights as they are; true and false do, too."""
MERGE_HINT = (
    "merge it into its base model with python -m tools.merge BASE ADAPTER OUT, and serve that"
)


@dataclass(frozen=True)
class AdapterFiles:
    """What the files of an adapter say of it."""

    folder: Path
    weights: Path
    config: Mapping[str, Any]
    factors: Mapping[str, Mapping[str, str]]
    """Of each module that is updated, by its name in the base model, the names of its weights `A` and `B`."""
    whole: Mapping[str, str]
    """Of each module that was trained whole, the name of its weight."""
    shapes: Mapping[str, list[int]]
    """Of each weight, by its name in the file."""

    @property
    def rank(self) -> int:
        """The largest rank of its updates, or of those that its config says."""
        said: list[int] = [self.config["r"], *(self.config.get("rank_pattern") or {}).values()]
        return max(*said, *(self.shapes[pair["A"]][0] for pair in self.factors.values()))

    @property
    def targets(self) -> set[str]:
        """The last parts of the names of the modules that it updates, such as `q_proj`."""
        return {module.rpartition(".")[2] for module in self.factors}

    def update_shape(self, module: str) -> tuple[int, int]:
        """Return the rows and columns of a module's update."""
        pair = self.factors[module]
        return self.shapes[pair["B"]][0], self.shapes[pair["A"]][1]

    def scaling(self, module: str) -> float:
        """Return what the product of a module's factors is multiplied by: alpha / rank, or / sqrt(rank) for rsLoRA."""
        rank = self.shapes[self.factors[module]["A"]][0]
        patterns = self.config.get("alpha_pattern") or {}
        alphas = [
            alpha for key, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", module)
        ]
        alpha = alphas[0] if alphas else self.config["lora_alpha"]
        return float(alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank))


def find_adapter(name: str) -> Path:
    """Return the folder of an adapter, which is downloaded if `name` is one on Hugging Face; raises StartError."""
    folder = Path(name).expanduser()
    if folder.is_dir() or name.startswith(("/", ".", "~")) or name.count("/") != 1:
        return folder
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import

    with raising_start_error(
        f"{name} is neither a directory nor an adapter that the hub can be asked for"
    ):
        return Path(snapshot_download(name, allow_patterns=[CONFIG_FILE, *WEIGHT_FILES]))


def read_adapter(folder: Path) -> AdapterFiles:
    """Read the names and shapes of an adapter's weights; raises StartError for a folder that is no complete LoRA."""
    if not folder.is_dir():
        raise StartError(f"There is no directory {folder} with an adapter.")
    if not (folder / CONFIG_FILE).is_file():
        raise StartError(f"{folder} is no adapter: it has no {CONFIG_FILE}.")
    config = read_json_object(folder / CONFIG_FILE)
    _check_config(folder, config)
    weights = next((folder / file for file in WEIGHT_FILES if (folder / file).is_file()), None)
    if weights is None:
        raise StartError(f"{folder} has no weights ({' or '.join(WEIGHT_FILES)}).")
    check_start(weights)
    shapes = read_shapes(weights)
    if not shapes:
        raise StartError(f"{weights} is empty.")
    factors, whole = _sorted_names(weights, shapes)
    return AdapterFiles(folder, weights, config, factors, whole, shapes)


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise StartError for an adapter of another kind than LoRA, or a config without the numbers that LoRA needs."""
    kinds = {
        config.get("peft_type", "LORA"): config.get("peft_type", "LORA") != "LORA",
        "DoRA": config.get("use_dora"),
        "aLoRA": config.get("alora_invocation_tokens"),
        "BD-LoRA": config.get("use_bdlora"),
        "QALoRA": config.get("use_qalora"),
        "LoRA with biases": config.get("lora_bias") or config.get("bias", "none") != "none",
        "LoRA with repeated layers": config.get("layer_replication"),
        f"LoRA from {config.get('init_lora_weights')}": _changes_base(config),
    }
    if others := [kind for kind, is_it in kinds.items() if is_it]:
        raise StartError(f"{folder} is an adapter of the kind {others[0]}, not plain LoRA.")
    numbers = [config.get("r"), config.get("lora_alpha")]
    for key in ("rank_pattern", "alpha_pattern"):
        numbers += (config.get(key) or {}).values()
    if not all(isinstance(number, int | float) and number > 0 for number in numbers):
        raise StartError(f"{folder}: r or lora_alpha in {CONFIG_FILE} is no number above 0.")


def _changes_base(config: Mapping[str, Any]) -> bool:
    """Whether the adapter belongs to weights that its method changed at the beginning, such as PiSSA's."""
    method = config.get("init_lora_weights")
    return isinstance(method, str) and method.lower() not in PLAIN_BEGINNINGS


def _sorted_names(
    file: Path, names: Iterable[str]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Sort weights into factors and those that were trained whole; raises StartError for any other, or half a pair."""
    factors: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for name in names:
        if found := LORA_WEIGHT.fullmatch(name):
            factors.setdefault(found[1], {})[found[2]] = name
        elif (found := WHOLE_WEIGHT.fullmatch(name)) and "lora_" not in name:
            whole[found[1]] = name
        else:
            raise StartError(f"{file} has {name}, which is no weight of a LoRA adapter.")
    if halves := [module for module, pair in factors.items() if len(pair) < 2]:
        raise StartError(f"{file} has one factor only of the update of {halves[0]}.")
    return factors, whole


def check_servable(adapter: AdapterFiles, config: Mapping[str, Any]) -> None:
    """Raise StartError for an adapter that vLLM cannot serve beside the base model that has this config.json."""
    if whole := [*adapter.whole, *(adapter.config.get("modules_to_save") or [])]:
        raise StartError(
            f"{adapter.folder} has {whole[0]} trained whole, which no adapter can bring along: {MERGE_HINT}."
        )
    if ends := [module for module in adapter.factors if module.rpartition(".")[2] in OUTER_MODULES]:
        raise StartError(
            f"{adapter.folder} updates {ends[0]}, with which vLLM cannot score prompts: {MERGE_HINT}."
        )
    shapes = _module_shapes(config)
    layers = config.get("num_hidden_layers")
    for module in adapter.factors:
        found, name = adapter.update_shape(module), module.rpartition(".")[2]
        layer = re.search(r"\.layers\.(\d+)\.", module)
        is_beyond = layer is not None and layers is not None and int(layer[1]) >= layers
        if is_beyond or (shapes and name not in shapes):
            wrong = "which the model does not have"
        elif shapes and found != shapes[name]:
            wrong = f"where the model has {shapes[name][0]} × {shapes[name][1]}"
        else:
            continue
        raise StartError(
            f"{adapter.folder} is of another base model: it updates {module} of {found[0]} × {found[1]}, {wrong}."
        )


def _module_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the rows and columns of the weights of LLaMA's modules, by their names; none where a size is not told."""
    hidden, inner = config.get("hidden_size"), config.get("intermediate_size")
    heads = config.get("num_attention_heads")
    if not (hidden and inner and heads):
        return {}
    size = config.get("head_dim") or hidden // heads
    queries, keys = heads * size, (config.get("num_key_value_heads") or heads) * size
    return {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }
