"""The held-out score: greedy answers, right if they contain an accepted text and end by themselves."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM

LONGEST_ANSWER = 512
BATCH = 48


@dataclass(frozen=True)
class Score:
    """Right answers and questions, over all and by topic; the wrong ones to look at."""

    right: int
    questions: int
    by_topic: dict[str, str]
    wrong: list[dict[str, str]]

    @property
    def share(self) -> float:
        return self.right / self.questions


def accepts(accepted: Sequence[str], answer: str) -> bool:
    """Whether `answer` has one of the texts, not as part of a longer number or word."""
    return any(re.search(guarded(text), answer) for text in accepted)


def guarded(text: str) -> str:
    before = r"(?<![A-Za-z0-9])" if re.match(r"[A-Za-z0-9]", text) else ""
    after = r"(?![A-Za-z0-9])" if re.search(r"[A-Za-z0-9]$", text) else ""
    return before + re.escape(text) + after


@torch.inference_mode()
def greedy(model: LlamaForCausalLM, prompts: Sequence[list[int]], eos_id: int) -> list[list[int]]:
    """The answer to each prompt, at most `LONGEST_ANSWER` ids; a finished one ends in `eos_id`."""
    answers: dict[int, list[int]] = {}
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        width = max(len(prompts[at]) for at in chosen)
        padding = [width - len(prompts[at]) for at in chosen]
        ids = torch.tensor(
            [[0] * pad + prompts[at] for pad, at in zip(padding, chosen, strict=True)]
        )
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
        generated = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=LONGEST_ANSWER,
            do_sample=False,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
        )
        for at, row in zip(chosen, generated[:, width:].tolist(), strict=True):
            answers[at] = row[: row.index(eos_id) + 1] if eos_id in row else row
    return [answers[at] for at in range(len(prompts))]


def to_score(topics: Sequence[str], verdicts: Sequence[bool], wrong: list[dict[str, str]]) -> Score:
    asked = Counter(topics)
    right = Counter(topic for topic, verdict in zip(topics, verdicts, strict=True) if verdict)
    by_topic = {topic: f"{right[topic]}/{count}" for topic, count in asked.items()}
    return Score(sum(verdicts), len(verdicts), by_topic, wrong)
