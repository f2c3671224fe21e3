"""Who may know whom: the rules of docs/architecture.md, over everything that a module imports, and that in turn."""

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FOLDERS = ("api", "prompts", "engine", "server", "tools")
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file
    for pattern in ("*.py", *(f"{folder}/*.py" for folder in FOLDERS))
    for file in sorted(ROOT.glob(pattern))
    if file.name != "__init__.py"
}
COMMANDS = {"openai_api_server_vllm", "cluster"}
WEB = {"fastapi", "fastapi_offline", "starlette", "uvicorn"}
LEAVES = ("settings", "protocol", "errors")


def imports(file: Path) -> set[str]:
    """The names of everything that a module imports, wherever it does: of ours the module, else the package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {
        name if name in MODULES else name.split(".")[0] for name in names if name not in FOLDERS
    }


GRAPH = {module: imports(file) - {module} for module, file in MODULES.items()}
"""Without a command that imports itself by its name, by which other processes know it."""


def reached(module: str) -> set[str]:
    """All that a module imports, and that these import in turn."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for name in GRAPH.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting.append(name)
    return found


def folder(module: str) -> str:
    return module.split(".", maxsplit=1)[0] if "." in module else ""


def test_every_folder_is_looked_at() -> None:
    """A folder with modules that this test does not know would be out of every rule."""
    others = {"tests", "benchmarks", "demo_model", "examples", ".ci"}
    found = {
        file.relative_to(ROOT).parts[0] for file in ROOT.glob("*/*.py") if ".venv" not in file.parts
    }
    assert found - others == set(FOLDERS)
    assert len(MODULES) > 35


@pytest.mark.parametrize("module", MODULES)
def test_vllm_is_known_to_the_engine_alone(module: str) -> None:
    assert "vllm" not in GRAPH[module] or folder(module) == "engine"


@pytest.mark.parametrize("module", MODULES)
def test_the_web_framework_is_known_to_the_edge_alone(module: str) -> None:
    if folder(module) not in ("api", "server") and module not in COMMANDS:
        assert not reached(module) & WEB


@pytest.mark.parametrize("module", MODULES)
def test_ray_is_known_to_its_command_alone(module: str) -> None:
    assert "ray" not in GRAPH[module] or module == "cluster"


@pytest.mark.parametrize(
    "module", [module for module in MODULES if folder(module) in ("engine", "prompts")]
)
def test_engine_and_prompts_know_neither_the_wire_format_nor_the_edge(module: str) -> None:
    known = {name for name in reached(module) if name in MODULES and folder(name) != folder(module)}
    assert known <= {"generation", "settings", "errors", "model_files", "adapter_files"}


@pytest.mark.parametrize("module", [module for module in MODULES if folder(module) == "server"])
def test_the_server_does_not_know_the_api(module: str) -> None:
    assert not {name for name in reached(module) if folder(name) in ("api", "engine", "prompts")}


@pytest.mark.parametrize("module", [module for module in MODULES if folder(module) == "tools"])
def test_tools_know_model_files_alone(module: str) -> None:
    known = {name for name in reached(module) if name in MODULES and folder(name) != "tools"}
    assert known <= {"adapter_files", "model_files", "settings"}


@pytest.mark.parametrize("module", MODULES)
def test_no_part_of_the_server_knows_the_tools(module: str) -> None:
    if folder(module) != "tools":
        assert not [name for name in GRAPH[module] if folder(name) == "tools"]


def test_the_interface_knows_none_of_us() -> None:
    assert not GRAPH["generation"] & MODULES.keys()


@pytest.mark.parametrize("module", LEAVES)
def test_leaves_import_none_of_us(module: str) -> None:
    assert not GRAPH[module] & MODULES.keys()


def test_imports_run_one_way() -> None:
    assert [module for module in MODULES if module in reached(module)] == []


def test_the_engines_processes_import_neither_vllm_nor_the_web_first() -> None:
    assert not reached("engine.process") & ({"vllm", "torch", "transformers"} | WEB)


@pytest.mark.parametrize("module", MODULES)
def test_only_the_commands_read_arguments_and_the_environment(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert "sys.argv" not in text or module in COMMANDS
    assert "os.environ" not in text or module in {*COMMANDS, *READERS}


READERS = ("engine.arguments", "engine.fork_server", "engine.process")
"""Modules besides the commands that read the environment."""

PRIVATE_OF_VLLM = (
    "vllm.v1.engine.core_client",
    "vllm.v1.engine.detokenizer",
    "vllm.v1.engine.output_processor",
    "vllm.v1.metrics",
)
"""Modules that vLLM's own documentation does not name."""
DOORS = {
    *("engine.dispatch", "engine.light_client", "engine.request_sender", "engine.step_reader"),
    *("engine.detokenizer", "engine.vllm_contract"),
}


@pytest.mark.parametrize("module", MODULES)
def test_vllms_private_parts_are_behind_a_door(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    uses = [
        name
        for name in PRIVATE_OF_VLLM
        if name in text or f"import {name.rpartition('.')[2]}" in text
    ]
    assert not uses or module in DOORS


TESTS = {
    file.relative_to(ROOT).as_posix(): file
    for pattern in ("*.py", "*/*.py")
    for file in sorted((ROOT / "tests").glob(pattern))
}


@pytest.mark.parametrize("file", TESTS)
def test_no_test_is_imported(file: str) -> None:
    """What tests share is in `tests/support`; of a test and of pytest's own `conftest.py` nobody takes anything."""
    steps = {
        step
        for node in ast.walk(ast.parse(TESTS[file].read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (getattr(node, "module", None) or "", *(alias.name for alias in node.names))
        for step in name.split(".")
    }
    assert not {step for step in steps if step.startswith("test_") or step == "conftest"}


def test_every_test_is_in_a_folder() -> None:
    assert {file for file in TESTS if file.count("/") == 1} == {
        "tests/__init__.py",
        "tests/conftest.py",
    }
    assert len([file for file in TESTS if "/test_" in file]) > 40
