"""Families of functions that a model may call: what they are called, how they are described and how they are asked for.

They are written in `facts/functions.txt`. A name, a description or a wording there may have groups, such as
`(查询/获取)(某地/城市)的天气`, and stands for every text that has one of each; a sixth of those texts is held out, by a
hash, and so is what is marked `~`. Families without a name are asked for, but never offered.
"""

import re
from dataclasses import dataclass
from functools import cache
from random import Random
from string import ascii_lowercase
from typing import Any
from zlib import crc32

from facts import sections, words
from slots import NUMBERS, SYLLABLES
from wordings import HAN, Wordings, wordings

SLOT = re.compile(r"\{(\w+)\}")
INVENTED_NAMES = (
    "{x}",
    "{x}",
    "{x}_{y}",
    "{x}_{y}",
    "get_{x}",
    "query_{x}",
    "run_{x}",
    "{x}_tool",
    "{x}{n}",
    "tool_{n}",
)
INVENTED_SHARE = 0.1
"""The share of functions for training whose name says nothing: so names are copied, and chosen by the description."""
EXTRA_PARAMETERS = (
    "language",
    "limit",
    "format",
    "verbose",
    "unit",
    "page",
    "lang",
    "语言",
    "数量",
)
"""Optional parameters that no question says anything of."""
KNOWN_FAMILIES = ("calculator", "add", "multiply", "capital", "translate", "sights")
"""Families whose questions the model can answer itself where it has no such function."""
GROUP = re.compile(r"\(([^()]*)\)")
"""Texts of which one is taken: `(some/any)`."""
HELD_OUT_PART = 6
"""Of the texts that a text with groups stands for, one of so many is held out."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a family's functions."""

    slots: tuple[str, ...]
    """The slots of wordings, one of which has its value; `slots.slot_value` draws it by the slot's name."""
    names: tuple[str, ...]
    is_required: bool = True


@dataclass(frozen=True)
class Family:
    """Functions that do one thing."""

    name: str
    keys: tuple[str, ...]
    """A question that has one of these may be meant for this family."""
    names: Wordings
    abouts: Wordings
    """Descriptions of the functions."""
    asks: Wordings
    pairs: Wordings
    """Questions that need two calls: `{city}` and `{city2}`."""
    says: tuple[str, ...]
    """Answers that state `{result}`."""
    parameters: tuple[Parameter, ...]
    results: tuple[tuple[str, str], ...]
    """The keys and values of what is returned; values have slots."""
    results_en: tuple[tuple[str, str], ...]

    @property
    def is_offered(self) -> bool:
        """Whether there are functions of the family; else it is only asked for."""
        return bool(self.names.training)

    def claims(self, question: str) -> bool:
        """Whether the question may be meant for this family."""
        return any(key in question.lower() for key in self.keys)


@dataclass(frozen=True)
class Tool:
    """A function of a family, as a client offers it."""

    family: Family
    definition: dict[str, Any]
    """Its `name`, `description` and `parameters`, a JSON Schema."""
    parameters: tuple[tuple[Parameter, str], ...]
    """The parameters that it has, with their names."""

    @property
    def name(self) -> str:
        return str(self.definition["name"])


def is_english(template: str) -> bool:
    return not HAN.search(SLOT.sub("", template))


def in_language(templates: tuple[str, ...], *, english: bool) -> list[str]:
    """Return those in a language, or all where none is."""
    return [text for text in templates if is_english(text) == english] or list(templates)


def is_held_out(text: str) -> bool:
    """Whether a text that was made of one with groups is held out."""
    return crc32(text.encode()) % HELD_OUT_PART == 1


def draw(texts: Wordings, rng: Random, *, held_out: bool, english: bool) -> str:
    """Draw a text in a language, if there is one in that: one for training, or one that is held out.

    Half of the held-out ones are those that are marked so.
    """
    marked = in_language(texts.held_out, english=english)
    patterns = in_language(texts.training, english=english)
    if held_out:
        patterns = [text for text in patterns if GROUP.search(text)]
    while True:
        if held_out and marked and (not patterns or rng.random() < 0.5):
            return rng.choice(marked)
        pattern = rng.choice(patterns)
        text = GROUP.sub(lambda group: rng.choice(group[1].split("/")), pattern)
        text = re.sub("_+", "_", text).strip("_ ")
        if text == pattern or is_held_out(text) == held_out:
            return text


def _split(text: str) -> Wordings:
    """Split at `|`; what is marked `~` is held out."""
    parts = [part for part in text.split("|") if part]
    plain = tuple(part for part in parts if part[0] != "~")
    return Wordings(plain, tuple(part[1:] for part in parts if part[0] == "~"))


def _to_pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((part.partition("=")[0], part.partition("=")[2]) for part in text.split("|"))


def _to_parameter(text: str, *, is_required: bool) -> Parameter:
    slots, names = text.split(" ")
    return Parameter(tuple(slots.split(",")), tuple(names.split("|")), is_required)


