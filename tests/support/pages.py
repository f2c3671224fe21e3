"""What stands on a page of the documentation (Markdown), and what it names that is not there."""

import re

from tests.support.paths import ROOT

FENCE = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(
    r"(?:\.?[\w-]+/)*\.?[\w-][\w.-]*\.(?:py|md|toml|txt|ya?ml|mjs|html|jinja|tsv|jsonl|png)|(?:[\w-]+/)+"
)
"""What looks like a file or folder of this repository; a model's files (`config.json`) do not."""
UNDER_A_FOLDER = re.compile(r"(\.?[\w-]+)/[\w./-]+")
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()} - {".venv"}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def anchors(text: str) -> set[str]:
    """What a link may name on a page: its headings as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def spans(text: str) -> list[str]:
    """The words of a page's inline code and blocks."""
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    return [
        word.strip("\"'(),:;") for span in (*inline, *FENCE.findall(text)) for word in span.split()
    ]


def links(text: str) -> list[str]:
    """The targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text))


def dead_links(page: str, text: str) -> list[str]:
    """Links to a file that does not exist, or to a heading that its page does not have."""
    dead = []
    for target in links(text):
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        if not target.startswith("https://") and (
            not path.exists()
            or (anchor and anchor not in anchors(path.read_text(encoding="utf-8")))
        ):
            dead.append(target)
    return dead


def missing_paths(page: str, text: str) -> list[str]:
    """What looks like a path of this repository, and is none from its root or from the page's folder."""
    missing = []
    for word in spans(text):
        under = UNDER_A_FOLDER.fullmatch(word)
        named = PATH.fullmatch(word) or (under and under[1] in FOLDERS)
        if named and not any((base / word).exists() for base in (ROOT, (ROOT / page).parent)):
            missing.append(word)
    return missing
