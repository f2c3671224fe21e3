"""What the demo model is to know: the tables and texts under `facts/`, as typed records."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "facts"

CONTINENTS = {
    "亚洲": "Asia",
    "欧洲": "Europe",
    "非洲": "Africa",
    "北美洲": "North America",
    "南美洲": "South America",
    "大洋洲": "Oceania",
}

ALIASES = {
    "美国": ("美利坚",),
    "the United States": ("the USA", "the US", "America"),
    "the United Kingdom": ("the UK", "Britain", "Great Britain"),
    "阿联酋": ("阿拉伯联合酋长国",),
    "沙特阿拉伯": ("沙特",),
    "the United Arab Emirates": ("the UAE",),
    "the Czech Republic": ("Czechia",),
    "刚果（金）": ("刚果民主共和国",),
    "刚果（布）": ("刚果共和国",),
    "中非": ("中非共和国",),
    "波黑": ("波斯尼亚和黑塞哥维那",),
    "印度尼西亚": ("印尼",),
}


@dataclass(frozen=True)
class Country:
    """A country with its capital and continent, in Chinese and in English."""

    zh: str
    en: str
    capital_zh: str
    capital_en: str
    continent_zh: str

    @property
    def continent_en(self) -> str:
        return CONTINENTS[self.continent_zh]


@dataclass(frozen=True)
class Province:
    """A Chinese unit of province level; `capital_zh` is empty where it has none."""

    zh: str
    en: str
    kind: str
    capital_zh: str
    capital_en: str
    letter: str

    @property
    def brief_zh(self) -> str:
        """The name as people say it: 浙江省 is 浙江, 广西壮族自治区 is 广西."""
        for ending in ("壮族自治区", "回族自治区", "维吾尔自治区", "自治区", "特别行政区"):
            if self.zh.endswith(ending):
                return self.zh.removesuffix(ending)
        return self.zh[:-1]


@dataclass(frozen=True)
class Word:
    """One common word in both languages."""

    zh: str
    en: str


@dataclass(frozen=True)
class Story:
    """A story of a place, with the names it is asked for by."""

    titles: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Place:
    """A city, or West Lake: what it is, what to see and to eat there, and its stories."""

    zh: str
    intro: str
    sights: str
    food: str
    stories: tuple[Story, ...]


@dataclass(frozen=True)
class Sight:
    """A sight and the two sentences that describe it."""

    zh: str
    text: str


@dataclass(frozen=True)
class Talk:
    """One answer for many wordings; `accepted` is what a right answer must contain."""

    name: str
    answer: str
    accepted: tuple[str, ...]
    training: tuple[str, ...]
    held_out: tuple[str, ...]


def rows(name: str) -> list[list[str]]:
    """The rows of a tab-separated table."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line]


def sections(name: str) -> dict[str, list[str]]:
    """The lines of a text file under each of its `@` headings."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("@"):
            lines = found.setdefault(line[1:], [])
        elif line:
            lines.append(line)
    return found


@cache
def countries() -> tuple[Country, ...]:
    return tuple(Country(*row) for row in rows("countries.tsv"))


@cache
def provinces() -> tuple[Province, ...]:
    return tuple(Province(*row) for row in rows("provinces.tsv"))


@cache
def words() -> tuple[Word, ...]:
    return tuple(Word(*row) for row in rows("words.tsv"))


@cache
def sights() -> tuple[Sight, ...]:
    return tuple(Sight(*row) for row in rows("sights.tsv"))


@cache
def places() -> tuple[Place, ...]:
    texts = {heading: lines[0] for heading, lines in sections("stories.txt").items()}
    names = list(dict.fromkeys(heading.split()[0] for heading in texts))
    return tuple(
        Place(
            zh=name,
            intro=texts[f"{name} 简介"],
            sights=texts[f"{name} 景点"],
            food=texts.get(f"{name} 美食", ""),
            stories=tuple(
                Story(tuple(heading.split()[2].split("|")), text)
                for heading, text in texts.items()
                if heading.startswith(f"{name} 故事")
            ),
        )
        for name in names
    )


@cache
def talks(name: str) -> tuple[Talk, ...]:
    return tuple(to_talk(heading, lines) for heading, lines in sections(name).items())


def to_talk(name: str, lines: list[str]) -> Talk:
    """A section whose lines are the answer (`>`), accepted text (`=`), held-out (`~`) and other wordings."""
    marked = {mark: tuple(line[1:] for line in lines if line[0] == mark) for mark in ">=~"}
    training = tuple(line for line in lines if line[0] not in ">=~")
    return Talk(name, marked[">"][0], marked["="], training, marked["~"])