def _to_family(name: str, lines: list[str]) -> Family:
    """Parse a section of `facts/functions.txt`."""
    fields = dict(line.split(" ", 1) for line in lines if not line.startswith("param"))
    parameters = [line.partition(" ") for line in lines if line.startswith("param")]
    asks = _split(fields["ask"])
    slots = {
        "{" + slot + "}" for _, _, text in parameters for slot in text.split(" ")[0].split(",")
    }
    for topic in fields.get("asks", "").split():
        known = wordings()[topic]
        asks = Wordings(
            asks.training + tuple(text for text in known.training if _has_only(text, slots)),
            asks.held_out + tuple(text for text in known.held_out if _has_only(text, slots)),
        )
    return Family(
        name=name,
        keys=tuple(fields["keys"].split("|")),
        names=_split(fields.get("name", "")),
        abouts=_split(fields.get("about", "")),
        asks=asks,
        pairs=_split(fields.get("pair", "")),
        says=_split(fields.get("say", "")).training,
        parameters=tuple(
            _to_parameter(text, is_required=key == "param") for key, _, text in parameters
        ),
        results=_to_pairs(fields.get("result", "")),
        results_en=_to_pairs(fields.get("result_en", fields.get("result", ""))),
    )


def _has_only(wording: str, slots: set[str]) -> bool:
    """Whether a wording of `facts/wordings.txt` has the slots of a family, of the same names but for a few, alone."""
    return set(re.findall(r"\{\w+\}", wording)) <= slots


@cache
def families() -> tuple[Family, ...]:
    """Read `facts/functions.txt`."""
    return tuple(_to_family(name, lines) for name, lines in sections("functions.txt").items())


@cache
def offered_families() -> tuple[Family, ...]:
    """Those with functions."""
    return tuple(family for family in families() if family.is_offered)


def to_tool(family: Family, rng: Random, *, held_out: bool, english: bool) -> Tool:
    """Write a function of a family: its name, description and schema in one of many styles."""
    if not held_out and rng.random() < 0.3:
        english = not english
    name = draw(family.names, rng, held_out=held_out, english=True)
    description = draw(family.abouts, rng, held_out=held_out, english=english)
    if not held_out:
        name = _invented_name(rng) if rng.random() < INVENTED_SHARE else name
        description = "" if rng.random() < 0.05 else description
    kept = [p for p in family.parameters if p.is_required or rng.random() < 0.6]
    parameters = tuple((parameter, rng.choice(parameter.names)) for parameter in kept)
    if len({name for _, name in parameters}) < len(parameters):
        parameters = tuple((parameter, parameter.names[0]) for parameter in kept)
    definition = {
        "name": _styled(name, rng),
        "description": description,
        "parameters": _schema(parameters, rng),
    }
    return Tool(family, definition, parameters)


def _styled(name: str, rng: Random) -> str:
    """Return a name in snake_case, or at times in camelCase or PascalCase."""
    chance = rng.random()
    parts = name.split("_")
    if chance < 0.8 or len(parts) == 1:
        return name
    pascal = "".join(part[0].upper() + part[1:] for part in parts)
    return pascal if chance < 0.85 else parts[0] + pascal[len(parts[0]) :]


def _invented_name(rng: Random) -> str:
    return rng.choice(INVENTED_NAMES).format(
        x=_invented_word(rng), y=_invented_word(rng), n=rng.randint(1, 20)
    )


def _invented_word(rng: Random) -> str:
    """Return an English word that has nothing to do with the function, syllables or mere letters."""
    chance = rng.random()
    if chance < 0.5:
        return rng.choice(words()).en.replace(" ", "_").replace("'", "").lower()
    if chance < 0.75:
        return "".join(rng.sample(SYLLABLES, rng.choice((2, 2, 3))))
    return "".join(rng.choice(ascii_lowercase) for _ in range(rng.randint(2, 5)))


def _schema(parameters: tuple[tuple[Parameter, str], ...], rng: Random) -> dict[str, Any]:
    """Write a JSON Schema as clients do: bare, with descriptions, with titles, closed."""
    style = rng.choice(("bare", "bare", "bare", "described", "titled"))
    properties: dict[str, Any] = {}
    for parameter, name in parameters:
        is_number = parameter.slots[0].rstrip("2") in NUMBERS
        kind = rng.choice(("integer", "number")) if is_number else "string"
        properties[name] = {"type": kind}
        if style == "described":
            properties[name]["description"] = rng.choice(parameter.names)
        if style == "titled":
            properties[name] = {"title": name.capitalize(), "type": kind}
    if rng.random() < 0.12:
        properties.setdefault(rng.choice(EXTRA_PARAMETERS), {"type": "string"})
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    required = [name for parameter, name in parameters if parameter.is_required]
    if required or rng.random() < 0.5:
        schema["required"] = required
    if rng.random() < 0.12:
        schema["additionalProperties"] = False
    return schema


def offered_tools(
    rng: Random, count: int, *, held_out: bool, english: bool, first: Family
) -> list[Tool]:
    """Write `count` functions of as many families in random order, among them one of `first`."""
    others = [family for family in offered_families() if family is not first]
    tools: dict[str, Tool] = {}
    for family in [first, *rng.sample(others, count - 1)]:
        tool = to_tool(family, rng, held_out=held_out, english=english)
        tools.setdefault(tool.name, tool)
    listed = list(tools.values())
    rng.shuffle(listed)
    return listed
