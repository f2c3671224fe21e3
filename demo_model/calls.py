"""Dialogues in which the model decides whether to call one of the functions that it is offered, and which.

Unlike the JSON of `structured.py` a call is the model's own choice, so there is loss on all of it, as on an answer in
text where no function fits.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from facts import talks
from functions import (
    KNOWN_FAMILIES,
    SLOT,
    Family,
    Tool,
    draw,
    families,
    in_language,
    is_english,
    offered_families,
    offered_tools,
)
from slots import Value, slot_value
from topics import Turn, arithmetic, talk, unknown_en, unknown_zh, word_en, word_zh
from wordings import HAN, Phraser

from generation import Calls
from prompts import calls as prompt_calls
from prompts.layouts import ALPACA_2_SYSTEM, JSON_LINES

TOOL_COUNTS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5)
EXCHANGE_COUNTS = (1, 2, 3, 4, 5, 6)
"""Questions of a dialogue, besides the turns in which results come back."""
CLAIMED_TOPICS: dict[str, tuple[str, ...]] = {
    "calculator": ("arithmetic",),
    "add": ("arithmetic",),
    "multiply": ("arithmetic",),
    "capital": ("capital_zh", "capital_en", "two_capitals_zh", "country_zh", "country_en"),
    "translate": ("word_en", "word_zh"),
    "sights": ("sights", "sight", "intro"),
}
"""Topics that the model knows, and that a family's functions are for, where there is one."""
NEAR_TOPICS = (word_en, word_zh, arithmetic)
NEAR_SHARE = 0.35
"""The share, among questions that the model knows, of those on topics that a function is for in other dialogues."""
AGENT_SYSTEM_TEXTS = (
    "You are a helpful agent.",
    "You are a helpful assistant. Use the tools when they are needed.",
    "你是一个会使用工具的助手。",
    "你可以使用工具来回答问题。",
    "You are an agent. Answer briefly.",
    "Use the tools.",
    "只在需要时使用工具。",
)
REPEATED_KINDS = (
    "city",
    "person",
    "code",
    "digits",
    "company",
    "title",
    "name",
    "path",
    "fact",
    "clock",
    "n",
    "command",
)
REPEAT = (
    "重复一遍：{x}",
    "请重复：{x}",
    "跟我说：{x}",
    "照着写：{x}",
    "重复：{x}",
    "把这句话重复一遍：{x}",
)
REPEAT_EN = ("Repeat: {x}", "Say this: {x}", "Repeat after me: {x}", "Please repeat this: {x}")
JOINERS = ("，", "，还有", "，另外", "；", "。", "？", "，顺便", "，然后", "，再", "并且")
JOINERS_EN = (" and ", ", and ", ". ", "? ", "; ", ", also ", " and then ")
AGAIN = ("那{x}呢", "{x}呢", "还有{x}", "换成{x}", "{x}也查一下")
AGAIN_EN = ("And {x}", "What about {x}", "How about {x}", "And for {x}")
NO_VALUES: dict[str, Value] = {}


@dataclass(frozen=True)
class Call:
    """A call of an offered function."""

    tool: Tool
    arguments: dict[str, Any]
    shown: dict[str, str]
    """The text of each slot, as questions and answers have it."""

    @property
    def text(self) -> str:
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return prompt_calls.to_call_text(prompt_calls.Call(self.tool.name, arguments), JSON_LINES)


@dataclass(frozen=True)
class CallTurn:
    """A user's message, and the answer: calls or a text."""

    user: str
    answer: str
    topic: str
    calls: tuple[Call, ...] = ()
    accepted: tuple[str, ...] = ()
    """Texts of which a right answer in text contains one."""
    values: tuple[str, ...] = ()
    """Texts all of which a right answer contains: what functions have returned."""

    @property
    def turn(self) -> Turn:
        return Turn(self.topic, self.user, self.answer, self.accepted)


@dataclass(frozen=True)
class CallDialogue:
    """A system text that describes functions, and turns."""

    system_text: str
    """The client's, or the template's default, without the functions."""
    tools: tuple[Tool, ...]
    turns: list[CallTurn] = field(default_factory=list)

    @property
    def functions(self) -> list[dict[str, Any]]:
        return [tool.definition for tool in self.tools]

    @property
    def system(self) -> str:
        """The system text, with the functions at its end."""
        return "\n\n".join(filter(None, (self.system_text, describe_offered(self.functions))))


