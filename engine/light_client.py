"""Replacements for parts of vLLM's engine client (`AsyncLLM`) that spend less CPU time on each token and request.

vLLM 0.32 has no option that lowers these costs. `vllm_contract.py` says whether the installed vLLM has what a
replacement needs; `benchmarks/client_parts.py` measures what each saves.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from prometheus_client import Counter, Gauge
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import OutputProcessorOutput, RequestOutputCollector
from vllm.v1.metrics.loggers import StatLoggerManager
from vllm.v1.metrics.prometheus import unregister_vllm_metrics
from vllm.v1.metrics.stats import SchedulerStats

from engine.dispatch import Dispatcher
from engine.token_table import TableText, TokenTable


class PlainOutput(RequestOutput):  # type: ignore[misc]
    """What an engine step adds to a plain request: vLLM's output and its only completion in one object."""

    kv_transfer_params = ec_transfer_params = logprobs = None
    index = 0

    def __init__(
        self, text: str, token_ids: list[int], reason: FinishReason | None, stop: int | str | None
    ) -> None:
        self.text, self.token_ids, self.stop_reason = text, token_ids, stop
        self.finished = reason is not None
        self.finish_reason = None if reason is None else str(reason)
        self.num_cached_tokens = 0

    @property
    def outputs(self) -> "tuple[PlainOutput]":
        return (self,)

    def add(self, next_output: "PlainOutput", aggregate: bool) -> None:  # noqa: ARG002 - vLLM names it
        """Take in the next output: `RequestOutputCollector` merges those that its reader has not taken."""
        text, token_ids = self.text + next_output.text, [*self.token_ids, *next_output.token_ids]
        self.__dict__.update(next_output.__dict__, text=text, token_ids=token_ids)


class PlainState:
    """What vLLM's `OutputProcessor` has to know of a plain request, in the place of its `RequestState`.

    `text` makes the text of its tokens, which reaches the reader step by step, or only with the last.
    """

    parent_req = lora_name = None
    """vLLM reads these; the second only where it keeps statistics."""
    streaming_input = False

    def __init__(
        self, request: EngineCoreRequest, queue: RequestOutputCollector, text: TableText
    ) -> None:
        assert request.sampling_params is not None
        self.request_id, self.external_req_id = request.request_id, request.external_req_id
        self.prompt_len = len(request.prompt_token_ids or ())
        self.queue = queue
        self.detokenizer = text
        self.is_prefilling = True
        self._stream = request.sampling_params.output_kind == RequestOutputKind.DELTA
        self._includes_stop = request.sampling_params.include_stop_str_in_output
        self._token_ids: list[int] = []
        self._cached_tokens = 0

    def take(self, output: EngineCoreOutput) -> PlainOutput | None:
        """Return what an output of the engine means for the reader; None: nothing until there is more."""
        token_ids, reason = output.new_token_ids, output.finish_reason
        if self.is_prefilling:
            self.is_prefilling = False
            if output.prefill_stats is not None:
                self._cached_tokens = output.prefill_stats.num_cached_tokens
        if not self._stream:
            self._token_ids += token_ids
            if reason is None:
                return None
            token_ids = self._token_ids
        if reason is None:
            return PlainOutput(self.detokenizer.add(token_ids), token_ids, None, None)
        return self._end(token_ids, reason, output.stop_reason)

    def _end(
        self, token_ids: list[int], reason: FinishReason, stop: int | str | None
    ) -> PlainOutput:
        hides_last = reason == FinishReason.STOP and not self._includes_stop
        text = self.detokenizer.add(token_ids[:-1] if hides_last else token_ids)
        last = PlainOutput(text, token_ids, reason, stop)
        last.num_cached_tokens = self._cached_tokens
        return last

    def make_request_output(self, *_: Any, finish_reason: FinishReason, **__: Any) -> PlainOutput:
        """Return the last output of a request that vLLM aborts."""
        return self._end(self._token_ids, finish_reason, None)


class PlainRequests:
    """Keeps plain requests out of vLLM's `OutputProcessor`, and hands their outputs straight to their readers.

    A request is plain that asks for one choice without log-probabilities and stop strings, with text that a
    `TokenTable` knows: most are. For all others, and for whatever it does with requests, the processor is as it was.
    """

    def __init__(self, llm: AsyncLLMEngine, dispatcher: Dispatcher, table: TokenTable) -> None:
        self._processor = processor = llm.output_processor
        self._dispatcher, self._table = dispatcher, table
        self._add_other, self._process_others = processor.add_request, processor.process_outputs
        processor.add_request, processor.process_outputs = self.add_request, self.process_outputs

    def add_request(self, request: EngineCoreRequest, *others: Any) -> None:
        """Note a new request, as vLLM's function of this name does with these parameters (ADD_PARAMETERS)."""
        _, parent, _, queue = others
        if parent is not None or not self._is_plain(request):
            self._add_other(request, *others)
            return
        state = PlainState(request, queue, TableText(self._table))
        self._processor.request_states[request.request_id] = state
        self._processor.external_req_ids[request.external_req_id].append(request.request_id)

    def process_outputs(
        self, outputs: list[EngineCoreOutput], *others: Any, **named: Any
    ) -> OutputProcessorOutput:
        """Hand out the outputs of a step, or a part of one; returns what vLLM makes of those that are not plain."""
        states, hand = self._processor.request_states, self._dispatcher.hand
        left = []
        for output in outputs:
            state = states.get(output.request_id)
            if state.__class__ is not PlainState:
                left.append(output)
                continue
            made = state.take(output)
            if output.finish_reason is not None:
                self._processor._finish_request(state)
            if made is not None:
                hand(state.queue, made)
        return self._process_others(left, *others, **named)

    def _is_plain(self, request: EngineCoreRequest) -> bool:
        params = request.sampling_params
        return (
            params is not None
            and not params.stop
            and params.logprobs is params.prompt_logprobs is None
            and self._table.fits(request.prompt_token_ids or (), params)
        )


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

    def record(self, scheduler_stats: SchedulerStats | None, *_: object, **named: Any) -> None:
        """Keep what the scheduler of engine `engine_idx` says; vLLM calls this after each step of each engine."""
        if scheduler_stats is not None:
            self._latest[named.get("engine_idx") or 0] = scheduler_stats
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
