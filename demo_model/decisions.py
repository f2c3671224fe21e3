"""Held-out decisions: requests in held-out wordings, with functions under held-out names and descriptions.

A decision is right if the answer calls the expected functions, in any order, or is a text where none fits.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from calls import CallDialogue, CallTurn, CallWriter, to_text_turn
from corpus import SYSTEM_TEXTS, Question, normalized, random_turn
from evaluation import contains_accepted
from functions import Family, offered_families
from topics import talk
from wordings import Phraser

Write = Callable[["DecisionWriter"], tuple[CallDialogue, CallTurn]]


@dataclass(frozen=True)
class Decision:
    """A held-out request with functions, and what a right answer has."""

    topic: str
    dialogue: CallDialogue
    """The functions and the turns, of which the last one is to be answered after the others."""

    @property
    def turns(self) -> tuple[CallTurn, ...]:
        return tuple(self.dialogue.turns)

    @property
    def system(self) -> str:
        """The system text, with the functions."""
        return self.dialogue.system

    @property
    def system_text(self) -> str:
        """The system text without them."""
        return self.dialogue.system_text

    @property
    def functions(self) -> list[dict[str, Any]]:
        return self.dialogue.functions

    @property
    def question(self) -> Question:
        return Question(self.topic, tuple(turn.turn for turn in self.turns))

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls of a right answer; none if it is a text."""
        calls = self.turns[-1].calls
        return [{"name": call.tool.name, "arguments": call.arguments} for call in calls]

    @property
    def has_results(self) -> bool:
        """Whether results of functions have come back, which the answer is to state."""
        return self.topic == "result"


@dataclass(frozen=True)
class DecisionScore:
    """How many of the held-out decisions are right, and of the answers what else is right."""

    decisions: int
    right: int
    by_topic: dict[str, str]
    """Of each topic "right/decisions"."""
    calls: int
    """Answers that are to be calls."""
    arguments_right: int
    """Those of them whose calls are the expected ones with all their arguments."""
    json_calls: int
    """Answers that begin as a call."""
    json_valid: int
    """Those of them of which each line is JSON, a call of an offered function with its parameters alone."""
    results: int
    """Answers that are to state results."""
    results_right: int
    texts: int
    """Other answers that are to be texts."""
    texts_right: int
    """Those of them that are texts with the right fact."""
    wrong: list[dict[str, str]]

    @property
    def share(self) -> float:
        return self.right / self.decisions


