"""vLLM's AsyncLLMEngine as an `Engine`: a prompt and a decoding in, deltas out.

Knows nothing about HTTP, templates or OpenAI's shapes. Importing it imports vLLM, which takes seconds.
"""

import asyncio
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from typing import Any, cast

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.exceptions import VLLMClientError, VLLMServerError
from vllm.inputs.engine import tokens_input
from vllm.logprobs import FlatLogprobs
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from engine.adapters import Adapters, places
from engine.answers import Answer, SelfStoppingAnswer, can_stop_wrongly, joined, to_logprobs
from engine.detokenizer import AnswerText
from engine.dispatch import Dispatcher, OutputCallback
from engine.drafts import check_drafts
from engine.grammar import GrammarChecker, GrammarCompiler
from engine.greedy_runs import TokenCallback
from engine.loading import LIGHT_PARTS, load
from engine.memory import describe_memory
from engine.sampling import to_beam_config, to_run_params, to_sampling_params, to_score_params
from engine.token_table import TokenTable
from engine.vllm_beams import report_tokens, search_beams
from errors import APIError, bad_request, engine_died, unavailable
from generation import Decoding, Delta, Deltas, Drain, Prompt, Sink, Source, TokenLogprob, pour
from settings import AdapterModule, StartError, raising_start_error

_Run = dict[str, Any]
"""A request of vLLM's: the arguments, by their names, besides its parameters."""
NO_ADAPTER = nullcontext()
NO_PRIORITY = "Requests come by their arrival: 'priority' needs --scheduling-policy priority."


class _AnswersAreComplete(Exception):  # noqa: N818 - no error
    """Ends a request that vLLM would go on with although no answer of it gains anything more."""


@dataclass(slots=True)
class _Request:
    """A prompt and how it is decoded, with vLLM's parameters for it."""

    id: str
    prompt: Prompt
    decoding: Decoding
    params: SamplingParams


