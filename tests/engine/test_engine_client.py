"""The lighter outputs of vLLM's engine client have what its own have, in all that a reply is made of."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from engine.dispatch import Dispatcher
from prompts.encoder import SentencePieceEncoder
from settings import DEMO_MODEL

pytestmark = pytest.mark.engine
TEXT = "杭州是浙江省的省会，西湖很美。🙂 The lake is beautiful."
VOCABULARY = 4600
END = 13
"""A token of TEXT's vocabulary that ends an answer where a request says so."""
KINDS = {
    "text": {},
    "stop token": {"stop_token_ids": [END]},
    "stop token that is kept": {"stop_token_ids": [END], "include_stop_str_in_output": True},
    "special tokens": {"skip_special_tokens": False},
    "no text": {"detokenize": False},
    "stop string": {"stop": ["西湖很"]},
    "stop string that is kept": {"stop": ["西湖很"], "include_stop_str_in_output": True},
    "log-probabilities": {"logprobs": 2},
    "scores of the prompt": {"prompt_logprobs": 1},
    "two choices": {"n": 2},
}


class Processor:
    """vLLM's, with one request of so many choices, and one reader; `is_light`: with `PlainRequests` before it."""

    def __init__(
        self, prompt_ids: list[int], fields: dict[str, Any], is_streamed: bool, is_light: bool
    ) -> None:
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.tokenizers.registry import get_tokenizer
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
        from vllm.v1.engine.parallel_sampling import ParentRequest

        from engine.light_client import PlainRequests
        from engine.token_table import to_token_table

        kind = RequestOutputKind.DELTA if is_streamed else RequestOutputKind.FINAL_ONLY
        self.params = SamplingParams(output_kind=kind, flat_logprobs=True, **fields)
        tokenizer = get_tokenizer(str(DEMO_MODEL))
        self.processor = OutputProcessor(tokenizer, log_stats=False)
        if is_light:
            table = to_token_table(tokenizer, VOCABULARY)
            assert table is not None
            llm: Any = SimpleNamespace(output_processor=self.processor)
            self.dispatcher = Dispatcher()
            PlainRequests(llm, self.dispatcher, table)
        self.collector = RequestOutputCollector(kind, "r")
        self.names = [f"r-{index}" for index in range(self.params.n)]
        self.read: list[tuple[Any, ...]] = []
        requests = [
            EngineCoreRequest(
                request_id=name, prompt_token_ids=prompt_ids, mm_features=None, sampling_params=self.params,
                pooling_params=None, arrival_time=0.0, lora_request=None, cache_salt=None, data_parallel_rank=None,
                external_req_id="r",
            )
            for name in ("r", *self.names)
        ]  # fmt: skip
        parent = ParentRequest(requests[0]) if self.params.n > 1 else None
        for index, request in enumerate(requests[1:]):
            self.processor.add_request(request, None, parent, index, self.collector)

    def step(self, token_id: int, is_last: bool) -> None:
        from vllm.v1.engine import EngineCoreOutput, FinishReason
        from vllm.v1.metrics.stats import PrefillStats
        from vllm.v1.outputs import LogprobsLists

        reason = stop = None
        if is_last:
            stop = token_id if token_id in (self.params.stop_token_ids or ()) else None
            reason = FinishReason.LENGTH if stop is None else FinishReason.STOP
        logs = LogprobsLists(*to_rows(token_id)) if self.params.logprobs else None
        outputs = [
            EngineCoreOutput(
                name, [token_id], new_logprobs=logs, finish_reason=reason, stop_reason=stop,
                prefill_stats=PrefillStats(num_cached_tokens=16),
            )
            for name in self.names
        ]  # fmt: skip
        self.processor.process_outputs(outputs, weight_version="default")

    def look(self) -> None:
        output = self.collector.get_nowait()
        for choice in output.outputs if output else ():
            logs = choice.logprobs and [*choice.logprobs.token_ids]
            what = (
                choice.index,
                choice.text,
                choice.token_ids,
                choice.finish_reason,
                choice.stop_reason,
                logs,
            )
            cached = output.num_cached_tokens if output.finished else None
            self.read.append((*what, output.finished, cached))


def to_rows(token_id: int) -> tuple[object, ...]:
    """The likeliest tokens of one place, in vLLM's arrays."""
    import numpy

    return numpy.array([[token_id, 7, 8]]), numpy.array([[-0.5, -0.6, -2.0]]), numpy.array([0])


@pytest.mark.parametrize("is_aborted", [False, True])
@pytest.mark.parametrize("steps_between_reads", [1, 4])
@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
def test_light_outputs_say_what_vllms_say(
    demo_encoder: SentencePieceEncoder,
    fields: dict[str, Any],
    is_streamed: bool,
    steps_between_reads: int,
    is_aborted: bool,
) -> None:
    ids = [*demo_encoder.encode([TEXT]), END]
    told = []
    for is_light in (False, True):
        request = Processor([1, 500], fields, is_streamed, is_light)
        for step, token_id in enumerate(ids, 1):
            request.step(token_id, is_last=step == len(ids) and not is_aborted)
            if step == len(ids) and is_aborted:
                request.processor.abort_requests(request.names, internal=True)
            if not step % steps_between_reads or step == len(ids):
                request.look()
        told.append(request.read)
        assert request.processor.get_num_unfinished_requests() == 0
        assert not request.processor.external_req_ids
    assert told[1] == told[0] != []
    if is_streamed and not fields:
        assert "".join(text for _, text, *_ in told[1]) == f" {TEXT}\n"


def test_plain_outputs_reach_their_readers_within_the_step(
    demo_encoder: SentencePieceEncoder,
) -> None:
    """A slow reader gets what came meanwhile in one piece, and a failure of the engine reaches all of them."""

    async def read() -> None:
        request = Processor([1, 500], {}, is_streamed=True, is_light=True)
        taken: list[str] = []
        room = asyncio.Event()

        def take(output: Any) -> Any:
            taken.append(output.text)
            return None if room.is_set() else room.wait

        dispatcher = request.dispatcher
        reading = asyncio.create_task(dispatcher.read(request.collector, take))
        await asyncio.sleep(0)
        first, *others = demo_encoder.encode([TEXT])
        request.step(first, is_last=False)
        assert len(taken) == 1
        await asyncio.sleep(0)
        for token_id in others:
            request.step(token_id, is_last=False)
        assert len(taken) == 1
        room.set()
        await asyncio.sleep(0.01)
        assert "".join(taken).strip() == TEXT
        assert len(taken) == 2
        request.processor.propagate_error(ConnectionError("died"))
        with pytest.raises(ConnectionError, match="died"):
            await reading

    asyncio.run(read())
