"""Loads vLLM's AsyncLLMEngine, and makes it ready: lighter parts in its client, everything compiled that can be."""

import asyncio
from collections.abc import Collection
from concurrent.futures import Future
from threading import Thread
from typing import NamedTuple

from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import SamplingParams
from vllm.usage.usage_lib import UsageContext

from engine.dispatch import Dispatcher
from engine.light_client import PlainRequests, replace_stat_loggers
from engine.process import cause, causes_file
from engine.request_sender import can_send, send_at_once
from engine.step_reader import StepReader, can_read
from engine.token_table import TokenTable, to_token_table
from engine.vllm_contract import (
    missing_for_dispatch,
    missing_for_outputs,
    missing_for_requests,
    missing_for_statistics,
    missing_for_steps,
)
from settings import StartError, print_stderr

LIGHT_PARTS = ("requests", "steps", "dispatch", "outputs", "statistics")
"""Parts of vLLM's client that are replaced by lighter ones, if vLLM has what these need."""


class Loaded(NamedTuple):
    """An engine that is ready, and what stands in for parts of its client."""

    llm: AsyncLLMEngine
    table: TokenTable | None
    """Of the model's tokenizer; None for one that has no such table."""
    dispatcher: Dispatcher | None
    """Of the engine's outputs; None: vLLM's own way takes its place."""


async def load(args: AsyncEngineArgs, light_parts: Collection[str]) -> Loaded:
    """Load a model in a thread, which leaves the event loop to others; raises StartError.

    `light_parts`: those of LIGHT_PARTS that are to be used, where they fit vLLM.
    """
    causes = causes_file()
    causes.touch()
    try:
        llm = await _load(args)
        table = to_token_table(llm.get_tokenizer(), llm.model_config.get_vocab_size())
        dispatcher = _replace_parts(llm, args, table, light_parts)
        await _warm_up(llm)
    except Exception as failure:
        raise StartError(f"vLLM cannot start the model: {cause(failure)}.") from failure
    finally:
        causes.unlink(missing_ok=True)
    return Loaded(llm, table, dispatcher)


async def _load(args: AsyncEngineArgs) -> AsyncLLMEngine:
    loaded: Future[AsyncLLMEngine] = Future()

    def load() -> None:
        if not loaded.set_running_or_notify_cancel():
            return
        try:
            # The batch sizes that vLLM leaves open are then those of `vllm serve`.
            context = UsageContext.OPENAI_API_SERVER
            loaded.set_result(AsyncLLMEngine.from_engine_args(args, usage_context=context))
        except Exception as failure:  # noqa: BLE001 - raised again where it is awaited
            loaded.set_exception(failure)

    # Not an executor's thread: those are waited for at exit, and Ctrl-C should not have to wait.
    Thread(target=load, daemon=True).start()
    return await asyncio.wrap_future(loaded)


def _replace_parts(
    llm: AsyncLLMEngine,
    args: AsyncEngineArgs,
    table: TokenTable | None,
    light_parts: Collection[str],
) -> Dispatcher | None:
    """Replace the parts of vLLM's client that are among `light_parts`, where vLLM has what the lighter ones need."""

    def fits(part: str, missing: str | None) -> bool:
        if missing is not None and part in light_parts:
            print_stderr(f"vLLM's own, slower part stands in for the server's ({part}): {missing}.")
        return missing is None and part in light_parts

    is_quiet = llm.log_stats and args.log_level == "ERROR"
    if is_quiet and fits("statistics", missing_for_statistics()):
        replace_stat_loggers(llm)
    if can_send(llm) and fits("requests", missing_for_requests()):
        send_at_once(llm)
    if not fits("dispatch", missing_for_dispatch()):
        return None
    dispatcher = Dispatcher()
    if can_read(llm) and fits("steps", missing_for_steps()):
        StepReader(llm, dispatcher).start()
    is_step_by_step = not llm.log_stats and llm.output_processor.stream_interval == 1
    if table is not None and is_step_by_step and fits("outputs", missing_for_outputs()):
        PlainRequests(llm, dispatcher, table)
    return dispatcher


async def _warm_up(llm: AsyncLLMEngine) -> None:
    """Generate a token with its log-probability: the first such request may compile for seconds."""
    params = SamplingParams(max_tokens=1, logprobs=1)
    async for _ in llm.generate(tokens_input([0]), params, "warm-up"):
        pass
    envs.enable_envs_cache()  # else vLLM asks the environment several times for each request
