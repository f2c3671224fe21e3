"""What this server needs of vLLM beyond its documentation, asked of it before a model is loaded.

Two kinds: what nothing works without, which ends the start with a sentence; and what the lighter parts of the client
need (`dispatch.py`, `light_client.py`), without which vLLM's own parts are used. The names are those of vLLM 0.31 to
0.33.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreRequest, detokenizer
from vllm.v1.engine.output_processor import RequestOutputCollector, RequestState
from vllm.v1.metrics.loggers import StatLoggerManager

from settings import StartError

OLDEST, NEWEST = (0, 31), (0, 33)
"""Minor versions that this server has been run on."""
ARGUMENTS = (
    *("log_level", "logprobs_mode", "max_logprobs", "max_model_len", "max_num_queued_reqs"),
    *("max_num_queued_tokens", "kv_cache_memory_bytes", "structured_outputs_config"),
)
PARAMETERS = (
    "flat_logprobs",
    "skip_clone",
    "structured_outputs",
    "allowed_token_ids",
    "output_kind",
)
REQUEST_BEGINS = (
    "request_id",
    "prompt_token_ids",
    "mm_features",
    "sampling_params",
    "pooling_params",
)
OUTPUT_BEGINS = ("index", "text", "token_ids", "cumulative_logprob", "logprobs")
STATE = ("output_kind", "stream_interval", "parent_req", "logprobs_processor", "detokenizer")
MADE_OUTPUT = ("new_token_ids", "pooling_output", "finish_reason", "stop_reason")


def check_vllm(version: str) -> None:
    """Raise StartError if the installed vLLM lacks something that nothing works without."""
    missing = next(iter(_missing()), None)
    if missing is None:
        return
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    fault = (
        "is too old" if numbers < OLDEST else "is too new" if numbers > NEWEST else "does not fit"
    )
    known = f"0.{OLDEST[1]} to 0.{NEWEST[1]}"
    raise StartError(f"vLLM {version} {fault}: {missing} (this server knows {known}).")


def _missing() -> Iterator[str]:
    """What is not there of all that is needed, in words."""
    yield from _lacking(
        "AsyncEngineArgs", (field.name for field in fields(AsyncEngineArgs)), ARGUMENTS
    )
    yield from _lacking("SamplingParams", _parameters(SamplingParams), PARAMETERS)
    if _parameters(EngineCoreRequest)[: len(REQUEST_BEGINS)] != list(REQUEST_BEGINS):
        yield f"EngineCoreRequest does not begin with {', '.join(REQUEST_BEGINS)}"
    for name in ("IncrementalDetokenizer", "SlowIncrementalDetokenizer", "check_stop_strings"):
        if not hasattr(detokenizer, name):
            yield f"vllm.v1.engine.detokenizer has no {name}"
    wanted = ("output_text", "new_char_count", "stop", "include_in_output")
    yield from _lacking("check_stop_strings", _parameters(detokenizer.check_stop_strings), wanted)


def misfit_of_dispatch() -> str | None:
    """Why outputs cannot be handed out by one object for all requests; None if they can."""
    collector = RequestOutputCollector(RequestOutputKind.DELTA, "probe")
    lacking = [
        name for name in ("ready", "get_nowait", "request_id") if not hasattr(collector, name)
    ]
    if lacking:
        return f"RequestOutputCollector has no {lacking[0]}"
    return _first(_lacking("AsyncLLM.abort", _parameters(AsyncLLMEngine.abort), ("internal",)))


def misfit_of_outputs() -> str | None:
    """Why vLLM cannot make lighter outputs of streams; None if it can.

    vLLM's own class is looked at, also where another engine of this process has put the lighter one in its place.
    """
    made = _parameters(RequestState.make_request_output)[1:]
    if made[: len(MADE_OUTPUT)] != list(MADE_OUTPUT):
        return f"make_request_output does not begin with {', '.join(MADE_OUTPUT)}"
    if _parameters(CompletionOutput)[: len(OUTPUT_BEGINS)] != list(OUTPUT_BEGINS):
        return f"CompletionOutput does not begin with {', '.join(OUTPUT_BEGINS)}"
    if _parameters(RequestOutput.add)[1:] != ["next_output", "aggregate"]:
        return "RequestOutput.add takes something else"
    return _first(_lacking("RequestState", _parameters(RequestState), STATE))


def misfit_of_messages(llm: AsyncLLMEngine) -> str | None:
    """Why the engine's messages cannot be read where they are found; None if they can."""
    resources = getattr(llm.engine_core, "resources", None)
    socket = getattr(resources, "output_socket", None)
    if not hasattr(socket, "recv_multipart") or not hasattr(socket, "underlying"):
        return "the engine's client has no output_socket of zmq.asyncio"
    return None


def misfit_of_statistics() -> str | None:
    """Why the scheduler's numbers alone cannot be kept; None if they can."""
    wanted = ("scheduler_stats", "engine_idx")
    return _first(
        _lacking("StatLoggerManager.record", _parameters(StatLoggerManager.record), wanted)
    )


def _lacking(owner: str, has: Iterable[str], wanted: Iterable[str]) -> Iterator[str]:
    names = set(has)
    yield from (f"{owner} has no {name}" for name in wanted if name not in names)


def _first(faults: Iterator[str]) -> str | None:
    return next(faults, None)


def _parameters(of: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(of).parameters)
