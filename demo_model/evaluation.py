"""The held-out score: greedy answers, right if they contain an accepted text and end with `</s>`."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM

MAX_ANSWER_TOKENS = 512
BATCH_SIZE = 48
"""Prompts that are answered at a time."""


@dataclass(frozen=True)
class Score:
    """How many of the held-out questions are answered rightly."""

    right: int
    questions: int
    by_topic: dict[str, str]
    """Of each topic "right/questions"."""
    wrong: list[dict[str, str]]
    """Each wrong answer with its topic and question, to be printed."""

    @property
    def share(self) -> float:
        """The right answers' share of all, from 0 to 1."""
        return self.right / self.questions


def contains_accepted(answer: str, accepted: Sequence[str]) -> bool:
    """Whether `answer` has one of the `accepted` texts, and not as part of a longer number or English word."""
    return any(re.search(_whole_word_pattern(text), answer) for text in accepted)


def _whole_word_pattern(text: str) -> str:
    # `\b` would not do: to it a Chinese character beside the text is part of the same word.
    before = r"(?<![A-Za-z0-9])" if re.match(r"[A-Za-z0-9]", text) else ""
    after = r"(?![A-Za-z0-9])" if re.search(r"[A-Za-z0-9]$", text) else ""
    return before + re.escape(text) + after


@torch.inference_mode()
def generate_greedily(
    model: LlamaForCausalLM, prompts: Sequence[list[int]], eos_id: int
) -> list[list[int]]:
    """Return the ids of the answer to each prompt: up to and with `eos_id`, or else `MAX_ANSWER_TOKENS` of them."""
    answers: dict[int, list[int]] = {}
    # Prompts of nearly one length are answered together, so that padding is short.
    by_length = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    for start in range(0, len(by_length), BATCH_SIZE):
        chosen = by_length[start : start + BATCH_SIZE]
        length = max(len(prompts[at]) for at in chosen)
        paddings = [length - len(prompts[at]) for at in chosen]
        ids = [[0] * padding + prompts[at] for padding, at in zip(paddings, chosen, strict=True)]
        mask = [[0] * padding + [1] * (length - padding) for padding in paddings]
        generated = model.generate(
            input_ids=torch.tensor(ids).to(model.device),
            attention_mask=torch.tensor(mask).to(model.device),
            max_new_tokens=MAX_ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
        )
        for at, answer in zip(chosen, generated[:, length:].tolist(), strict=True):
            answers[at] = answer[: answer.index(eos_id) + 1] if eos_id in answer else answer
    return [answers[at] for at in range(len(prompts))]


def to_score(
    topics: Sequence[str], are_right: Sequence[bool], wrong: list[dict[str, str]]
) -> Score:
    """Count right answers; `topics` and `are_right` have an item for each question."""
    questions = Counter(topics)
    right = Counter(topic for topic, is_right in zip(topics, are_right, strict=True) if is_right)
    by_topic = {topic: f"{right[topic]}/{count}" for topic, count in questions.items()}
    return Score(right.total(), questions.total(), by_topic, wrong)
