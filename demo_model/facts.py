"""The facts that the demo model is trained on: the tables and texts under `facts/`, as records."""

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
"""Chinese name -> English name."""

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
"""A country's name in `facts/countries.tsv` -> other names that questions have for it."""


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
    """A division of China at the level of provinces."""

    zh: str
    en: str
    kind: str
    """What its capital is called (省会, 首府), or, where it has none, what it is itself (直辖市, 特别行政区)."""
    capital_zh: str
    """Empty, as `capital_en`, where it has none."""
    capital_en: str
    short_name: str
    """Its 简称, one character."""

    @property
    def brief_zh(self) -> str:
        """The name without its kind: 浙江 for 浙江省, 广西 for 广西壮族自治区."""
        for ending in ("壮族自治区", "回族自治区", "维吾尔自治区", "自治区", "特别行政区"):
            if self.zh.endswith(ending):
                return self.zh.removesuffix(ending)
        return self.zh[:-1]


@dataclass(frozen=True)
class Word:
    """A common word in both languages."""

    zh: str
    en: str


@dataclass(frozen=True)
class Story:
    """A story of a place, and the titles by which it can be asked for."""

    titles: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Place:
    """A city, or West Lake: its introduction, sights, food (empty for none) and stories."""

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
    """A fixed answer to questions that are worded in many ways."""

    name: str
    answer: str
    accepted: tuple[str, ...]
    """Texts of which a right answer contains one."""
    training: tuple[str, ...]
    held_out: tuple[str, ...]


def rows(name: str) -> list[list[str]]:
    """Read the rows of a tab-separated table under `facts/`."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line]


def sections(name: str) -> dict[str, list[str]]:
    """Read a text file under `facts/`: each heading (a line with `@`) -> the lines that follow it."""
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
    """Read `facts/stories.txt`, with headings such as 杭州 简介 and 杭州 故事 白娘子和许仙|白娘子."""
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
    """Read the talks of a text file under `facts/`."""
    return tuple(_to_talk(heading, lines) for heading, lines in sections(name).items())


def _to_talk(name: str, lines: list[str]) -> Talk:
    """Parse a section: its answer (`>`), accepted texts (`=`), held-out wordings (`~`), and training wordings."""
    marked = {mark: tuple(line[1:] for line in lines if line[0] == mark) for mark in ">=~"}
    training = tuple(line for line in lines if line[0] not in ">=~")
    return Talk(name, marked[">"][0], marked["="], training, marked["~"])
