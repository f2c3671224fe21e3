"""Training batches: dialogues as token ids and labels, in the server's own Alpaca-2 template."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from corpus import (
    NO_SHARES,
    Dialogue,
    DialogueWriter,
    Question,
    Shares,
    check_disjoint,
    last_messages,
)
from topics import Turn

from prompt_template import PromptTemplate
from prompts.calls import Message
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import ALPACA_2

CONTEXT_LENGTH = 2048
"""Tokens of the longest example: the model's `max_position_embeddings`."""
BUFFERED_BATCHES = 96
"""How many batches are written at a time, to be sorted by length and then shuffled."""
IGNORE_INDEX = -100
"""The label of a token without loss, as in `torch.nn.functional.cross_entropy`."""
PREFIX_TOKENS = 2
"""Tokens of a structured answer before its first key or value: the space that begins an answer, and `{`."""

Example = tuple[list[int], list[int]]
"""The token ids of a dialogue and their labels, equally many."""


@dataclass(frozen=True)
class Batch:
    """Examples padded to one length: `ids` and `labels` are of shape (examples, tokens)."""

    ids: torch.Tensor
    labels: torch.Tensor
    """The ids that are to be predicted, `IGNORE_INDEX` where there is no loss."""


class DialogueEncoder:
    """Encodes dialogues and questions in the Alpaca-2 template, as the server encodes requests."""

    def __init__(self, model_file: Path) -> None:
        """`model_file`: the SentencePiece model of the tokenizer."""
        self.text_encoder = SentencePieceEncoder(model_file)
        self.template = PromptTemplate(ALPACA_2, self.text_encoder)

    def to_example(self, dialogue: Dialogue) -> Example:
        """Encode as many whole turns as the context holds; loss is on answers only, on structured ones after `{`."""
        ids: list[int] = []
        labels: list[int] = []
        system = dialogue.system
        for turn in dialogue.turns:
            prompt = self._prompt_ids(system, turn.user)
            answer = self._answer_ids(turn.answer)
            if len(ids) + len(prompt) + len(answer) > CONTEXT_LENGTH:
                break
            without_loss = _tokens_without_loss(turn, answer)
            ids += prompt + answer
            labels += [IGNORE_INDEX] * (len(prompt) + without_loss) + answer[without_loss:]
            # The system text stands before the first turn only.
            system = ""
        return ids, labels

    def question_ids(self, question: Question, system: str | None = None) -> list[int]:
        """Encode a held-out question as a prompt for its last answer; `system` None: the template's default."""
        messages = [Message(each["role"], each["content"]) for each in question.messages]
        if system is not None:
            messages.insert(0, Message("system", system))
        return self.template.render_chat(messages).ids

    def to_text(self, answer: list[int]) -> str:
        """Decode an answer, without the id that ends it."""
        return self.text_encoder.decode([i for i in answer if i != self.text_encoder.eos_id])

    def _prompt_ids(self, system: str | None, user: str) -> list[int]:
        messages = [Message("user", user)]
        if system is not None:
            messages.insert(0, Message("system", system))
        return self.template.render_chat(messages).ids

    def _answer_ids(self, text: str) -> list[int]:
        return self.text_encoder.encode([text, self.text_encoder.eos_id])


def _tokens_without_loss(turn: Turn, answer: list[int]) -> int:
    if turn.is_structured:
        return PREFIX_TOKENS
    return 0 if turn.has_loss else len(answer)


class Batches:
    """An endless iterator over batches; no message of theirs is a held-out question's last one."""

    def __init__(
        self,
        encoder: DialogueEncoder,
        questions: list[Question],
        seed: int,
        batch_tokens: int,
        shares: Shares = NO_SHARES,
    ) -> None:
        """`batch_tokens`: the most tokens of a batch, padding included."""
        self.encoder = encoder
        self.questions = questions
        self.writer = DialogueWriter(seed, last_messages(questions), shares)
        self.rng = random.Random(seed)
        self.batch_tokens = batch_tokens
        self.tokens = 0
        """Tokens of the batches so far, padding included: whoever trains on a batch adds its own."""

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batches = self._write_batches()
            self.rng.shuffle(batches)
            yield from batches

    def _write_batches(self) -> list[Batch]:
        """Write about `BUFFERED_BATCHES` batches, each of examples of nearly one length, so that padding is short."""
        examples: list[Example] = []
        dialogues: list[Dialogue] = []
        tokens = 0
        while tokens < BUFFERED_BATCHES * self.batch_tokens:
            dialogue = self.writer.dialogue()
            ids, labels = self.encoder.to_example(dialogue)
            dialogues.append(dialogue)
            examples.append((ids, labels))
            tokens += len(ids)
        check_disjoint(self.questions, dialogues)
        examples.sort(key=lambda example: len(example[0]))
        return list(self._split(examples))

    def _split(self, examples: list[Example]) -> Iterator[Batch]:
        """Split examples, shortest first, into batches of up to `batch_tokens`."""
        chosen: list[Example] = []
        for example in examples:
            padded_tokens = len(example[0]) * (len(chosen) + 1)
            if chosen and padded_tokens > self.batch_tokens:
                yield to_batch(chosen)
                chosen = []
            chosen.append(example)
        yield to_batch(chosen)


def to_batch(examples: list[Example]) -> Batch:
    """Pad examples on the right to the longest one's length."""
    length = max(len(ids) for ids, _ in examples)
    ids = [ids + [0] * (length - len(ids)) for ids, _ in examples]
    labels = [labels + [IGNORE_INDEX] * (length - len(labels)) for _, labels in examples]
    return Batch(torch.tensor(ids), torch.tensor(labels))
