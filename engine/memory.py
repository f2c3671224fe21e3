"""What a loaded model takes of the memory, and how many requests of full length that leaves room for."""

from pathlib import Path

from vllm.config import VllmConfig
from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype

from model_files import weight_files

UNITS = ((1e9, "GB"), (1e6, "MB"))


def describe_memory(config: VllmConfig) -> str:
    """Say what weights and KV cache take, of each device where there are several.

    The weights are told from their files, so they are left out for a model that was named on Hugging Face.
    """
    cache = config.cache_config
    tokens, requests = cache.kv_cache_size_tokens or 0, cache.kv_cache_max_concurrency or 0
    room = f"{tokens:,} tokens, {requests:.1f} requests of full length"
    parts = [f"KV cache {_shown(kv_cache_bytes(config))}: {room}"]
    folder = Path(config.model_config.model)
    if folder.is_dir() and config.load_config.load_format == "auto":
        total = sum(file.stat().st_size for file in weight_files(folder))
        parts.insert(0, f"weights {_shown(total)} (their files)")
    return ", ".join(parts)


def kv_cache_bytes(config: VllmConfig) -> int:
    """Return the bytes of a device's KV cache: of each token a key and a value in each layer and head.

    Models with multi-head latent attention keep one vector for both (DeepSeek-V2, arXiv 2405.04434).
    """
    model, parallel, cache = config.model_config, config.parallel_config, config.cache_config
    vectors = 1 if model.use_mla else 2
    heads = model.get_num_layers(parallel) * model.get_num_kv_heads(parallel)
    itemsize = kv_cache_dtype_str_to_dtype(cache.cache_dtype, model).itemsize
    tokens = (cache.num_gpu_blocks or 0) * (cache.block_size or 0)
    return int(vectors * heads * model.get_head_size() * itemsize * tokens)


def _shown(size: float) -> str:
    unit, name = next((each for each in UNITS if size >= each[0]), UNITS[-1])
    return f"{size / unit:.1f} {name}"