class DecisionWriter:
    """Writes held-out decisions."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.writer = CallWriter(self.rng, random_turn, SYSTEM_TEXTS, held_out=True)

    def english(self) -> bool:
        return self.rng.random() < 0.2

    def call_to(self, family: Family, count: int = 1) -> tuple[CallDialogue, CallTurn]:
        """Ask what a function of `family`, or one besides it, is for."""
        while True:
            english = self.english()
            dialogue = self.writer.offer(family, english=english)
            turn = self.writer.call_turn(dialogue, english, count)
            if count > 1 or turn.calls[0].tool.family is family:
                return dialogue, turn

    def written(self) -> tuple[CallDialogue, CallTurn]:
        return self.call_to(self.rng.choice(offered_families()))

    def two_calls(self) -> tuple[CallDialogue, CallTurn]:
        return self.call_to(self.rng.choice([f for f in offered_families() if f.pairs.held_out]), 2)

    def text(self) -> CallDialogue:
        return self.writer.offer(
            self.rng.choice([f for f in offered_families() if f.name != "search"])
        )

    def known_text(self) -> tuple[CallDialogue, CallTurn]:
        dialogue = self.text()
        return dialogue, self.writer.known(dialogue)

    def talk(self) -> tuple[CallDialogue, CallTurn]:
        return self.text(), to_text_turn(talk(self.writer.phraser))

    def unknown_text(self) -> tuple[CallDialogue, CallTurn]:
        while True:
            dialogue = self.text()
            turn = self.writer.unknown(dialogue)
            if not turn.calls:
                return dialogue, turn

    def result(self) -> tuple[CallDialogue, CallTurn]:
        """Write a turn in which results come back, after the calls."""
        write = self.rng.choice((self.written, self.written, self.two_calls))
        dialogue, turn = write()
        dialogue.turns.append(turn)
        return dialogue, self.writer.result_turn(turn)

    def decision(self, topic: str, write: Write) -> Decision:
        dialogue, turn = write(self)
        if topic != "result" and self.rng.random() < 0.25:
            dialogue.turns.append(to_text_turn(talk(Phraser(self.rng))))
        dialogue.turns.append(turn)
        return Decision(topic, dialogue)


COUNTS: dict[str, tuple[Write, int]] = {
    "call": (DecisionWriter.written, 130),
    "two_calls": (DecisionWriter.two_calls, 25),
    "text": (DecisionWriter.known_text, 50),
    "text_talk": (DecisionWriter.talk, 15),
    "text_unknown": (DecisionWriter.unknown_text, 25),
    "result": (DecisionWriter.result, 40),
}
"""The name of each topic in the score, and how many held-out decisions there are on it."""


def held_out_decisions(seed: int) -> list[Decision]:
    """Write the held-out decisions, no last message twice."""
    writer = DecisionWriter(seed)
    decisions: dict[str, Decision] = {}
    for topic, (write, count) in COUNTS.items():
        wanted = len(decisions) + count
        while len(decisions) < wanted:
            decision = writer.decision(topic, write)
            decisions.setdefault(normalized(decision.turns[-1].user), decision)
    return list(decisions.values())


def read_calls(answer: str) -> list[dict[str, Any]] | None:
    """Return the calls of an answer, a line each; None if a line is none."""
    try:
        calls = [json.loads(line) for line in answer.strip().splitlines()]
    except ValueError:
        return None
    is_valid = all(
        isinstance(call, dict)
        and call.keys() == {"name", "arguments"}
        and isinstance(call["arguments"], dict)
        for call in calls
    )
    return calls if is_valid else None


def is_call(answer: str) -> bool:
    """Whether an answer begins as a call: so the server decides."""
    return answer.strip().startswith("{")


def named(answer: str) -> list[str]:
    """Return the names of the functions that an answer calls, sorted, be the arguments JSON or not."""
    lines = [line.split('"name": "') for line in answer.splitlines()]
    return sorted(parts[1].partition('"')[0] for parts in lines if len(parts) > 1)


def is_decision_right(decision: Decision, answer: str) -> bool:
    if not decision.calls:
        return not is_call(answer)
    return is_call(answer) and named(answer) == sorted(call["name"] for call in decision.calls)


def _key(call: dict[str, Any]) -> str:
    return json.dumps(call, sort_keys=True)


def are_arguments_right(decision: Decision, answer: str) -> bool:
    calls = read_calls(answer)
    return calls is not None and sorted(map(_key, calls)) == sorted(map(_key, decision.calls))


def are_calls_valid(decision: Decision, answer: str) -> bool:
    """Whether each line is a call of an offered function with parameters of its, all required ones among them."""
    schemas = {each["name"]: each["parameters"] for each in decision.functions}
    return all(
        call["name"] in schemas
        and call["arguments"].keys() <= schemas[call["name"]]["properties"].keys()
        and call["arguments"].keys() >= set(schemas[call["name"]].get("required", ()))
        for call in read_calls(answer) or [{"name": "", "arguments": {}}]
    )


def is_text_right(decision: Decision, answer: str) -> bool:
    """Whether a text has what it is to say: an accepted fact, or all results."""
    last = decision.turns[-1]
    if is_call(answer):
        return False
    if decision.has_results:
        return all(contains_accepted(answer, [value]) for value in last.values)
    return contains_accepted(answer, last.accepted)


def score_decisions(decisions: Sequence[Decision], answers: Sequence[str]) -> DecisionScore:
    """Count what is right; an answer for each decision."""
    pairs = list(zip(decisions, answers, strict=True))
    are_right = [is_decision_right(decision, answer) for decision, answer in pairs]
    counts = Counter(decision.topic for decision in decisions)
    right = Counter(d.topic for d, is_right in zip(decisions, are_right, strict=True) if is_right)
    calls = [pair for pair in pairs if pair[0].calls]
    made = [pair for pair in pairs if is_call(pair[1])]
    results = [pair for pair in pairs if pair[0].has_results]
    texts = [pair for pair in pairs if not pair[0].calls and not pair[0].has_results]
    fully_right = [
        are_arguments_right(d, answer) if d.calls else is_text_right(d, answer)
        for d, answer in pairs
    ]
    return DecisionScore(
        decisions=len(pairs),
        right=sum(are_right),
        by_topic={topic: f"{right[topic]}/{count}" for topic, count in counts.items()},
        calls=len(calls),
        arguments_right=sum(are_arguments_right(*pair) for pair in calls),
        json_calls=len(made),
        json_valid=sum(are_calls_valid(*pair) for pair in made),
        results=len(results),
        results_right=sum(is_text_right(*pair) for pair in results),
        texts=len(texts),
        texts_right=sum(is_text_right(*pair) for pair in texts),
        wrong=[
            _wrong(decision, answer, is_right=is_right)
            for (decision, answer), is_right, is_full in zip(
                pairs, are_right, fully_right, strict=True
            )
            if not is_full
        ],
    )


def _wrong(decision: Decision, answer: str, *, is_right: bool) -> dict[str, str]:
    last = decision.turns[-1]
    return {
        "topic": decision.topic,
        "decision": "right" if is_right else "wrong",
        "question": last.user,
        "functions": " ".join(each["name"] for each in decision.functions),
        "expected": last.answer,
        "answer": answer,
    }
