"""Beam search on the real vLLM engine in float32 finds what transformers finds on the same model."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import pytest

from api.decoding import to_decoding
from engine.beam_search import BeamSearchConfig
from errors import APIError
from generation import Delta, Source
from protocol import CompletionRequest
from settings import DEMO_MODEL, Settings, parse_settings
from template_choice import load_prompt_template
from tests.support.strings import varied_strings

pytestmark = pytest.mark.engine

EarlyStopping = Literal[True, False, "never"]
COMBINATIONS: list[tuple[int, float, EarlyStopping]] = list(
    product((2, 4, 8), (0.5, 1.0, 2.0), (False, True, "never"))
)
TOPICS, RANDOM = 60, 48
MAX_TOKENS = 40
EOS = 2
LEAD = 2960
TIE = 1e-4


class Both:
    """Our engine and transformers' model, side by side."""

    def __init__(self, runner: asyncio.Runner) -> None:
        import torch
        from transformers import LlamaForCausalLM

        from engine.arguments import to_engine_args
        from engine.vllm_engine import VLLMEngine

        settings, others = parse_settings(["--dtype", "float32"])
        self.runner = runner
        self.engine = VLLMEngine(to_engine_args(settings, others))
        runner.run(self.engine.start())
        self.model = LlamaForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()
        self.template = load_prompt_template(Settings())

    def prompts(self) -> list[str]:
        """The last questions of the demo model's held-out conversations, and random texts."""
        lines = (DEMO_MODEL / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
        topics = list(dict.fromkeys(json.loads(line)["messages"][-1]["content"] for line in lines))
        return (
            topics[:: len(topics) // TOPICS][:TOPICS]
            + varied_strings(1500)[:: 1500 // RANDOM][:RANDOM]
        )

    def ours(
        self, text: str, config: BeamSearchConfig, has_lead: bool = False, **fields: Any
    ) -> list[list[int]]:
        """The token ids of our results; without a lead in the prompt they are all that the model generated."""
        body = CompletionRequest(
            prompt=text, num_beams=config.num_beams, n=config.n, length_penalty=config.length_penalty,
            early_stopping=config.early_stopping, max_tokens=config.max_tokens, **fields,
        )  # fmt: skip
        prompt = self.template.render_instruction(text)
        if not has_lead:
            prompt = replace(prompt, answer_lead="", lead_ids=frozenset())

        async def search() -> list[list[int]]:
            source = self.engine.generate(prompt, to_decoding(body), f"{text} {config}")
            results: list[list[int]] = [[] for _ in range(config.n)]
            for delta in await collect(source):
                results[delta.index] += delta.token_ids
            return results

        return self.runner.run(search())

    def theirs(self, text: str, config: BeamSearchConfig) -> list[tuple[list[int], float]]:
        from tests.support.transformers_beams import beams

        return beams(self.model, self.template.render_instruction(text).ids, config)

    def score(self, text: str, tokens: list[int], config: BeamSearchConfig) -> float:
        import torch

        prompt = self.template.render_instruction(text).ids
        with torch.no_grad():
            logits = self.model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits, -1)[range(len(tokens)), tokens]
        return float(logprobs.sum()) / float(len(tokens) ** config.length_penalty)

    def compare(self, text: str, config: BeamSearchConfig) -> str:
        """`same` ids in the same order, a `tie` if the scores are as good as equal, else `different`."""
        ours, theirs = self.ours(text, config), self.theirs(text, config)
        if ours == [tokens for tokens, _ in theirs]:
            return "same"
        scores = [self.score(text, tokens, config) for tokens in ours]
        is_tie = all(abs(one - other) < TIE for one, (_, other) in zip(scores, theirs, strict=True))
        return "tie" if is_tie else "different"


@contextmanager
def both() -> Iterator[Both]:
    with asyncio.Runner() as runner:
        pair = Both(runner)
        yield pair
        pair.engine.stop()


@pytest.fixture(scope="module")
def pair() -> Iterator[Both]:
    with both() as pair:
        yield pair


def config_of(
    width: int, length_penalty: float, early_stopping: EarlyStopping, **others: Any
) -> BeamSearchConfig:
    return BeamSearchConfig(
        num_beams=width, n=min(width, 4), max_tokens=MAX_TOKENS, length_penalty=length_penalty,
        early_stopping=early_stopping, stop_token_ids=frozenset({EOS}), **others,
    )  # fmt: skip


async def collect(source: Source[Delta]) -> list[Delta]:
    deltas: list[Delta] = []
    await source(deltas.extend)
    return deltas


def test_results_are_those_of_transformers(pair: Both) -> None:
    prompts = pair.prompts()
    assert len(prompts) == len(set(prompts)) == TOPICS + RANDOM
    outcomes = [
        pair.compare(prompt, config_of(*COMBINATIONS[number % len(COMBINATIONS)]))
        for number, prompt in enumerate(prompts)
    ]
    assert outcomes.count("different") == 0
    assert outcomes.count("same") > 0.9 * len(prompts)


def test_penalised_results_are_those_of_transformers(pair: Both) -> None:
    for text in pair.prompts()[::12]:
        template = pair.template.render_instruction(text)
        config = config_of(
            4,
            1.0,
            False,
            repetition_penalty=1.2,
            prompt_ids=frozenset(template.ids),
            logit_bias={438: -3.0},
        )
        fields: dict[str, Any] = {"repetition_penalty": 1.2, "logit_bias": {"438": -3.0}}
        assert pair.ours(text, config, **fields) == [
            tokens for tokens, _ in pair.theirs(text, config)
        ]


@pytest.mark.parametrize("stream", [False, True])
def test_the_templates_lead_is_scored_but_no_part_of_a_result(pair: Both, stream: bool) -> None:
    """The results are those of transformers for one token more, without the first, which counts in no limit."""
    compared = 0
    for text in pair.prompts()[::9]:
        for max_tokens, min_tokens in ((1, 0), (6, 0), (40, 20)):
            config = replace(config_of(4, 1.0, False), max_tokens=max_tokens, min_tokens=min_tokens)
            theirs = pair.theirs(
                text,
                replace(
                    config, max_tokens=max_tokens + 1, min_tokens=min_tokens + bool(min_tokens)
                ),
            )
            if {tokens[0] for tokens, _ in theirs} != {LEAD}:
                continue
            ours = pair.ours(text, config, has_lead=True, min_tokens=min_tokens, stream=stream)
            assert ours == [tokens[1:] for tokens, _ in theirs]
            compared += 1
    assert compared > 20


def test_rows_are_whole_where_vllm_has_merged_outputs() -> None:
    """vLLM merges outputs that wait for a slow reader; the row of the second then names the taken token only once."""
    from vllm.logprobs import FlatLogprobs

    from engine.answers import to_logprobs

    rows = [([7, 7, 8], [-0.1, -0.1, -2.5]), ([9, 5, 6], [-3.0, -0.2, -2.0])]
    outputs = []
    for ids, logprobs in rows:
        outputs.append(FlatLogprobs())
        outputs[-1].append_fast(ids, logprobs, iter((1, 1, 2)), (None, None, None))
    merged = FlatLogprobs()
    for output in outputs:
        merged.extend(output)
    whole = [token for output in outputs for token in to_logprobs(output, 2)]
    assert [token.top for token in whole] == [[(7, -0.1), (8, -2.5)], [(5, -0.2), (6, -2.0)]]
    assert list(to_logprobs(merged, 2)) == whole


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_in_mid_search_frees_the_engine(pair: Both, stream: bool) -> None:
    body = CompletionRequest(
        prompt="a", num_beams=8, n=2, max_tokens=1500, ignore_eos=True, stream=stream
    )
    prompt = pair.template.render_instruction("给我讲一些有关杭州的故事吧")

    async def leave() -> float:
        llm = pair.engine._llm
        assert llm is not None
        search = asyncio.ensure_future(
            collect(pair.engine.generate(prompt, to_decoding(body), "leaves"))
        )
        await asyncio.sleep(1)
        assert llm.get_num_unfinished_requests() >= 8
        began = time.monotonic()
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search
        assert llm.get_num_unfinished_requests() == 0
        assert await llm.reset_prefix_cache(), "a request in the engine still holds blocks"
        return time.monotonic() - began

    assert pair.runner.run(leave()) < 1


def test_an_admitted_search_is_not_refused_half_way(pair: Both) -> None:
    body = CompletionRequest(prompt="a", num_beams=16, n=16, max_tokens=60, ignore_eos=True)
    prompt = pair.template.render_instruction("2023年的春天")

    async def search_alone() -> list[int]:
        pair.engine._max_unfinished = 16
        search = asyncio.ensure_future(
            collect(pair.engine.generate(prompt, to_decoding(body), "wide"))
        )
        await asyncio.sleep(0.2)
        with pytest.raises(APIError) as refused:
            pair.engine.admit(1)
        assert refused.value.code == "server_overloaded"
        return [len(delta.token_ids) for delta in await search]

    try:
        assert pair.runner.run(search_alone()) == [60] * 16
        pair.engine.admit(16)
    finally:
        pair.engine._max_unfinished = Settings().max_num_queued_reqs


def test_stop_strings_end_beams_as_transformers_ends_them(pair: Both) -> None:
    """A stop string that is one token, whatever stands before it, is an end of text to transformers too."""
    comma = pair.template.encoder.encode(["好，"])[-1]
    for text in (
        "给我讲一些有关杭州的故事吧",
        "告诉我中国和美国分别各有哪些优点缺点",
        "介绍一下西湖",
    ):
        config = config_of(4, 1.0, False)
        theirs = [
            tokens
            for tokens, _ in pair.theirs(
                text, replace(config, stop_token_ids=frozenset({EOS, comma}))
            )
        ]
        assert any(comma in tokens for tokens in theirs)
        assert pair.ours(text, config, stop=["，"]) == theirs


def test_min_tokens_hold_back_every_end(pair: Both) -> None:
    config = config_of(4, 1.0, False, min_tokens=20)
    for text in pair.prompts()[::20]:
        ours = pair.ours(text, config, min_tokens=20)
        assert ours == [tokens for tokens, _ in pair.theirs(text, config)]
        assert min(map(len, ours)) > 20
