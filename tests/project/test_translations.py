"""A page in Chinese says what its English page says: headings, code, tables, defaults, figures, links."""

import re
from dataclasses import dataclass, replace

import pytest

from tests.support.pages import FENCE, cells, dead_links, links, missing_paths
from tests.support.paths import ROOT

OWN_SECTION = re.compile(r"^## 从旧脚本迁移\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
"""What only the Chinese README has: the 2023 script's flags and fields beside today's."""
HEADING = re.compile(r"^(#+) .*$", re.MULTILINE)
DEFAULTS = {"default", "默认值"}
FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
HANZI = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Page:
    name: str
    text: str

    @property
    def prose(self) -> str:
        return FENCE.sub("", self.text)


def read(name: str) -> Page:
    return Page(name, (ROOT / name).read_text(encoding="utf-8"))


CHINESE = sorted(path.name for path in (ROOT / "docs" / "zh").iterdir())
NAMES = {"README_zh.md": "README.md"} | {f"docs/zh/{name}": f"docs/{name}" for name in CHINESE}
PAIRS = [
    pytest.param(read(chinese), read(english), id=chinese) for chinese, english in NAMES.items()
]
both = pytest.mark.parametrize(("chinese", "english"), PAIRS)


def without_own_section(page: Page) -> Page:
    """The page without what its English page need not have; asserts that only the README has that."""
    text, found = OWN_SECTION.subn("", page.text)
    assert found == (page.name == "README_zh.md")
    return replace(page, text=text)


def tables(page: Page) -> list[list[list[str]]]:
    """The cells of a page's tables, by row."""
    blocks = re.findall(r"(?:^\|.*\n?)+", page.prose, re.MULTILINE)
    return [[cells(line) for line in block.splitlines()] for block in blocks]


def code(text: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def figures(text: str) -> list[str]:
    """The numbers of a text, those in links' addresses left out."""
    return FIGURE.findall(re.sub(r"\]\([^)]*\)", "", text))


def test_the_pages_that_a_reader_needs_are_there_in_chinese() -> None:
    needed = {"quickstart.md", "requests.md", "models.md", "operation.md", "scale.md"}
    assert set(CHINESE) == needed


@both
def test_a_page_and_its_chinese_one_link_each_other_at_the_top(
    chinese: Page, english: Page
) -> None:
    folder = chinese.name.rpartition("/")[0]
    at_the_top = [page.text.splitlines()[2] for page in (chinese, english)]
    up = "../" if folder else ""
    assert at_the_top[0] == f"[English]({up}{english.name.rpartition('/')[2]}) | 中文"
    down = "zh/" if folder else ""
    assert at_the_top[1] == f"English | [中文]({down}{chinese.name.rpartition('/')[2]})"


@both
def test_headings_have_the_same_levels_in_order(chinese: Page, english: Page) -> None:
    levels = [HEADING.findall(page.prose) for page in (without_own_section(chinese), english)]
    assert levels[0] == levels[1]
    assert len(levels[0]) > 1


@both
def test_blocks_of_code_are_the_same_in_order(chinese: Page, english: Page) -> None:
    fences = [re.findall(r"^```.*$", page.text, re.MULTILINE) for page in (chinese, english)]
    assert fences[0] == fences[1]
    assert FENCE.findall(chinese.text) == FENCE.findall(english.text) != []


@both
def test_tables_have_the_same_rows_columns_and_names(chinese: Page, english: Page) -> None:
    ours, theirs = tables(without_own_section(chinese)), tables(english)
    assert (
        [[len(row) for row in table] for table in ours]
        == [[len(row) for row in table] for table in theirs]
        != []
    )
    for our_table, their_table in zip(ours, theirs, strict=True):
        for our_row, their_row in zip(our_table, their_table, strict=True):
            assert sorted(code(our_row[0])) == sorted(code(their_row[0]))


@both
def test_defaults_are_the_same(chinese: Page, english: Page) -> None:
    ours, theirs = tables(without_own_section(chinese)), tables(english)
    for our_table, their_table in zip(ours, theirs, strict=True):
        columns = [
            [number for number, header in enumerate(table[0]) if header in DEFAULTS]
            for table in (our_table, their_table)
        ]
        assert columns[0] == columns[1]
        for our_row, their_row in zip(our_table[2:], their_table[2:], strict=True):
            for column in columns[0]:
                our_cell, their_cell = our_row[column], their_row[column]
                assert code(our_cell) == code(their_cell), our_row[0]
                assert figures(our_cell) == figures(their_cell), our_row[0]


def test_defaults_are_found() -> None:
    for name in ("docs/requests.md", "docs/scale.md"):
        assert any("default" in table[0] for table in tables(read(name)))


@both
def test_each_section_and_row_has_the_same_figures_and_code(chinese: Page, english: Page) -> None:
    """In any order and however often: both follow their language."""
    sections = [HEADING.split(page.prose)[::2] for page in (without_own_section(chinese), english)]
    rows = [
        [" | ".join(row) for table in tables(page) for row in table]
        for page in (without_own_section(chinese), english)
    ]
    for ours, theirs in (*zip(*sections, strict=True), *zip(*rows, strict=True)):
        assert {*figures(ours)} == {*figures(theirs)}
        assert {*code(ours)} == {*code(theirs)}


@both
def test_links_lead_to_the_same_pages_or_to_those_in_chinese(chinese: Page, english: Page) -> None:
    twins = {ROOT / english: ROOT / chinese for chinese, english in NAMES.items()}
    targets = []
    for page in (without_own_section(chinese), english):
        files = {target.partition("#")[0] for target in links(page.text) if "://" not in target}
        paths = {((ROOT / page.name).parent / file).resolve() for file in files - {""}}
        pages = {path for path in paths if path.suffix not in {".png", ".svg"}}
        targets.append({twins.get(path, path) for path in pages if path.name != page.name})
    own = {ROOT / chinese.name}  # The line at the top leads to the other language.
    assert targets[0] - own - {*twins} == targets[1] - own
    assert targets[0] & {*twins} <= {ROOT / english.name}


@pytest.mark.parametrize("name", NAMES)
def test_no_link_anchor_or_path_of_a_chinese_page_is_dead(name: str) -> None:
    text = read(name).text
    assert dead_links(name, text) == []
    assert missing_paths(name, text) == []


@pytest.mark.parametrize("name", NAMES)
def test_paragraphs_are_in_chinese_and_their_lines_have_up_to_100_characters(name: str) -> None:
    prose = read(name).prose
    paragraphs = [part for part in HEADING.sub("", prose).split("\n\n") if part.strip()]
    assert [part for part in paragraphs if not HANZI.search(part)] == []
    lines = [line for line in prose.splitlines() if not line.startswith("|") and "://" not in line]
    assert [line for line in lines if len(line) > 100] == []


def test_todays_defaults_beside_those_of_the_old_script_are_the_fields_own() -> None:
    [section] = OWN_SECTION.findall(read("README_zh.md").text)
    today = {
        name: row[1]
        for table in tables(read("docs/requests.md"))
        if table[0][0] == "field"
        for row in table[2:]
        for name in code(row[0])
    }
    compared = 0
    for row in tables(Page("", section))[0][2:]:
        for name in {*code(row[0])} & {*today}:
            assert code(row[2]) == code(today[name]), name
            compared += 1
    assert compared > 15
