"""Our settings and vLLM's own flags -> vLLM's engine arguments."""

import os
from collections.abc import Sequence

import vllm
from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from engine.vllm_contract import check_vllm
from model_files import read_config, trained_length
from settings import Settings, StartError, print_stderr

GIB = 2**30
DEMO_CPU_KV_CACHE = GIB // 4
CPU_KV_CACHE = 4 * GIB
NO_LIMIT = -1


def to_engine_args(settings: Settings, others: Sequence[str]) -> AsyncEngineArgs:
    """vLLM's arguments: our settings, and `others` in vLLM's own words; argparse ends the process on a wrong one."""
    check_vllm(vllm.__version__)
    parser = FlexibleArgumentParser(prog="openai_api_server_vllm.py", usage="%(prog)s [flags]")
    AsyncEngineArgs.add_cli_args(parser)
    ours = ["--model", settings.model, "--tokenizer", settings.tokenizer_path]
    args = AsyncEngineArgs.from_cli_args(parser.parse_args([*ours, *others]))
    # Prompts are encoded here; vLLM only detokenises, where its own choice is right.
    args.tokenizer_mode = "auto" if settings.tokenizer_mode == "slow" else settings.tokenizer_mode
    args.revision = settings.revision
    args.trust_remote_code = settings.trust_remote_code
    args.served_model_name = list(settings.model_names)
    args.max_num_queued_reqs = settings.max_num_queued_reqs
    if not any(argument.startswith("--max-logprobs") for argument in others):
        args.max_logprobs = NO_LIMIT
    # vLLM would take whichever backend the first request fits, for all that follow; our grammars are llguidance's.
    structured = args.structured_outputs_config
    if structured.backend not in ("auto", "guidance"):
        raise StartError(
            f"Structured output is decoded by guidance here, not by {structured.backend}."
        )
    structured.backend = "guidance"
    args.log_level = settings.vllm_log_level
    args.use_tqdm_on_load = args.log_level != "ERROR"
    if current_platform.is_cpu():
        _start_small(args, settings, others)
    if args.max_model_len is None:
        args.max_model_len = _trained_length(args, settings)
    return args


def _trained_length(args: AsyncEngineArgs, settings: Settings) -> int | None:
    """What vLLM is told where its own count is wrong."""
    overrides = args.hf_overrides if isinstance(args.hf_overrides, dict) else {}
    length = trained_length({**read_config(settings), **overrides})
    if length is not None:
        scaled = f"the linear scaling of {settings.model} is in its max_position_embeddings already"
        twice = "vLLM would count it twice (--max-model-len changes it)"
        print_stderr(f"Context of {length} tokens: {scaled}, and {twice}")
    return length


def _start_small(args: AsyncEngineArgs, settings: Settings, others: Sequence[str]) -> None:
    """On the CPU: a small KV cache, prompts read whole, no compilation of the demo model, unless the user says so."""
    # vLLM 0.32 dies where a prompt with a seed is read in two parts on a CPU: "CPU Generator does not use offset".
    args.enable_chunked_prefill = bool(args.enable_chunked_prefill)
    if args.kv_cache_memory_bytes is None and not envs.VLLM_CPU_KVCACHE_SPACE:
        args.kv_cache_memory_bytes = DEMO_CPU_KV_CACHE if settings.is_demo else CPU_KV_CACHE
    if settings.is_demo and "--no-enforce-eager" not in others:
        args.enforce_eager = True
        # Else the first log-probabilities are compiled, for seconds.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
