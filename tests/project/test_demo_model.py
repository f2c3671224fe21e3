"""The demo model's folder: what is committed is what its sources make, and it fits."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from corpus import (
    DialogueWriter,
    Question,
    Shares,
    check_disjoint,
    chinese_names,
    held_out_questions,
    last_messages,
    tokenizer_texts,
)
from decisions import held_out_decisions, read_calls, score_decisions
from report import write_decisions, write_questions
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
        FIGURES["seed"], frozenset(last_messages(questions)), Shares(structured=1.0)
    )
    dialogues = [writer.dialogue() for _ in range(DIALOGUES)]
    check_disjoint(questions, dialogues)
    answers = [
        turn.answer for dialogue in dialogues for turn in dialogue.turns if turn.is_structured
    ]
    assert len(answers) > DIALOGUES / 2
    assert all(isinstance(json.loads(answer), dict) for answer in answers)
    assert any(json.loads(answer).keys() == {"name", "arguments"} for answer in answers)


def test_the_sources_make_the_committed_decisions(tmp_path: Path) -> None:
    write_decisions(tmp_path / "held_out_calls.jsonl", held_out_decisions(FIGURES["seed"]))
    assert (tmp_path / "held_out_calls.jsonl").read_bytes() == (
        DEMO_MODEL / "held_out_calls.jsonl"
    ).read_bytes()


def test_training_offers_no_held_out_function_and_its_calls_fit_what_it_offers() -> None:
    decisions = held_out_decisions(FIGURES["seed"])
    assert len(decisions) >= 200
    held_out = [*held_out_questions(FIGURES["seed"]), *(each.question for each in decisions)]
    writer = DialogueWriter(FIGURES["seed"], frozenset(last_messages(held_out)), Shares(calls=1.0))
    check_disjoint(held_out, [writer.dialogue() for _ in range(DIALOGUES)])
    held_out_functions = [function for each in decisions for function in each.functions]
    names = {without_style(function["name"]) for function in held_out_functions}
    descriptions = {function["description"] for function in held_out_functions}
    called = 0
    for _ in range(DIALOGUES):
        dialogue = writer.call_writer.dialogue()
        for tool in dialogue.tools:
            assert without_style(tool.name) not in names
            assert tool.definition["description"] not in descriptions
        for turn in dialogue.turns:
            called += bool(turn.calls)
            calls = read_calls(turn.answer) if turn.calls else []
            assert calls is not None
            for call in calls:
                assert_call_fits(call, dialogue.functions)
    assert called > DIALOGUES / 2


def without_style(name: str) -> str:
    """A name without underscores and case: `getWeather` and `get_weather` are one."""
    return name.replace("_", "").lower()


def assert_call_fits(call: dict[str, Any], functions: list[dict[str, Any]]) -> None:
    schema = next(each["parameters"] for each in functions if each["name"] == call["name"])
    jsonschema.validate(call["arguments"], schema)


def test_a_decision_is_right_by_the_functions_that_are_called() -> None:
    decisions = held_out_decisions(FIGURES["seed"])
    score = score_decisions(decisions, [each.turns[-1].answer for each in decisions])
    assert (score.share, score.wrong) == (1.0, [])
    assert score.arguments_right == score.calls == score.json_valid
    assert (score.results_right, score.texts_right) == (score.results, score.texts)
    call = next(each for each in decisions if each.topic == "call" and each.calls[0]["arguments"])
    other = call.calls[0] | {"arguments": {}}
    assert score_decisions([call], [json.dumps(other)]).right == 1
    assert score_decisions([call], [json.dumps(other)]).arguments_right == 0
    assert score_decisions([call], ["抱歉。"]).right == 0
    assert score_decisions([call], [json.dumps({"name": "f", "arguments": {}})]).right == 0


def test_the_model_is_small_and_has_room() -> None:
    config = json.loads((DEMO_MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] >= 2048
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert sum(file.stat().st_size for file in DEMO_MODEL.rglob("*") if file.is_file()) < 24_000_000
    assert FIGURES["held_out_score"] >= 0.9
    assert FIGURES["held_out_decisions_score"] >= 0.85
    assert FIGURES["minutes"] < 120
