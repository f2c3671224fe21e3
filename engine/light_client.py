"""vLLM's engine client, with less to do for each token.

What vLLM 0.32 makes of each token in the API process is more than half of what a stream costs there, and no option
changes that. Here lighter parts stand in for three of its own, where `vllm_contract.py` finds that they fit.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import zmq
import zmq.asyncio
from prometheus_client import Gauge
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.outputs import CompletionOutput, PoolingRequestOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import output_processor
from vllm.v1.metrics.loggers import StatLoggerManager
from vllm.v1.metrics.prometheus import unregister_vllm_metrics
from vllm.v1.metrics.stats import SchedulerStats


def lighten_outputs() -> None:
    """For the requests of every engine of this process from now on."""
    output_processor.RequestState = LightRequestState


def read_at_once(socket: zmq.asyncio.Socket) -> None:
    """From now on messages are read in the callback that finds them, not by way of futures and events as in pyzmq."""
    plain: zmq.Socket[bytes] = zmq.Socket.shadow(socket.underlying)
    loop, descriptor = asyncio.get_running_loop(), plain.FD
    waiting: asyncio.Future[list[zmq.Frame]] | None = None

    def look() -> None:
        if waiting is None or waiting.done():
            loop.remove_reader(descriptor)
        else:
            with suppress(zmq.Again):
                waiting.set_result(plain.recv_multipart(zmq.NOBLOCK, copy=False))

    async def recv_multipart(copy: bool = False) -> list[zmq.Frame]:
        nonlocal waiting
        assert not copy
        try:
            return plain.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            waiting = loop.create_future()
            loop.add_reader(descriptor, look)
            return await waiting

    socket.recv_multipart = recv_multipart  # type: ignore[assignment, method-assign]


class LightOutput(RequestOutput):  # type: ignore[misc]
    """What is used of vLLM's output, and what its `add` needs."""

    kv_transfer_params = ec_transfer_params = None

    def __init__(self, outputs: list[CompletionOutput], finished: bool) -> None:
        self.outputs, self.finished = outputs, finished


class LightRequestState(output_processor.RequestState):  # type: ignore[misc]
    """vLLM's, which makes less of each token of a stream of text: two objects of 28 fields are a tenth of its cost."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        is_stream = self.output_kind == RequestOutputKind.DELTA and self.stream_interval == 1
        logs = self.logprobs_processor
        has_logs = (
            logs is None or logs.num_logprobs is not None or logs.num_prompt_logprobs is not None
        )
        self._is_text = is_stream and self.parent_req is None and not has_logs

    def track_weight_version(self, weight_version: str) -> None:
        """The weights stay what they are."""

    def make_request_output(
        self,
        new_token_ids: list[int],
        pooling_output: Any,
        finish_reason: Any,
        stop_reason: Any,
        *others: Any,
        **named: Any,
    ) -> RequestOutput | PoolingRequestOutput | None:
        if not self._is_text:
            return super().make_request_output(
                new_token_ids, pooling_output, finish_reason, stop_reason, *others, **named
            )
        is_last = finish_reason is not None
        text = self.detokenizer.get_next_output_text(is_last, delta=True)
        reason = str(finish_reason) if is_last else None
        output = CompletionOutput(
            0, text, new_token_ids, None, None, finish_reason=reason, stop_reason=stop_reason
        )
        return LightOutput([output], is_last)


class SchedulerStatistics:
    """In place of vLLM's loggers, which spend microseconds on each token: what its schedulers say, for `/metrics`.

    With data parallelism there are several engines, whose requests are summed.
    """

    def __init__(self, llm: AsyncLLMEngine) -> None:
        self._llm = llm
        self._latest: dict[int, SchedulerStats] = {}
        self._add("num_requests_running", "Requests that the engine generates for", self._running)
        self._add("num_requests_waiting", "Requests that wait for room in a batch", self._waiting)
        self._add("kv_cache_usage_perc", "Part of the KV cache in use, up to 1", self._usage)

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        *_: object,
        engine_idx: int | None = None,
        **__: object,
    ) -> None:
        """Called by vLLM for each step of each engine."""
        if scheduler_stats is not None:
            self._latest[engine_idx or 0] = scheduler_stats

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """Called by vLLM; nothing is kept of it."""

    def record_admission_rejection(self, reason: str) -> None:
        """Called by vLLM; nothing is kept of it."""

    def log(self) -> None:
        """Called by vLLM; nothing is kept to be logged."""

    def log_engine_initialized(self) -> None:
        """Called by vLLM; nothing is kept to be logged."""

    def _running(self) -> float:
        return float(sum(stats.num_running_reqs for stats in self._latest.values()))

    def _waiting(self) -> float:
        return float(sum(stats.num_waiting_reqs for stats in self._latest.values()))

    def _usage(self) -> float:
        usages = [stats.kv_cache_usage for stats in self._latest.values()]
        return float(sum(usages)) / max(len(usages), 1)

    def _add(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(f"vllm:{name}", text).set_function(partial(self._now, read))

    def _now(self, read: Callable[[], float]) -> float:
        """A scheduler falls silent with its last request, also where that is aborted."""
        return read() if self._llm.get_num_unfinished_requests() else 0


def lighten_statistics(llm: AsyncLLMEngine) -> None:
    """Keep of vLLM's statistics those of its schedulers alone."""
    llm.log_stats = llm.output_processor.log_stats = False
    unregister_vllm_metrics()
    llm.logger_manager = cast(StatLoggerManager, SchedulerStatistics(llm))