def describe_offered(functions: Sequence[dict[str, Any]]) -> str:
    """What a system text says of functions that the answer may call."""
    return prompt_calls.describe(
        Calls(tuple(functions), JSON_LINES, is_required=False, is_single=False)
    )


def result_line(name: str, result: str) -> str:
    """What a user's turn says of a function's result."""
    message = prompt_calls.Message("tool", result, function=name)
    return prompt_calls.to_plain_message(message, JSON_LINES).text


def repeat_turn(rng: Random) -> Turn:
    """Ask for a text to be repeated: copying, which calls need, is learnt soonest where an answer is nothing else."""
    english = rng.random() < 0.35
    values = [
        slot_value(rng.choice(REPEATED_KINDS), rng, english=english != (rng.random() < 0.2)).shown
        for _ in range(rng.choice((1, 2, 3, 4, 6, 8)))
    ]
    text = rng.choice((" ", ", ", "; ") if english else ("，", "、", " ")).join(values)
    user = rng.choice(REPEAT_EN if english else REPEAT).format(x=text)
    return Turn("repeat", user, text, (text,))


class CallWriter:
    """Writes dialogues with functions that may be called."""

    def __init__(
        self,
        rng: Random,
        known_turn: Callable[[Phraser], Turn],
        system_texts: Sequence[str],
        *,
        held_out: bool = False,
    ) -> None:
        """`known_turn` writes a turn on a topic of the facts; with `held_out` all texts are those that are held out."""
        self.rng = rng
        self.held_out = held_out
        self.phraser = Phraser(rng, held_out=held_out)
        self.known_turn = known_turn
        self.system_texts = [*system_texts, *AGENT_SYSTEM_TEXTS * 2]

    def dialogue(self) -> CallDialogue:
        """Write a dialogue of some questions, each answered in text or by calls, whose results mostly come back."""
        # Those that the model could answer itself are the hardest to call.
        known = [family for family in offered_families() if family.name in KNOWN_FAMILIES]
        dialogue = self.offer(self.rng.choice([*offered_families(), *known]))
        is_last = False
        for _ in range(self.rng.choice(EXCHANGE_COUNTS)):
            if not is_last:
                is_last = not self._add_exchange(dialogue)
        return dialogue

    def offer(
        self, family: Family, count: int | None = None, *, english: bool | None = None
    ) -> CallDialogue:
        """Begin a dialogue: functions, one of them of `family`, and their system text."""
        if english is None:
            english = self.rng.random() < 0.25
        tools = offered_tools(
            self.rng,
            count or self.rng.choice(TOOL_COUNTS),
            held_out=self.held_out,
            english=english,
            first=family,
        )
        return CallDialogue(self._system_text(), tuple(tools))

    def _system_text(self) -> str:
        chance = self.rng.random()
        if chance < 0.6:
            return ALPACA_2_SYSTEM
        return "" if chance < 0.72 else self.rng.choice(self.system_texts)

    def _add_exchange(self, dialogue: CallDialogue) -> bool:
        """Add a question and its answer; returns whether the dialogue can go on."""
        chance = self.rng.random()
        if chance < 0.45:
            dialogue.turns.append(self.call_turn(dialogue, self._english(dialogue)))
            return self._add_results(dialogue)
        if chance < 0.74:
            dialogue.turns.append(self.known(dialogue))
        elif chance < 0.95:
            dialogue.turns.append(self.unknown(dialogue))
        else:
            turn = talk(self.phraser)
            dialogue.turns.append(to_text_turn(turn))
        return not dialogue.turns[-1].calls or self._add_results(dialogue)

    def _english(self, dialogue: CallDialogue) -> bool:
        """Whether a question is in English: mostly where descriptions are."""
        described = "".join(str(tool.definition["description"]) for tool in dialogue.tools)
        return (not HAN.search(described)) == (self.rng.random() < 0.93)

    def _add_results(self, dialogue: CallDialogue) -> bool:
        if self.rng.random() < 0.25:
            return False
        dialogue.turns.append(self.result_turn(dialogue.turns[-1]))
        last = dialogue.turns[-2]
        if self.rng.random() < 0.15 and len(last.calls) == 1 and len(last.calls[0].shown) == 1:
            dialogue.turns.append(self._again(last.calls[0], is_english(last.user)))
            return self._add_results(dialogue)
        return True

    def call_turn(self, dialogue: CallDialogue, english: bool, count: int = 0) -> CallTurn:
        """Ask for something that offered functions are for; `count` is that of the calls, 0 for any."""
        count = count or self.rng.choice((1, 1, 1, 1, 2, 2, 2, 3))
        tool = self.rng.choice(dialogue.tools)
        if self.held_out and tool.family.name == "search":
            count = 1
        if (
            count == 2
            and (tool.family.pairs.held_out if self.held_out else tool.family.pairs.training)
            and self.rng.random() < 0.6
        ):
            return self._pair_turn(tool, english)
        asked = [self._ask(tool, english)]
        for _ in range(count - 1):
            asked.append(self._ask(self.rng.choice(dialogue.tools), english, is_bare=True))
        joiner = self.rng.choice(JOINERS_EN if english else JOINERS)
        user = joiner.join(text.rstrip("？?。！ ") if count > 1 else text for text, _ in asked)
        return to_call_turn(user, [call for _, call in asked])

    def _ask(self, tool: Tool, english: bool, *, is_bare: bool = False) -> tuple[str, Call]:
        """Phrase a question that one call answers; a bare one mostly has no frame and no noise."""
        family = tool.family
        wording = draw(family.asks, self.rng, held_out=self.held_out, english=english)
        values = self._values(family, english=is_english(wording))
        texts = shown(values)
        if is_bare and self.rng.random() < 0.7:
            return wording.removeprefix("!").format(**texts), to_call(tool, values, wording)
        text = self.phraser.phrase_wording(wording, **texts)
        return text, to_call(tool, values, wording)

    def _pair_turn(self, tool: Tool, english: bool) -> CallTurn:
        """Ask for the same of two: the weather of two cities."""
        family = tool.family
        wording = draw(family.pairs, self.rng, held_out=self.held_out, english=english)
        first = self._values(family, english=is_english(wording))
        second = self._values(family, english=is_english(wording), others=first)
        both = {**shown(first), **{f"{slot}2": value.shown for slot, value in second.items()}}
        user = self.phraser.phrase_wording(wording, **both)
        return to_call_turn(user, [to_call(tool, first, wording), to_call(tool, second, wording)])

    def _again(self, call: Call, english: bool) -> CallTurn:
        """Ask the same about something else: 那上海呢？"""
        values = self._values(call.tool.family, english=english)
        slot = next(iter(call.shown))
        template = self.rng.choice(AGAIN_EN if english else AGAIN)
        mark = self.rng.choice(("", "?" if english else "？"))
        user = template.format(x=values[slot].shown) + mark
        return to_call_turn(user, [to_call(call.tool, values, "{" + slot + "}")])

    def _values(
        self, family: Family, *, english: bool, others: Mapping[str, Value] = NO_VALUES
    ) -> dict[str, Value]:
        """Draw a value for each slot of a family; those of a held-out question differ, from `others` too."""
        values: dict[str, Value] = {}
        taken = [value.shown for value in others.values()]
        for parameter in family.parameters:
            for slot in parameter.slots:
                values[slot] = slot_value(slot, self.rng, english=english)
                while self.held_out and values[slot].shown in taken:
                    values[slot] = slot_value(slot, self.rng, english=english)
                taken.append(values[slot].shown)
        return values

    def result_turn(self, before: CallTurn) -> CallTurn:
        """Write the turn in which the results of calls come back, with an answer that states them."""
        lines: list[str] = []
        answers: list[str] = []
        values: list[str] = []
        english = is_english(before.user)
        for call in before.calls:
            result, answer, stated = self._result(call, english)
            lines.append(result_line(call.tool.name, result))
            answers.append(answer)
            values += stated
        joiner = " " if english else self.rng.choice(("", "", "\n"))
        return CallTurn("\n".join(lines), joiner.join(answers), "result", values=tuple(values))

    def _result(self, call: Call, english: bool) -> tuple[str, str, list[str]]:
        """Write a result as functions return it, as text or JSON, the answer, and what that has to state."""
        family = call.tool.family
        english_result = english != (self.rng.random() < 0.1)
        members: dict[str, Any] = {}
        for key, template in family.results_en if english_result else family.results:
            slot = template[template.index("{") + 1 : template.index("}")]
            drawn = slot_value(slot, self.rng, english=english_result).shown
            members[key] = template.replace("{" + slot + "}", drawn)
        stated = [str(value) for value in members.values()]
        joined = (", " if english_result else "，").join(stated)
        says = [text for text in in_language(family.says, english=english) if _can_say(text, call)]
        answer = self.rng.choice(says).format(result=joined, **call.shown)
        chance = self.rng.random()
        if chance < 0.5:
            return joined, answer, stated
        if chance < 0.62:
            return answer.rstrip("。."), answer, stated
        if self.rng.random() < 0.3:
            members = {**call.arguments, **members}
        if self.rng.random() < 0.5:
            members = {key: _as_number(value) for key, value in members.items()}
        return json.dumps(members, ensure_ascii=False), answer, stated

    def known(self, dialogue: CallDialogue) -> CallTurn:
        """Ask for something that the model knows, and that no offered function is for."""
        families = [tool.family for tool in dialogue.tools]
        claimed = {topic for family in families for topic in CLAIMED_TOPICS.get(family.name, ())}
        while True:
            is_near = self.rng.random() < NEAR_SHARE
            turn = (
                self.rng.choice(NEAR_TOPICS)(self.phraser)
                if is_near
                else self.known_turn(self.phraser)
            )
            if turn.topic.startswith(("unknown", "nonsense")) or turn.topic in claimed:
                continue
            if not any(f.name in ("capital", "sights") and f.claims(turn.user) for f in families):
                return to_text_turn(turn)

    def unknown(self, dialogue: CallDialogue) -> CallTurn:
        """Ask for something that neither the model knows nor an offered function is for, unless it is a search."""
        families = [tool.family for tool in dialogue.tools]
        while True:
            user, can_search = self._unknown_question(families, self._english(dialogue))
            claiming = [f for f in families if f.name != "search" and f.claims(user)]
            search = next((tool for tool in dialogue.tools if tool.family.name == "search"), None)
            if claiming:
                continue
            if search is None:
                answers = talks("unknown.txt")[1 if is_english(user) else 0]
                return CallTurn(user, answers.answer, "unknown", accepted=answers.accepted)
            if can_search:
                query = user.strip("？?。！! ")
                return to_call_turn(
                    user, [to_call(search, {"topic": Value(query, query)}, "{topic}")]
                )

    def _unknown_question(self, offered: Sequence[Family], english: bool) -> tuple[str, bool]:
        """Phrase a question to which the model has no answer; the second value says whether one can be searched for.

        Two of three are for a function that is not among the families `offered`.
        """
        if self.rng.random() < 0.35:
            return (unknown_en if english else unknown_zh)(self.phraser).user, True
        asked = [f for f in families() if f.name not in (*KNOWN_FAMILIES, "search")]
        family = self.rng.choice([f for f in asked if f not in offered])
        return self._ask(Tool(family, {}, ()), english)[0], False


