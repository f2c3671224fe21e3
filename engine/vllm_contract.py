"""Checks that the installed vLLM has what this server needs of it beyond its documentation, before a model is loaded.

Where something is missing that the server cannot work without, the start ends with a sentence that says what. Where
only a lighter part of the client lacks something (`request_sender.py`, `step_reader.py`, `dispatch.py`,
`light_client.py`), vLLM's own part is used. The names are those of vLLM 0.31 to 0.33.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import chain
from typing import Any

from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.renderers.base import BaseRenderer
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import (
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    core_client,
    detokenizer,
)
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.metrics.loggers import StatLoggerManager

from settings import StartError

OLDEST, NEWEST = (0, 31), (0, 33)
"""The (major, minor) versions that this server has been run on."""
ENGINE_ARGUMENTS = (
    *("log_level", "logprobs_mode", "max_logprobs", "max_model_len", "max_num_queued_reqs"),
    *("max_num_queued_tokens", "kv_cache_memory_bytes", "structured_outputs_config"),
)
SAMPLING_PARAMETERS = (
    "flat_logprobs",
    "skip_clone",
    "structured_outputs",
    "allowed_token_ids",
    "output_kind",
)
REQUEST_FIELDS = (
    "request_id",
    "prompt_token_ids",
    "mm_features",
    "sampling_params",
    "pooling_params",
)
REQUEST_PARTS = ("get_eos_token_id",)
STEP_FIELDS = ("outputs", "scheduler_stats", "timestamp", "utility_output")
CLIENT_PARTS = ("AsyncMPClient", "_process_utility_output")
RESOURCES = ("output_socket", "output_queue_task", "validate_alive")
CORE_OUTPUT_FIELDS = (
    "request_id",
    "new_token_ids",
    "finish_reason",
    "stop_reason",
    "prefill_stats",
)
ADD_PARAMETERS = ("request", "prompt", "parent_req", "request_index", "queue")
PROCESSOR_FIELDS = ("request_states", "external_req_ids", "stream_interval", "_finish_request")
START_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
"""vLLM's variable for how its processes are started, which `vllm.envs` reads whenever one is."""


def check_vllm(version: str) -> None:
    """Raise StartError if the installed vLLM, of this version, lacks what the server cannot work without."""
    missing = _first(_missing_for_server())
    if missing is None:
        return
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    fault = (
        "is too old" if numbers < OLDEST else "is too new" if numbers > NEWEST else "does not fit"
    )
    known = f"0.{OLDEST[1]} to 0.{NEWEST[1]}"
    raise StartError(f"vLLM {version} {fault}: {missing} (this server knows {known}).")


def _missing_for_server() -> Iterator[str]:
    """What is missing of that, in words, one by one."""
    arguments = [field.name for field in fields(AsyncEngineArgs)]
    yield from _missing_names("AsyncEngineArgs", arguments, ENGINE_ARGUMENTS)
    yield from _missing_names("SamplingParams", _parameters(SamplingParams), SAMPLING_PARAMETERS)
    if _parameters(EngineCoreRequest)[: len(REQUEST_FIELDS)] != list(REQUEST_FIELDS):
        yield f"EngineCoreRequest does not begin with {', '.join(REQUEST_FIELDS)}"
    for name in ("IncrementalDetokenizer", "SlowIncrementalDetokenizer", "check_stop_strings"):
        if not hasattr(detokenizer, name):
            yield f"vllm.v1.engine.detokenizer has no {name}"
    wanted = ("output_text", "new_char_count", "stop", "include_in_output")
    yield from _missing_names(
        "check_stop_strings", _parameters(detokenizer.check_stop_strings), wanted
    )


def missing_for_dispatch() -> str | None:
    """What `Dispatcher` needs and vLLM lacks, in words; None if it has all."""
    collector = RequestOutputCollector(RequestOutputKind.DELTA, "probe")
    for name in ("ready", "get_nowait", "request_id"):
        if not hasattr(collector, name):
            return f"RequestOutputCollector has no {name}"
    return _first(
        _missing_names("AsyncLLM.abort", _parameters(AsyncLLMEngine.abort), ("internal",))
    )


def missing_for_requests() -> str | None:
    """What `send_at_once` needs and vLLM lacks, in words; None if it has all."""
    asked = {
        "InputProcessor": (vars(InputProcessor), ("assign_request_id",)),
        "InputProcessor()": (_parameters(InputProcessor), ("renderer",)),
        "BaseRenderer": (vars(BaseRenderer), REQUEST_PARTS),
        "AsyncMPClient": (vars(core_client.AsyncMPClient), ("_send_input_message",)),
        "BackgroundResources": (vars(core_client.BackgroundResources), ("input_socket",)),
    }
    return _missing_of(asked)


def missing_for_steps() -> str | None:
    """What `StepReader` needs and vLLM lacks, in words; None if it has all."""
    asked = {
        "EngineCoreOutputs": (_parameters(EngineCoreOutputs), STEP_FIELDS),
        "vllm.v1.engine.core_client": (vars(core_client), CLIENT_PARTS),
        "BackgroundResources": (vars(core_client.BackgroundResources), RESOURCES),
        "MPClient": (vars(core_client.MPClient), ("_format_exception",)),
        "OutputProcessor": (vars(OutputProcessor), ("process_outputs", "propagate_error")),
    }
    return _missing_of(asked)


def missing_for_outputs() -> str | None:
    """What `PlainRequests` needs and vLLM lacks, in words; None if it has all."""
    processor = OutputProcessor(None, log_stats=False)
    if _parameters(processor.add_request) != list(ADD_PARAMETERS):
        return f"OutputProcessor.add_request has other parameters than {', '.join(ADD_PARAMETERS)}"
    if not hasattr(RequestOutputCollector(RequestOutputKind.DELTA, "probe"), "output"):
        return "RequestOutputCollector has no output"
    return _first(
        chain(
            _missing_names("EngineCoreOutput", _parameters(EngineCoreOutput), CORE_OUTPUT_FIELDS),
            _missing_names("OutputProcessor", dir(processor), PROCESSOR_FIELDS),
        )
    )


def missing_for_statistics() -> str | None:
    """What `SchedulerStatistics` needs and vLLM lacks, in words; None if it has all."""
    wanted = ("scheduler_stats", "engine_idx")
    return _first(
        _missing_names("StatLoggerManager.record", _parameters(StatLoggerManager.record), wanted)
    )


def missing_for_forks() -> str | None:
    """What `engine/fork_server.py` needs and vLLM lacks, in words; None if it has all."""
    if START_METHOD not in getattr(envs, "environment_variables", {}):
        return f"vllm.envs has no environment_variables with {START_METHOD}"
    return None


def _missing_names(owner: str, present: Iterable[str], wanted: Iterable[str]) -> Iterator[str]:
    """A sentence for each name that is wanted of the owner and not present there."""
    names = set(present)
    yield from (f"{owner} has no {name}" for name in wanted if name not in names)


def _missing_of(asked: Mapping[str, tuple[Iterable[str], Iterable[str]]]) -> str | None:
    """The first sentence of `_missing_names` for several owners, each with what is present and what is wanted."""
    return _first(
        chain.from_iterable(_missing_names(owner, *names) for owner, names in asked.items())
    )


def _first(sentences: Iterator[str]) -> str | None:
    return next(sentences, None)


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The names of a function's parameters, or of a class's."""
    return list(inspect.signature(function).parameters)
