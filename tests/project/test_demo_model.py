"""The demo model's folder: what is committed is what its sources make, and it fits."""

import json
from pathlib import Path

import pytest
from corpus import (
    DialogueWriter,
    Question,
    check_disjoint,
    chinese_names,
    held_out_questions,
    last_messages,
    tokenizer_texts,
)
from report import write_questions
from vocabulary import train_tokenizer

from settings import DEMO_MODEL

FIGURES = json.loads((DEMO_MODEL / "figures.json").read_text(encoding="utf-8"))
DIALOGUES = 3000


def test_the_sources_make_the_committed_tokenizer(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(
        tokenizer_texts(FIGURES["seed"]), chinese_names(), tmp_path / "tokenizer"
    )
    assert tokenizer.read_bytes() == (DEMO_MODEL / "tokenizer.model").read_bytes()


def test_the_sources_make_the_committed_questions(tmp_path: Path) -> None:
    write_questions(tmp_path / "held_out.jsonl", held_out_questions(FIGURES["seed"]))
    assert (tmp_path / "held_out.jsonl").read_bytes() == (
        DEMO_MODEL / "held_out.jsonl"
    ).read_bytes()


def test_training_sees_no_held_out_wording_or_question() -> None:
    questions = held_out_questions(FIGURES["seed"])
    assert len({question.messages[-1]["content"] for question in questions}) >= 300
    writer = DialogueWriter(FIGURES["seed"], frozenset(last_messages(questions)))
    dialogues = [writer.dialogue() for _ in range(DIALOGUES)]
    check_disjoint(questions, dialogues)
    seen = Question("any", (dialogues[0].turns[0],))
    with pytest.raises(ValueError, match="in training"):
        check_disjoint([seen], dialogues)


def test_structured_answers_are_json_and_see_no_held_out_question_either() -> None:
    questions = held_out_questions(FIGURES["seed"])
    writer = DialogueWriter(
        FIGURES["seed"], frozenset(last_messages(questions)), structured_share=1.0
    )
    dialogues = [writer.dialogue() for _ in range(DIALOGUES)]
    check_disjoint(questions, dialogues)
    answers = [
        turn.answer for dialogue in dialogues for turn in dialogue.turns if turn.is_structured
    ]
    assert len(answers) > DIALOGUES / 2
    assert all(isinstance(json.loads(answer), dict) for answer in answers)
    assert any(json.loads(answer).keys() == {"name", "arguments"} for answer in answers)


def test_the_model_is_small_and_has_room() -> None:
    config = json.loads((DEMO_MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] >= 2048
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert sum(file.stat().st_size for file in DEMO_MODEL.rglob("*") if file.is_file()) < 24_000_000
    assert FIGURES["held_out_score"] >= 0.9
    assert FIGURES["minutes"] < 60
