"""Replacements for two parts of vLLM's engine client (`AsyncLLM`) that spend less CPU time on each token.

vLLM 0.32 has no option that lowers these costs. `vllm_contract.py` says whether the installed vLLM has what a
replacement needs; `benchmarks/client_parts.py` measures what each saves.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from prometheus_client import Counter, Gauge
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.outputs import CompletionOutput, PoolingRequestOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import output_processor
from vllm.v1.metrics.loggers import StatLoggerManager
from vllm.v1.metrics.prometheus import unregister_vllm_metrics
from vllm.v1.metrics.stats import SchedulerStats


def replace_request_state() -> None:
    """Make every engine of this process use LightRequestState for the requests that it gets from now on."""
    output_processor.RequestState = LightRequestState


class LightOutput(RequestOutput):  # type: ignore[misc]
    """A RequestOutput with only the fields that this server reads and that `RequestOutput.add` merges."""

    kv_transfer_params = ec_transfer_params = None

    def __init__(self, outputs: list[CompletionOutput], finished: bool, cached: int) -> None:
        self.outputs, self.finished, self.num_cached_tokens = outputs, finished, cached


class LightRequestState(output_processor.RequestState):  # type: ignore[misc]
    """vLLM's state of a request, with a shorter way from a token to its output for a stream of one choice.

    Streams with log-probabilities, requests with several choices and whole replies take vLLM's own way.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        is_stream = self.output_kind == RequestOutputKind.DELTA and self.stream_interval == 1
        processor = self.logprobs_processor
        has_logprobs = (
            processor is None
            or processor.num_logprobs is not None
            or processor.num_prompt_logprobs is not None
        )
        self._is_plain_stream = is_stream and self.parent_req is None and not has_logprobs

    def track_weight_version(self, weight_version: str) -> None:
        """Do nothing: the weights of a server do not change, so no output has to name their version."""

    def make_request_output(
        self,
        new_token_ids: list[int],
        pooling_output: Any,
        finish_reason: Any,
        stop_reason: Any,
        *others: Any,
        **named: Any,
    ) -> RequestOutput | PoolingRequestOutput | None:
        if not self._is_plain_stream:
            return super().make_request_output(
                new_token_ids, pooling_output, finish_reason, stop_reason, *others, **named
            )
        is_last = finish_reason is not None
        text = self.detokenizer.get_next_output_text(is_last, delta=True)
        reason = str(finish_reason) if is_last else None
        output = CompletionOutput(
            0, text, new_token_ids, None, None, finish_reason=reason, stop_reason=stop_reason
        )
        return LightOutput([output], is_last, self.num_cached_tokens)


class SchedulerStatistics:
    """Takes the place of vLLM's `StatLoggerManager`: keeps the latest numbers of the scheduler, for `/metrics`.

    vLLM's own also updates histograms for each token. Under data parallelism the numbers of all engines are added up.
    """

    def __init__(self, llm: AsyncLLMEngine) -> None:
        self._llm = llm
        self._latest: dict[int, SchedulerStats] = {}
        self._queries = Counter(
            "vllm:prefix_cache_queries", "Tokens of prompts that were looked for in the cache"
        )
        self._hits = Counter("vllm:prefix_cache_hits", "Those of them that were there")
        self._add_gauge(
            "num_requests_running", "Requests that the engine generates for", self._running
        )
        self._add_gauge(
            "num_requests_waiting", "Requests that wait for room in a batch", self._waiting
        )
        self._add_gauge("kv_cache_usage_perc", "Part of the KV cache in use, up to 1", self._usage)

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        *_: object,
        engine_idx: int | None = None,
        **__: object,
    ) -> None:
        """Keep what the scheduler of engine `engine_idx` says; vLLM calls this after each step of each engine."""
        if scheduler_stats is not None:
            self._latest[engine_idx or 0] = scheduler_stats
            if (cached := scheduler_stats.prefix_cache_stats) is not None and cached.queries:
                self._queries.inc(cached.queries)
                self._hits.inc(cached.hits)

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """Do nothing; vLLM calls this."""

    def record_admission_rejection(self, reason: str) -> None:
        """Do nothing; vLLM calls this."""

    def log(self) -> None:
        """Do nothing; vLLM calls this."""

    def log_engine_initialized(self) -> None:
        """Do nothing; vLLM calls this."""

    def _running(self) -> float:
        return float(sum(stats.num_running_reqs for stats in self._latest.values()))

    def _waiting(self) -> float:
        return float(sum(stats.num_waiting_reqs for stats in self._latest.values()))

    def _usage(self) -> float:
        usages = [stats.kv_cache_usage for stats in self._latest.values()]
        return float(sum(usages)) / max(len(usages), 1)

    def _add_gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        Gauge(f"vllm:{name}", description).set_function(partial(self._unless_idle, read))

    def _unless_idle(self, read: Callable[[], float]) -> float:
        """The number, or 0 without requests: no step, and so no report, follows the end of the last one."""
        return read() if self._llm.get_num_unfinished_requests() else 0


def replace_stat_loggers(llm: AsyncLLMEngine) -> None:
    """Of vLLM's statistics keep only the scheduler's; this unregisters all other metrics of vLLM."""
    llm.log_stats = llm.output_processor.log_stats = False
    unregister_vllm_metrics()
    llm.logger_manager = cast(StatLoggerManager, SchedulerStatistics(llm))