class VLLMEngine:
    """One AsyncLLMEngine: loaded by `start`, then generating."""

    max_model_len = 0
    vocabulary_size = 0
    memory = ""
    light_parts: Collection[str] = LIGHT_PARTS

    def __init__(self, args: AsyncEngineArgs, adapters: Sequence[AdapterModule] = ()) -> None:
        """`adapters` are loaded at the start, each from a folder."""
        # vLLM would count each request of a beam search; here a search is admitted once and as a whole.
        self._args = replace(args, max_num_queued_reqs=None, max_num_queued_tokens=None)
        self._max_unfinished = args.max_num_queued_reqs or sys.maxsize
        self._max_queued_tokens = args.max_num_queued_tokens
        self._unfinished = 0
        self._dispatcher: Dispatcher | None = None
        self._table: TokenTable | None = None
        self._readers: set[asyncio.Task[object]] = set()
        """Tasks that read outputs in vLLM's own way, without a dispatcher."""
        self._is_draining = self._is_aborted = False
        self._llm: AsyncLLMEngine | None = None
        self._adapters = Adapters(places(args))
        self._first_adapters = adapters

    async def start(self) -> None:
        """Load the model, while the app answers; raises StartError."""
        llm, self._table, self._dispatcher = await load(self._args, self.light_parts)
        try:
            for module in self._first_adapters:
                with raising_start_error(f"--lora-modules {module.name}"):
                    await self._adapters.load(llm, module.name, module.path)
        except StartError:
            llm.shutdown()
            raise
        self.max_model_len = llm.model_config.max_model_len
        self.vocabulary_size = llm.model_config.get_vocab_size()
        self.memory = describe_memory(llm.vllm_config)
        self._llm = llm

    def stop(self) -> None:
        if self._llm is not None:
            self._llm.shutdown()

    @property
    def is_dead(self) -> bool:
        return self._llm is not None and self._llm.errored

    @property
    def unfinished(self) -> int:
        return self._llm.get_num_unfinished_requests() if self._llm is not None else 0

    def drain(self) -> None:
        self._is_draining = True

    def abort(self) -> None:
        self._is_aborted = True
        if self._dispatcher is not None:
            self._dispatcher.fail(_shutting_down())
        for reader in self._readers:
            reader.cancel()

    def check_ready(self) -> None:
        if self._is_draining:
            raise _shutting_down()
        if self._llm is None:
            raise unavailable("The model is still loading.", "server_loading")
        if self.is_dead:
            raise engine_died()

    def admit(self, choices: int) -> None:
        self.check_ready()
        if choices > self._max_unfinished:
            raise _too_many(choices, self._max_unfinished)
        if self._max_queued_tokens is not None:
            self._check_queue(self._max_queued_tokens)
        self._check_room(choices)

    def generate(self, prompt: Prompt, decoding: Decoding, request_id: str) -> Source[Delta]:
        """The deltas for one prompt; raises APIError at once for values outside what the model has."""
        self._check_prompt(prompt, decoding)
        if self._args.speculative_config is not None:
            check_drafts(decoding)
        # One token more for the prompt's lead, which counts in no limit: `answers.py` cuts at the limit.
        room = self.max_model_len - len(prompt.ids)
        limit = min(decoding.max_tokens + bool(prompt.lead_ids), room)
        params = to_sampling_params(decoding, prompt, limit, self.vocabulary_size)
        request = _Request(request_id, prompt, decoding, params)
        if decoding.is_beam_search:
            self._check_search()
            return partial(pour, self._search(request))
        if decoding.takes_best:
            return partial(pour, self._best(request))
        source = partial(self._sample, request)
        return _copied(source, decoding.n) if params.n < decoding.n else source

    async def score(
        self, prompt: Prompt, decoding: Decoding, request_id: str
    ) -> list[TokenLogprob]:
        """One log-probability for each token of the prompt; the first has none."""
        self._check_prompt(prompt, decoding)
        scores = [TokenLogprob(prompt.ids[0], None)]

        def take(output: RequestOutput) -> None:
            # vLLM's first row is empty: nothing comes before the first token.
            rows = cast(FlatLogprobs, output.prompt_logprobs)
            scores.extend(to_logprobs(rows, decoding.alternatives or 0, first=1))

        with self._room(1, decoding.adapter) as adapter:
            params = to_score_params(decoding.alternatives or 0)
            run = _to_run(request_id, prompt.ids, decoding, adapter)
            await self._run(run, params, take)
        return scores

    async def load_adapter(self, name: str, path: str) -> None:
        assert self._llm is not None
        await self._adapters.load(self._llm, name, path)

    async def unload_adapter(self, name: str) -> None:
        assert self._llm is not None
        await self._adapters.unload(self._llm, name)

    def _check_search(self) -> None:
        if self._args.logprobs_mode != "raw_logprobs":
            raise bad_request(
                "Beam search needs a server with --logprobs-mode raw_logprobs.", "num_beams"
            )

    def _check_prompt(self, prompt: Prompt, decoding: Decoding) -> None:
        if decoding.priority and self._args.scheduling_policy != "priority":
            raise bad_request(NO_PRIORITY, "priority")
        if not 0 <= min(prompt.ids, default=0) <= max(prompt.ids, default=0) < self.vocabulary_size:
            raise bad_request(
                f"The prompt has a token id outside the vocabulary of {self.vocabulary_size}.",
                "prompt",
            )

    async def _sample(self, request: _Request, sink: Sink[Delta]) -> None:
        """Push what each output of vLLM adds to the answers into the sink."""
        answers = self._answers(request)
        to_deltas = (
            partial(_to_delta, answers[0]) if len(answers) == 1 else partial(_to_deltas, answers)
        )

        def take(output: RequestOutput) -> Drain | None:
            return sink(to_deltas(output))

        await self._complete(request, answers, take)

    async def _best(self, request: _Request) -> Deltas:
        """The `n` of all choices with the highest cumulative log-probability, the best first."""
        answers = self._answers(request)
        made: list[list[Delta]] = [[] for _ in answers]
        scores = [0.0] * len(answers)

        def take(output: RequestOutput) -> None:
            score = {
                completion.index: completion.cumulative_logprob for completion in output.outputs
            }
            for delta in _to_deltas(answers, output):
                made[delta.index].append(delta)
                scores[delta.index] = score[delta.index] or 0.0

        await self._complete(request, answers, take)
        best = sorted(range(len(made)), key=scores.__getitem__, reverse=True)
        for rank, index in enumerate(best[: request.decoding.n]):
            yield replace(joined(made[index]), index=rank)

    def _answers(self, request: _Request) -> list[Answer]:
        """One for each choice; where they look for stop strings themselves, vLLM is asked for none from here on."""
        assert self._llm is not None
        params, decoding = request.params, request.decoding
        kind, asked = Answer, copy(params)
        call_format = decoding.calls.format if decoding.calls else None
        if can_stop_wrongly(request.prompt, params, call_format is not None):
            kind = SelfStoppingAnswer
            params.stop, params.output_kind = [], RequestOutputKind.DELTA
        tokenizer = self._llm.get_tokenizer()
        fields = request.prompt, asked, decoding.max_tokens, decoding.alternatives, self._table
        answers = [kind(tokenizer, *fields) for _ in range(params.n)]
        for answer in answers:
            answer.call_format = call_format
        return answers

    async def _complete(
        self, request: _Request, answers: Sequence[Answer], take: OutputCallback
    ) -> None:
        """Hand each output to `take`; raises APIError where an answer breaks its grammar."""
        room = self._room(request.params.n, request.decoding.adapter)
        with room as adapter, suppress(_AnswersAreComplete):
            if request.params.structured_outputs is not None:
                take = _checking(take, await self._checkers(request))
            if isinstance(answers[0], SelfStoppingAnswer):
                take = _watching(take, answers)
            run = _to_run(request.id, request.prompt.ids, request.decoding, adapter)
            await self._run(run, request.params, take)

    async def _search(self, request: _Request) -> Deltas:
        """Yield the deltas of a beam search, which is admitted as one request for each beam."""
        assert self._llm is not None
        prompt, params = request.prompt, request.params
        inputs = self._llm.input_processor
        params.update_from_generation_config(
            inputs.generation_config_fields, inputs.renderer.get_eos_token_id()
        )
        context_left = self.max_model_len - len(prompt.ids)
        config = to_beam_config(request.decoding, params, prompt, context_left)
        numbers = count()

        async def generate(token_ids: list[int], callback: TokenCallback) -> None:
            run_params = to_run_params(config, len(token_ids), self.vocabulary_size)
            reader = partial(report_tokens, callback, run_params.logprobs)
            run_id, ids = f"{request.id}-{next(numbers)}", prompt.ids + token_ids
            await self._run(_to_run(run_id, ids, request.decoding, adapter), run_params, reader)

        new_text = partial(AnswerText, self._llm.get_tokenizer(), prompt, params)
        decoding = request.decoding
        search = search_beams(config, new_text, generate, decoding.stream, decoding.include_beams)
        with self._room(config.num_beams, decoding.adapter) as adapter:
            async with aclosing(search) as deltas:
                async for delta in deltas:
                    yield delta

    async def _checkers(self, request: _Request) -> list[GrammarChecker]:
        """One for each choice of a request with a grammar; raises APIError for one that cannot be kept.

        It is compiled in a thread, which leaves the event loop to others.
        """
        decoding, outputs = request.decoding, request.params.structured_outputs
        grammar, lead = cast(str, outputs.grammar), request.prompt.answer_lead
        asking = decoding.calls or decoding.constraint
        assert asking is not None
        first = await asyncio.to_thread(
            lambda: self._grammar_compiler.compile(grammar, lead, asking.param)
        )
        return [first, *(first.fork() for _ in range(1, request.params.n))]

    @cached_property
    def _grammar_compiler(self) -> GrammarCompiler:
        assert self._llm is not None
        return GrammarCompiler(self._llm.get_tokenizer(), self.vocabulary_size)

    def _check_queue(self, max_tokens: int) -> None:
        assert self._llm is not None
        if self._llm.get_num_queued_tokens() >= max_tokens:
            raise _full()

    def _check_room(self, choices: int) -> None:
        if self._unfinished + choices > self._max_unfinished:
            raise _full()

    @contextmanager
    def _room(self, choices: int, adapter: str) -> Iterator[LoRARequest | None]:
        """Take a place for each choice until it is done, and the adapter; raises APIError where others were faster."""
        self._check_room(choices)
        self._unfinished += choices
        try:
            with self._adapters.use(adapter) if adapter else NO_ADAPTER as used:
                yield used
        finally:
            self._unfinished -= choices

    async def _run(self, run: _Run, params: SamplingParams, take: OutputCallback) -> None:
        """Each of vLLM's outputs to `take`; leaving ends the generation, and vLLM's exceptions become ours."""
        try:
            if self._dispatcher is None:
                await self._read(run, params, take)
            else:
                await self._dispatch(run, params, take)
        except EngineDeadError as failure:
            raise engine_died() from failure
        except VLLMClientError as failure:
            raise bad_request(str(failure)) from failure
        except VLLMServerError as failure:
            status = int(getattr(failure, "status_code", 500))
            raise APIError(status, "The engine could not answer the request.") from failure

    async def _dispatch(self, run: _Run, params: SamplingParams, take: OutputCallback) -> None:
        assert self._llm is not None
        assert self._dispatcher is not None
        outputs = await self._llm.add_request(params=params, **run)
        try:
            await self._dispatcher.read(outputs, take)
        except BaseException:
            await self._llm.abort(outputs.request_id, internal=True)
            raise

    async def _read(self, run: _Run, params: SamplingParams, take: OutputCallback) -> None:
        """The same in vLLM's own way, a task that is woken for each output."""
        assert self._llm is not None
        reader = asyncio.current_task()
        assert reader is not None
        self._readers.add(reader)
        try:
            outputs = self._llm.generate(sampling_params=params, **run)
            async with aclosing(outputs):
                async for output in outputs:
                    if drain := take(output):
                        await drain()
        except asyncio.CancelledError:
            if self._is_aborted:
                raise _shutting_down() from None
            raise
        finally:
            self._readers.discard(reader)


