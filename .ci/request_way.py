"""The way of a plain chat request through the code, from socket to socket, as docs/architecture.md lists it.

The list names each function that such a request calls, and each class whose fields it needs. It is short enough to be
read in one sitting, which `code_size.py` holds; that it is complete is held by a test that traces such requests.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
HEADING = "### Function by function"
ROW = re.compile(r"^\| `(?P<module>[\w/]+\.py)` \| (?P<names>`.+`) \|$", re.MULTILINE)
MAX_LINES = 1900
"""Lines of code of the way."""


def listed_names() -> dict[str, list[str]]:
    """The listed names by module, in the order of the page; raises ValueError for a name that does not exist."""
    section = PAGE.read_text(encoding="utf-8").split(HEADING)[1].split("\n#")[0]
    return {row["module"]: re.findall(r"`([\w.]+)`", row["names"]) for row in ROW.finditer(section)}


def way_lines(module: str, names: list[str]) -> set[int]:
    """Numbers of the lines of a module that belong to the way.

    These are the listed functions as a whole, the fields of the classes that are listed or whose methods are, and what
    stands at the module's own level, such as imports and constants.
    """
    defined = definitions_of(module)
    unknown = [name for name in names if name not in defined]
    if unknown:
        raise ValueError(f"{PAGE.name} names what is not in {module}: {', '.join(unknown)}")
    wanted = {*names, *(name.rpartition(".")[0] for name in names)}
    lines = set(range(1, len((ROOT / module).read_text(encoding="utf-8").splitlines()) + 1))
    for name, node in defined.items():
        if name not in wanted:
            lines -= span(node)
    return lines


def definitions_of(module: str) -> dict[str, ast.AST]:
    """All functions, classes and methods of a module by their qualified names."""
    return dict(_definitions(ast.parse((ROOT / module).read_text(encoding="utf-8"))))


def _definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """What is defined in a node, but not inside of functions: that is a part of them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{prefix}{child.name}.")


def span(node: ast.AST) -> set[int]:
    """The lines of a definition, its decorators included."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return set(range(first, (node.end_lineno or first) + 1))
