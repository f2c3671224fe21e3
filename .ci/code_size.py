"""Prints lines of code and tokens per line for each folder, and fails where a folder is over its budget.

A line counts if code stands on it: no blanks, comments or docstrings. Tokens are names, numbers, strings and operators,
counted so that a budget of lines is not met by long lines. The way of a plain chat request has a limit of its own.
"""

import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from request_way import MAX_LINES, listed_names, way_lines

ROOT = Path(__file__).parent.parent
COUNTED = (tokenize.OP, tokenize.NAME, tokenize.NUMBER, tokenize.STRING)
SKIPPED = (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT)
MAX_TOKENS_PER_LINE, MAX_LONG_LINES, LONG = 9.0, 0.03, 100
BUDGETS = {"top": 2060, "api": 2340, "prompts": 540, "engine": 2480, "server": 1035, "tools": 365}
"""Lines of code of a folder; raised only in the commit that brings what it is raised for."""


def code_tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens that count; a string that is a whole statement is a docstring and does not."""
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in SKIPPED
    ]
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        begins = before is None or before.type == tokenize.NEWLINE
        is_docstring = (
            token.type == tokenize.STRING
            and begins
            and after is not None
            and after.type == tokenize.NEWLINE
        )
        if token.type in COUNTED and not is_docstring:
            yield token


def lines_of_code(source: str) -> set[int]:
    """The numbers of the lines that count."""
    return {
        line for token in code_tokens(source) for line in range(token.start[0], token.end[0] + 1)
    }


def measure(files: list[Path]) -> tuple[int, int, int]:
    """Lines of code, tokens, and lines of more than `LONG` columns."""
    lines = tokens = long_lines = 0
    for file in files:
        source = file.read_text(encoding="utf-8")
        counted, numbers = list(code_tokens(source)), lines_of_code(source)
        lines, tokens = lines + len(numbers), tokens + len(counted)
        texts = source.splitlines()
        long_lines += sum(len(texts[number - 1]) > LONG for number in numbers)
    return lines, tokens, long_lines


def measure_way() -> int:
    """Lines of code on the way of a plain chat request."""
    return sum(
        len(lines_of_code((ROOT / module).read_text(encoding="utf-8")) & way_lines(module, names))
        for module, names in listed_names().items()
    )


def main() -> int:
    faults = []
    print(f"{'folder':<10}{'lines':>7}{'budget':>8}{'tokens/line':>13}{'over 100':>10}")
    for folder, budget in BUDGETS.items():
        files = sorted(ROOT.glob("*.py") if folder == "top" else (ROOT / folder).rglob("*.py"))
        lines, tokens, long_lines = measure(files)
        print(
            f"{folder:<10}{lines:>7}{budget:>8}{tokens / max(lines, 1):>13.1f}{long_lines / max(lines, 1):>10.1%}"
        )
        if lines > budget:
            faults.append(f"{folder} is over its budget of lines")
        if tokens > MAX_TOKENS_PER_LINE * lines:
            faults.append(f"{folder} has more than {MAX_TOKENS_PER_LINE} tokens a line")
        if long_lines > MAX_LONG_LINES * lines:
            faults.append(
                f"{folder} has more than {MAX_LONG_LINES:.0%} of lines over {LONG} columns"
            )
    way = measure_way()
    print(f"{'way':<10}{way:>7}{MAX_LINES:>8}  of a plain chat request, from socket to socket")
    if way > MAX_LINES:
        faults.append("the way of a plain chat request is too long")
    print("\n".join(faults))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