def _to_run(run_id: str, ids: list[int], decoding: Decoding, adapter: LoRARequest | None) -> _Run:
    prompt = tokens_input(ids, cache_salt=decoding.cache_salt or None)
    options = {"lora_request": adapter, "priority": decoding.priority}
    return {"request_id": run_id, "prompt": prompt, **options}


def _copied(source: Source[Delta], n: int) -> Source[Delta]:
    """Greedy decoding makes one choice for all `n`."""
    return lambda sink: source(
        lambda deltas: sink([replace(delta, index=at) for delta in deltas for at in range(n)])
    )


def _checking(take: OutputCallback, checkers: Sequence[GrammarChecker]) -> OutputCallback:
    """Check each output by the grammar of its choice before it is handed on."""

    def check(output: RequestOutput) -> Drain | None:
        for completion in output.outputs:
            _check(completion, checkers[completion.index])
        return take(output)

    return check


def _watching(take: OutputCallback, answers: Sequence[Answer]) -> OutputCallback:
    """End the request once no answer of it gains anything more."""

    def watch(output: RequestOutput) -> Drain | None:
        drain = take(output)
        if all(answer.is_over for answer in answers):
            raise _AnswersAreComplete
        return drain

    return watch


def _check(completion: CompletionOutput, checker: GrammarChecker) -> None:
    """Raise APIError where the output breaks the grammar that it was to keep."""
    if completion.finish_reason == "error":
        raise checker.to_error()
    has_ended = completion.finish_reason == "stop" and completion.stop_reason is None
    checker.check(completion.token_ids, has_ended)


def _shutting_down() -> APIError:
    return unavailable("The server is shutting down.", "shutting_down")


def _too_many(choices: int, most: int) -> APIError:
    return bad_request(f"The request has {choices} choices, and this server takes {most}.", "n")


def _full() -> APIError:
    return unavailable(
        "The server is at its limit of unfinished requests; try again.", "server_overloaded"
    )


def _to_deltas(answers: Sequence[Answer], output: RequestOutput) -> list[Delta]:
    """What an output adds to the answers that are not over."""
    return [
        answers[completion.index].to_delta(completion, completion.index)
        for completion in output.outputs
        if not answers[completion.index].is_over
    ]


def _to_delta(answer: Answer, output: RequestOutput) -> list[Delta]:
    """The same for a request of one answer, whose prompt no other choice finds in the cache."""
    if answer.is_over:
        return []
    delta = answer.to_delta(output.outputs[0], 0)
    if output.finished:
        delta.cached_tokens = output.num_cached_tokens or 0
    return [delta]
