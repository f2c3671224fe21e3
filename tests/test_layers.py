"""The architecture of the file list: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(ROOT.glob("*.py"))
NAMES = {module.stem for module in MODULES}
ALLOWED_VLLM = {"engine", "answers", "engine_client", "sampling", "dispatch"}
ALLOWED_WEB = {"openai_api_server_vllm", "streaming", "errors", "reading", "middleware", "journal", "operation"}
WAIST_MAY_IMPORT = {"protocol", "errors", "foreign_fields"}
BEFORE_THE_WAIST = ("settings", "protocol", "errors")


def imports(module: Path) -> set[str]:
    """Top-level names of everything a module imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_only_the_engine_imports_vllm(module: Path):
    assert ("vllm" in imports(module)) == (module.stem in ALLOWED_VLLM)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_only_the_edge_imports_the_web_framework(module: Path):
    assert module.stem in ALLOWED_WEB or not imports(module) & {"fastapi", "starlette", "uvicorn"}


def test_the_waist_knows_the_wire_format_and_errors_alone():
    assert imports(ROOT / "generation.py") & NAMES == WAIST_MAY_IMPORT


@pytest.mark.parametrize("name", BEFORE_THE_WAIST)
def test_leaves_import_none_of_us(name: str):
    assert not imports(ROOT / f"{name}.py") & NAMES


def test_the_files_of_a_model_are_read_by_the_flags_alone():
    """So that a start that cannot work ends before anything slow is imported."""
    assert imports(ROOT / "model_files.py") & NAMES == {"settings"}


def test_imports_point_one_way():
    graph = {module.stem: imports(module) & NAMES for module in MODULES}
    while leaves := [name for name, needed in graph.items() if not needed]:
        for leaf in leaves:
            del graph[leaf]
        for needed in graph.values():
            needed.difference_update(leaves)
    assert not graph, f"modules that import each other: {graph}"


def test_only_the_command_reads_the_environment_and_arguments():
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        assert "sys.argv" not in text or module.stem == "openai_api_server_vllm"
        assert "os.environ" not in text or module.stem in {"openai_api_server_vllm", "engine"}
