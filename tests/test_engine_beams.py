"""Beam search on the real vLLM engine in float32 finds what transformers finds on the same model."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import pytest
from strings import varied_strings

from beam_search import Rules
from prompt_template import load_prompt_template
from protocol import CompletionRequest
from settings import DEMO_MODEL, Settings, parse_settings

pytestmark = pytest.mark.engine

COMBINATIONS = list(product((2, 4, 8), (0.5, 1.0, 2.0), (False, True, "never")))
TOPICS, RANDOM = 60, 48
MAX_TOKENS = 40
EOS = 2
TIE = 1e-4


class Both:
    """Our engine and transformers' model, side by side."""

    def __init__(self, runner: asyncio.Runner) -> None:
        import torch
        from transformers import LlamaForCausalLM

        from engine import VLLMEngine, to_engine_args

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
        return topics[:: len(topics) // TOPICS][:TOPICS] + varied_strings(1500)[:: 1500 // RANDOM][:RANDOM]

    def ours(self, text: str, rules: Rules, **fields) -> list[list[int]]:
        request = CompletionRequest(
            prompt=text, num_beams=rules.width, n=rules.n, length_penalty=rules.length_penalty,
            early_stopping=rules.early_stopping, max_tokens=rules.max_tokens, **fields,
        )  # fmt: skip
        prompt = self.template.render_instruction(text)

        async def search() -> list[list[int]]:
            deltas = self.engine.generate(prompt, request, rules.max_tokens, f"{text} {rules}")
            return [list(delta.token_ids) async for delta in deltas]

        return self.runner.run(search())

    def theirs(self, text: str, rules: Rules) -> list[tuple[list[int], float]]:
        from transformers_beams import beams

        return beams(self.model, self.template.render_instruction(text).ids, rules)

    def score(self, text: str, tokens: list[int], rules: Rules) -> float:
        import torch

        prompt = self.template.render_instruction(text).ids
        with torch.no_grad():
            logits = self.model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits, -1)[range(len(tokens)), tokens]
        return logprobs.sum().item() / len(tokens) ** rules.length_penalty

    def compare(self, text: str, rules: Rules) -> str:
        """`same` ids in the same order, a `tie` if the scores are as good as equal, else `different`."""
        ours, theirs = self.ours(text, rules), self.theirs(text, rules)
        if ours == [tokens for tokens, _ in theirs]:
            return "same"
        scores = [self.score(text, tokens, rules) for tokens in ours]
        is_tie = all(abs(one - other) < TIE for one, (_, other) in zip(scores, theirs, strict=True))
        return "tie" if is_tie else "different"


@contextmanager
def both() -> Iterator[Both]:
    with asyncio.Runner() as runner:
        pair = Both(runner)
        yield pair
        runner.run(pair.engine.stop())


@pytest.fixture(scope="module")
def pair() -> Iterator[Both]:
    with both() as pair:
        yield pair


def rules_of(width: int, length_penalty: float, early_stopping: bool | str, **others) -> Rules:
    return Rules(width=width, n=min(width, 4), max_tokens=MAX_TOKENS, length_penalty=length_penalty,
                 early_stopping=early_stopping, stop_token_ids=frozenset({EOS}), **others)  # fmt: skip


def test_results_are_those_of_transformers(pair):
    prompts = pair.prompts()
    assert len(prompts) == len(set(prompts)) == TOPICS + RANDOM
    outcomes = [
        pair.compare(prompt, rules_of(*COMBINATIONS[number % len(COMBINATIONS)]))
        for number, prompt in enumerate(prompts)
    ]
    assert outcomes.count("different") == 0
    assert outcomes.count("same") > 0.9 * len(prompts)


def test_penalised_results_are_those_of_transformers(pair):
    for text in pair.prompts()[::12]:
        template = pair.template.render_instruction(text)
        rules = rules_of(
            4, 1.0, False, repetition_penalty=1.2, prompt_ids=frozenset(template.ids), logit_bias={438: -3.0}
        )
        fields = {"repetition_penalty": 1.2, "logit_bias": {"438": -3.0}}
        assert pair.ours(text, rules, **fields) == [tokens for tokens, _ in pair.theirs(text, rules)]
