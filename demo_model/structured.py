"""Answers as JSON, so that the model can continue what constrained decoding begins.

There is no loss on the first brace: constrained decoding forces it, and a model that had learnt it would answer any
question in JSON.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from topics import Turn

from generation import Calls
from prompts.calls import Call, describe, to_call_text
from prompts.layouts import ALPACA_2_SYSTEM, JSON_LINES

# Keys of JSON objects, by the kind of their values: a sentence, a name, and so on.
LONG_KEYS = (
    "answer",
    "text",
    "reply",
    "content",
    "output",
    "message",
    "summary",
    "reason",
    "description",
    "回答",
    "内容",
)
SHORT_KEYS = (
    "city",
    "capital",
    "name",
    "country",
    "value",
    "result",
    "title",
    "query",
    "location",
    "place",
    "word",
    "城市",
    "首都",
    "名称",
    "答案",
    "结果",
)
NUMBER_KEYS = (
    "number",
    "count",
    "population",
    "id",
    "size",
    "age",
    "year",
    "score",
    "confidence",
    "数量",
)
BOOLEAN_KEYS = ("ok", "is_true", "found", "correct", "known")
LIST_KEYS = ("names", "items", "tags", "cities", "keywords", "列表")
FUNCTION_NAMES = (
    "get_weather",
    "weather",
    "search",
    "visit",
    "lookup",
    "translate",
    "calculate",
    "extract",
    "city_info",
    "final_result",
    "answer",
    "Answer",
    "City",
    "Capital",
    "Person",
    "record",
    "respond",
    "city",
    "get_capital",
)
SHORT_FORMS: dict[str, Callable[[Any], Any]] = {
    "capital_zh": lambda country: country.capital_zh,
    "capital_en": lambda country: country.capital_en,
    "continent_zh": lambda country: country.continent_zh,
    "continent_en": lambda country: country.continent_en,
    "country_zh": lambda country: country.zh,
    "country_en": lambda country: country.en,
    "province": lambda province: province.capital_zh or province.brief_zh,
    "short_name": lambda province: province.short_name,
    "word_en": lambda word: word.en,
    "word_zh": lambda word: word.zh,
    "sum": str,
    "place": lambda place: place.zh,
}
"""The short form of an answer to a question of a kind, made of the turn's subject."""
MAX_ANSWER_CHARACTERS = 120
"""Longer answers are not written as JSON."""


def with_json_answer(turn: Turn, rng: Random) -> tuple[Turn, str | None]:
    """Return the turn with its answer as a JSON object or as a function call.

    The second value is the system text that describes the functions; None without a call.
    """
    count = rng.choice((1, 1, 1, 2, 2, 3))
    members = dict(_member(turn, rng) for _ in range(count))
    answer = json.dumps(members, ensure_ascii=False)
    if rng.random() < 0.6:
        return replace(turn, answer=answer, is_structured=True), None
    names = rng.sample(FUNCTION_NAMES, rng.choice((1, 1, 1, 2, 3)))
    schema = {"type": "object", "properties": {key: {} for key in members}}
    functions = tuple({"name": name, "description": "", "parameters": schema} for name in names)
    call = to_call_text(Call(names[0], answer), JSON_LINES)
    calls = Calls(functions, JSON_LINES, is_required=True, is_single=True)
    called = replace(turn, answer=call, is_structured=True)
    return called, f"{ALPACA_2_SYSTEM}\n\n{describe(calls)}"


def _member(turn: Turn, rng: Random) -> tuple[str, Any]:
    """Choose a key of a JSON object, and a value of the key's type that has to do with the answer where one can."""
    short = turn.answer
    if turn.kind in SHORT_FORMS:
        short = SHORT_FORMS[turn.kind](turn.subject)
    chance = rng.random()
    if chance < 0.4:
        return rng.choice(LONG_KEYS), turn.answer
    if chance < 0.75:
        return rng.choice(SHORT_KEYS), short
    if chance < 0.87:
        key = rng.choice(NUMBER_KEYS)
        return key, turn.subject if turn.kind == "sum" else rng.randint(0, 999)
    if chance < 0.93:
        return rng.choice(BOOLEAN_KEYS), rng.random() < 0.7
    return rng.choice(LIST_KEYS), [short] * rng.randint(1, 2)
