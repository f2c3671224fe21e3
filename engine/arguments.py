"""The server's settings and vLLM's own flags -> vLLM's `AsyncEngineArgs`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vllm
from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from adapter_files import AdapterFiles, read_adapter
from engine.adapters import places, spare_slots
from engine.vllm_contract import check_vllm
from model_files import LINEAR_MODULES, read_config, trained_length
from settings import Settings, StartError, print_stderr

GIB = 2**30
DEMO_CPU_KV_CACHE_BYTES = GIB // 4
CPU_KV_CACHE_BYTES = 4 * GIB
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of vLLM's `--max-lora-rank`."""
DEFAULT_LORA_RANK = 64
"""The largest rank of adapters that may be loaded later; Chinese-Alpaca-2's have 64."""
LATER_ADAPTERS = 4
"""Places for adapters that may be loaded later."""
NO_LIMIT = -1
"""How vLLM's `max_logprobs` says that there is no limit."""


def to_engine_args(settings: Settings, flags: Sequence[str]) -> AsyncEngineArgs:
    """Make vLLM's engine arguments of the settings and of `flags`, those of the command line that are vLLM's own.

    Raises StartError for a vLLM that lacks what is needed and for another backend of structured output than guidance;
    argparse ends the process at a wrong flag.
    """
    check_vllm(vllm.__version__)
    parser = FlexibleArgumentParser(prog="openai_api_server_vllm.py", usage="%(prog)s [flags]")
    AsyncEngineArgs.add_cli_args(parser)
    # A step of a beam search may need more log-probabilities than vLLM's default of 20.
    parser.set_defaults(max_logprobs=NO_LIMIT)
    adapters = [read_adapter(Path(module.path)) for module in settings.lora_modules]
    has_adapters = bool(adapters) or settings.allow_lora_updates
    if has_adapters:
        defaults = _adapter_defaults(adapters, more_may_come=settings.allow_lora_updates)
        parser.set_defaults(**defaults)
    model_flags = ["--model", settings.model, "--tokenizer", settings.tokenizer_path]
    args = AsyncEngineArgs.from_cli_args(parser.parse_args([*model_flags, *flags]))
    # Prompts are encoded before they reach vLLM, which only detokenizes: its own choice is right for that.
    args.tokenizer_mode = "auto" if settings.tokenizer_mode == "slow" else settings.tokenizer_mode
    args.revision = settings.revision
    args.trust_remote_code = settings.trust_remote_code
    args.served_model_name = list(settings.model_names)
    args.max_num_queued_reqs = settings.max_num_queued_reqs
    _choose_guidance(args)
    _check_engines_are_here(args)
    if has_adapters:
        args.enable_lora = True
        # One that is not in memory would be read from its folder again.
        args.max_cpu_loras = max(args.max_cpu_loras or 0, args.max_loras, len(adapters))
        _check_room_for_adapters(args, adapters)
    args.log_level = settings.vllm_log_level
    args.use_tqdm_on_load = args.log_level != "ERROR"
    if current_platform.is_cpu():
        _set_cpu_defaults(args, settings, flags)
    if args.max_model_len is None:
        args.max_model_len = _max_model_len(args, settings)
    return args


def _adapter_defaults(adapters: Sequence[AdapterFiles], *, more_may_come: bool) -> dict[str, Any]:
    """Return defaults of vLLM's arguments that leave room for these adapters, and for some that are loaded later."""
    ranks, targets = {adapter.rank for adapter in adapters}, set[str]()
    targets.update(*(adapter.targets for adapter in adapters))
    slots = len(adapters) + spare_slots()
    if more_may_come:
        ranks.add(DEFAULT_LORA_RANK)
        targets.update(LINEAR_MODULES)
        slots += LATER_ADAPTERS
    return {
        "max_lora_rank": next((rank for rank in LORA_RANKS if rank >= max(ranks)), LORA_RANKS[-1]),
        "max_loras": slots,
        # With an output layer that could be updated vLLM 0.32 dies where two requests' prompts are scored at once.
        "lora_target_modules": sorted(targets),
    }


def _check_room_for_adapters(args: AsyncEngineArgs, adapters: Sequence[AdapterFiles]) -> None:
    """Raise StartError for flags that leave too little room for these adapters, or for the first that is loaded."""
    rank = max((adapter.rank for adapter in adapters), default=0)
    if rank > args.max_lora_rank:
        raise StartError(f"--max-lora-rank {args.max_lora_rank}: an adapter has rank {rank}.")
    least = len(adapters) or 1
    if least > places(args):
        more = ", one more than adapters, on a CPU" if spare_slots() else ""
        raise StartError(
            f"--max-loras {args.max_loras} is too few: it has to be {least + spare_slots()}{more}."
        )


def _choose_guidance(args: AsyncEngineArgs) -> None:
    """Set the backend of structured output to guidance; raises StartError if the flags say another.

    Grammars are written for it (`engine/grammar.py`), and with "auto" vLLM would choose by the first request.
    """
    config = args.structured_outputs_config
    if config.backend not in ("auto", "guidance"):
        raise StartError(f"Structured output is decoded by guidance here, not by {config.backend}.")
    config.backend = "guidance"


def _check_engines_are_here(args: AsyncEngineArgs) -> None:
    """Raise StartError for flags of data parallelism that leave engines to other machines.

    vLLM watches the processes of its own machine: requests on an engine elsewhere that has died would never end.
    """
    here = args.data_parallel_size_local
    is_split = here is not None and here != args.data_parallel_size
    on_ray = args.data_parallel_size > 1 and args.data_parallel_backend == "ray"
    has_rank = args.data_parallel_rank is not None or args.data_parallel_start_rank is not None
    has_balancer = args.data_parallel_hybrid_lb or args.data_parallel_external_lb
    if is_split or on_ray or has_rank or has_balancer:
        raise StartError(
            "--data-parallel-size: all engines have to run on this machine, started by this server; "
            "for several machines see docs/scale.md."
        )


def _max_model_len(args: AsyncEngineArgs, settings: Settings) -> int | None:
    """Return the length of context that the model was trained for, where vLLM would get it wrong; None elsewhere."""
    overrides = args.hf_overrides if isinstance(args.hf_overrides, dict) else {}
    length = trained_length({**read_config(settings), **overrides})
    if length is not None:
        print_stderr(
            f"Context of {length} tokens: the linear scaling of {settings.model} is in its max_position_embeddings "
            "already, and vLLM would count it twice (--max-model-len changes it)"
        )
    return length


def _set_cpu_defaults(args: AsyncEngineArgs, settings: Settings, flags: Sequence[str]) -> None:
    """Choose a small KV cache, unchunked prefill and, for the demo model, no compilation, unless a flag says more."""
    # vLLM 0.32 dies where a prompt with a seed is prefilled in chunks on a CPU: "CPU Generator does not use offset".
    args.enable_chunked_prefill = bool(args.enable_chunked_prefill)
    if args.kv_cache_memory_bytes is None and not envs.VLLM_CPU_KVCACHE_SPACE:
        size = DEMO_CPU_KV_CACHE_BYTES if settings.is_demo else CPU_KV_CACHE_BYTES
        args.kv_cache_memory_bytes = size
    if settings.is_demo and "--no-enforce-eager" not in flags:
        args.enforce_eager = True
        # Otherwise the first request for log-probabilities compiles for seconds.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
