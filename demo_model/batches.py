"""Dialogues -> batches of ids and labels, in the server's own Alpaca-2 template."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from corpus import Dialogue, Question, Writer, check_disjoint, last_messages

from prompt_template import PromptTemplate
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import ALPACA_2

CONTEXT = 2048
CHAPTER = 96
"""Batches that are written, sorted by length and shuffled together."""
IGNORED = -100
BRACE = 2
"""Tokens of a structured answer that are not learnt: they have its first brace."""


@dataclass(frozen=True)
class Batch:
    """Rows of one length; a label is `IGNORED` where nothing is to be learnt."""

    ids: torch.Tensor
    labels: torch.Tensor


class Renderer:
    """Dialogues -> ids and labels in the Alpaca-2 template."""

    def __init__(self, tokenizer: Path) -> None:
        self.encoder = SentencePieceEncoder(tokenizer)
        self.template = PromptTemplate(ALPACA_2, self.encoder)

    def prompt(self, system: str | None, user: str) -> list[int]:
        head = [] if system is None else [("system", system)]
        return list(self.template.render_chat([*head, ("user", user)]).ids)

    def answer(self, text: str) -> list[int]:
        assert self.encoder.eos_id is not None
        return self.encoder.encode([text, self.encoder.eos_id])

    def row(self, dialogue: Dialogue) -> tuple[list[int], list[int]]:
        """Ids and labels of as many whole turns as the context holds."""
        ids: list[int] = []
        labels: list[int] = []
        system = dialogue.system
        for turn in dialogue.turns:
            prompt, answer = self.prompt(system, turn.user), self.answer(turn.answer)
            if len(ids) + len(prompt) + len(answer) > CONTEXT:
                break
            ids += prompt + answer
            unlearnt = BRACE if turn.is_structured else 0 if turn.learnt else len(answer)
            labels += [IGNORED] * (len(prompt) + unlearnt) + answer[unlearnt:]
            system = ""
        return ids, labels

    def question(self, question: Question) -> list[int]:
        messages = [(message["role"], message["content"]) for message in question.messages]
        return list(self.template.render_chat(messages).ids)


class Corpus:
    """Batches without end, each training message checked against the held-out questions."""

    def __init__(
        self,
        renderer: Renderer,
        questions: list[Question],
        seed: int,
        batch_tokens: int,
        structured: float = 0.0,
    ) -> None:
        self.renderer = renderer
        self.questions = questions
        self.writer = Writer(seed, last_messages(questions), structured)
        self.shuffler = random.Random(seed)
        self.batch_tokens = batch_tokens
        self.tokens = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batches = self.chapter()
            self.shuffler.shuffle(batches)
            yield from batches

    def chapter(self) -> list[Batch]:
        """About `CHAPTER` batches of rows that are nearly equally long."""
        rows: list[tuple[list[int], list[int]]] = []
        dialogues: list[Dialogue] = []
        written = 0
        while written < CHAPTER * self.batch_tokens:
            dialogues.append(self.writer.dialogue())
            rows.append(self.renderer.row(dialogues[-1]))
            written += len(rows[-1][0])
        check_disjoint(self.questions, dialogues)
        rows.sort(key=lambda row: len(row[0]))
        return list(self.cut(rows))

    def cut(self, rows: list[tuple[list[int], list[int]]]) -> Iterator[Batch]:
        chosen: list[tuple[list[int], list[int]]] = []
        for row in rows:
            if chosen and len(row[0]) * (len(chosen) + 1) > self.batch_tokens:
                yield to_batch(chosen)
                chosen = []
            chosen.append(row)
        yield to_batch(chosen)


def to_batch(rows: list[tuple[list[int], list[int]]]) -> Batch:
    width = max(len(ids) for ids, _ in rows)
    ids = [ids + [0] * (width - len(ids)) for ids, _ in rows]
    labels = [labels + [IGNORED] * (width - len(labels)) for _, labels in rows]
    return Batch(torch.tensor(ids), torch.tensor(labels))
