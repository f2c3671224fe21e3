"""Answers as JSON: what constrained decoding asks a model to continue.

The brace that begins one is not learnt, because the decoder puts it there: unasked, the model answers in text.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from topics import Turn

from api.tool_calls import describe, to_call_text
from prompts.layouts import ALPACA_2_SYSTEM
from protocol import Function

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
    *(
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
    ),
    *("城市", "首都", "名称", "答案", "结果"),
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
FLAG_KEYS = ("ok", "is_true", "found", "correct", "known")
LIST_KEYS = ("names", "items", "tags", "cities", "keywords", "列表")
FUNCTIONS = (
    *(
        "get_weather",
        "weather",
        "search",
        "visit",
        "lookup",
        "translate",
        "calculate",
        "extract",
        "city_info",
    ),
    *(
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
    ),
)
SHORT_FORMS: dict[str, Callable[[Any], Any]] = {
    "capital_zh": lambda country: country.capital_zh,
    "capital_en": lambda country: country.capital_en,
    "continent_zh": lambda country: country.continent_zh,
    "continent_en": lambda country: country.continent_en,
    "country_zh": lambda country: country.zh,
    "country_en": lambda country: country.en,
    "province": lambda province: province.capital_zh or province.brief_zh,
    "letter": lambda province: province.letter,
    "word_en": lambda word: word.en,
    "word_zh": lambda word: word.zh,
    "sum": str,
    "place": lambda place: place.zh,
}
LONGEST = 120
"""Characters of an answer that is worth writing as JSON."""


def in_json(turn: Turn, rng: Random) -> tuple[Turn, str | None]:
    """The turn with its answer as JSON, and the system text, if one describes a function that is called."""
    fields = dict(_field(turn, rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 3))))
    arguments = json.dumps(fields, ensure_ascii=False)
    if rng.random() < 0.6:
        return replace(turn, answer=arguments, is_structured=True), None
    names = rng.sample(FUNCTIONS, rng.choice((1, 1, 1, 2, 3)))
    functions = [
        Function(
            name=name,
            description="",
            parameters={"type": "object", "properties": {key: {} for key in fields}},
        )
        for name in names
    ]
    call = to_call_text(names[0], arguments)
    return replace(
        turn, answer=call, is_structured=True
    ), f"{ALPACA_2_SYSTEM}\n\n{describe(functions)}"


def _field(turn: Turn, rng: Random) -> tuple[str, Any]:
    short = SHORT_FORMS[turn.kind](turn.subject) if turn.kind in SHORT_FORMS else turn.answer
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(LONG_KEYS), turn.answer
    if kind < 0.75:
        return rng.choice(SHORT_KEYS), short
    if kind < 0.87:
        return rng.choice(NUMBER_KEYS), turn.subject if turn.kind == "sum" else rng.randint(0, 999)
    if kind < 0.93:
        return rng.choice(FLAG_KEYS), rng.random() < 0.7
    return rng.choice(LIST_KEYS), [short] * rng.randint(1, 2)