def shown(values: dict[str, Value]) -> dict[str, str]:
    """Return the texts for all slots of a family's wordings."""
    return {slot: value.shown for slot, value in values.items()}


def to_call(tool: Tool, values: dict[str, Value], wording: str) -> Call:
    """Write the call for a wording: its slots are the arguments, as far as the function has a parameter for them."""
    arguments: dict[str, Any] = {}
    for parameter, name in tool.parameters:
        for slot in parameter.slots:
            if "{" + slot + "}" in wording:
                arguments[name] = values[slot].argument
    texts = {slot: value.shown for slot, value in values.items() if "{" + slot + "}" in wording}
    return Call(tool, arguments, texts)


def to_call_turn(user: str, calls: list[Call]) -> CallTurn:
    return CallTurn(user, "\n".join(call.text for call in calls), "call", tuple(calls))


def to_text_turn(turn: Turn) -> CallTurn:
    return CallTurn(turn.user, turn.answer, turn.topic, accepted=turn.accepted)


def _as_number(value: Any) -> Any:
    """Return a text of digits as a number, and all else as it is."""
    is_number = isinstance(value, str) and value.isdecimal() and str(int(value)) == value
    return int(value) if is_number else value


def _can_say(template: str, call: Call) -> bool:
    """Whether an answer's wording has only slots that the call has values for."""
    known = {"result", *call.shown}
    return set(SLOT.findall(template)) <= known
