"""vLLM's AsyncLLMEngine behind the waist's `Engine`: prompt ids in, deltas out.

Knows nothing about HTTP, templates or OpenAI's shapes. Importing it imports vLLM, which takes seconds.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager
from threading import Thread
from typing import cast, get_args

from pydantic import ValidationError
from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.exceptions import MaxQueuedTokensError, QueueOverflowError, VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.exceptions import EngineDeadError

from errors import APIError, bad_request
from generation import Delta, FinishReason, Prompt
from protocol import GenerationFields
from sampling import to_sampling_params
from settings import Settings, StartError

GIB = 2**30
DEMO_CPU_KV_CACHE = GIB // 4
CPU_KV_CACHE = 4 * GIB
FINISH_REASONS = get_args(FinishReason)
RETRY_AFTER = {"Retry-After": "1"}


def to_engine_args(settings: Settings, others: Sequence[str]) -> AsyncEngineArgs:
    """vLLM's arguments: our settings, and `others` in vLLM's own words; argparse ends the process on a wrong one."""
    parser = AsyncEngineArgs.add_cli_args(
        FlexibleArgumentParser(prog="openai_api_server_vllm.py", usage="%(prog)s [flags]")
    )
    ours = ["--model", settings.model, "--tokenizer", settings.tokenizer_path]
    args = AsyncEngineArgs.from_cli_args(parser.parse_args([*ours, *others]))
    # Prompts are encoded here; vLLM only detokenises, where its own choice is right.
    args.tokenizer_mode = "auto" if settings.tokenizer_mode == "slow" else settings.tokenizer_mode
    args.revision = settings.revision
    args.trust_remote_code = settings.trust_remote_code
    args.served_model_name = list(settings.model_names)
    args.max_num_queued_reqs = settings.max_num_queued_reqs
    args.log_level = settings.vllm_log_level
    args.use_tqdm_on_load = args.log_level != "ERROR"
    if current_platform.is_cpu():
        _start_small(args, settings, others)
    return args


def _start_small(args: AsyncEngineArgs, settings: Settings, others: Sequence[str]) -> None:
    """On the CPU: a small KV cache, and for the demo model no compilation, unless the user says otherwise."""
    if args.kv_cache_memory_bytes is None and not envs.VLLM_CPU_KVCACHE_SPACE:
        args.kv_cache_memory_bytes = DEMO_CPU_KV_CACHE if settings.is_demo else CPU_KV_CACHE
    if settings.is_demo and "--no-enforce-eager" not in others:
        args.enforce_eager = True


class VLLMEngine:
    """One AsyncLLMEngine: loaded by `start`, then generating."""

    max_model_len = 0
    vocabulary_size = 0

    def __init__(self, args: AsyncEngineArgs) -> None:
        self._args = args
        self._llm: AsyncLLMEngine | None = None

    async def start(self) -> None:
        """Load the model in a thread, so that the app answers meanwhile; raises StartError."""
        loaded: Future[AsyncLLMEngine] = Future()

        def load() -> None:
            if not loaded.set_running_or_notify_cancel():
                return
            try:
                loaded.set_result(AsyncLLMEngine.from_engine_args(self._args))
            except Exception as failure:  # noqa: BLE001 - raised again where it is awaited
                loaded.set_exception(failure)

        # Not an executor's thread: those are waited for at exit, and Ctrl-C should not have to wait.
        Thread(target=load, daemon=True).start()
        try:
            llm = await asyncio.wrap_future(loaded)
        except (ValueError, RuntimeError, OSError) as failure:
            # pydantic's message begins with a count; what is wrong stands in its errors.
            reason = failure.errors()[0]["msg"] if isinstance(failure, ValidationError) else str(failure)
            raise StartError(f"vLLM cannot start the model: {reason.strip()}") from failure
        self.max_model_len = llm.model_config.max_model_len
        self.vocabulary_size = llm.model_config.get_vocab_size()
        self._llm = llm

    async def stop(self) -> None:
        if self._llm is not None:
            self._llm.shutdown()

    def check_ready(self) -> None:
        if self._llm is None:
            raise APIError(503, "The model is still loading.", code="server_loading", headers=RETRY_AFTER)
        if self._llm.errored:
            raise APIError(503, "The engine has died.", code="engine_dead", headers=RETRY_AFTER)

    def admit(self, choices: int) -> None:
        self.check_ready()
        assert self._llm is not None
        try:
            self._llm.check_admission(choices)
        except (QueueOverflowError, MaxQueuedTokensError) as failure:
            raise _overloaded() from failure

    def generate(
        self, prompt: Prompt, request: GenerationFields, max_tokens: int, request_id: str
    ) -> AsyncGenerator[Delta, None]:
        """Deltas for one prompt; raises APIError at once for values outside what the model has."""
        if prompt.ids and not 0 <= min(prompt.ids) <= max(prompt.ids) < self.vocabulary_size:
            message = f"The prompt has a token id outside the vocabulary of {self.vocabulary_size}."
            raise bad_request(message, "prompt")
        params = to_sampling_params(request, prompt, max_tokens, self.vocabulary_size)
        if request.takes_best:
            return self._best_of(prompt, params, request_id, request.n)
        return self._sample(prompt, params, request_id, request.n if request.is_greedy else 1)

    async def _sample(
        self, prompt: Prompt, params: SamplingParams, request_id: str, copies: int
    ) -> AsyncGenerator[Delta, None]:
        """vLLM's outputs as deltas, each for `copies` equal choices."""
        async with self._outputs(prompt, params, request_id) as outputs:
            async for output in outputs:
                for completion in output.outputs:
                    for copy in range(copies):
                        yield _to_delta(completion, completion.index + copy)

    async def _best_of(
        self, prompt: Prompt, params: SamplingParams, request_id: str, n: int
    ) -> AsyncGenerator[Delta, None]:
        """The `n` of all choices with the highest cumulative log-probability, the best first."""
        completions: list[CompletionOutput] = []
        async with self._outputs(prompt, params, request_id) as outputs:
            async for output in outputs:
                completions += output.outputs
        completions.sort(key=lambda completion: completion.cumulative_logprob or 0.0, reverse=True)
        for rank, completion in enumerate(completions[:n]):
            yield _to_delta(completion, rank)

    @asynccontextmanager
    async def _outputs(
        self, prompt: Prompt, params: SamplingParams, request_id: str
    ) -> AsyncIterator[AsyncGenerator[RequestOutput, None]]:
        """vLLM's outputs; leaving ends the generation, and vLLM's exceptions become ours."""
        assert self._llm is not None
        outputs = self._llm.generate(tokens_input(prompt.ids), params, request_id)
        try:
            async with aclosing(outputs):
                yield outputs
        except EngineDeadError as failure:
            raise APIError(503, "The engine has died.", code="engine_dead", headers=RETRY_AFTER) from failure
        except (QueueOverflowError, MaxQueuedTokensError) as failure:
            raise _overloaded() from failure
        except VLLMClientError as failure:
            raise bad_request(str(failure)) from failure


def _to_delta(completion: CompletionOutput, index: int) -> Delta:
    return Delta(index, completion.text, completion.token_ids, _to_finish_reason(completion.finish_reason))


def _to_finish_reason(reason: str | None) -> FinishReason | None:
    if reason is None:
        return None
    if reason in FINISH_REASONS:
        return cast(FinishReason, reason)
    raise APIError(500, f"The engine ended the generation: {reason}.")


def _overloaded() -> APIError:
    message = "The server is at its limit of unfinished requests; try again."
    return APIError(503, message, code="server_overloaded", headers=RETRY_AFTER)
