"""The pages say what is: flags, fields, codes and metrics in tables, curl lines, paths, links, modules, figures."""

import ast
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from api.responses_protocol import ResponsesRequest
from cluster import ClusterSettings
from protocol import ChatCompletionRequest, CompletionRequest, GenerationFields
from server.console import banner
from settings import DEMO_MODEL, AdapterModule, Settings
from tests.support.described_fields import (
    NUMBER,
    Schema,
    all_fields,
    limits,
    needed_limits,
    parts,
    request_bodies,
    stated_limits,
)
from tests.support.loaded import LOADED
from tests.support.pages import FENCE, cells, dead_links, missing_paths, spans
from tests.support.paths import ROOT
from tests.support.replies import events
from tests.support.server_process import Server
from tests.support.vllm_flags import vllm_flags

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
}
FURTHER_PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("benchmarks/README.md", "demo_model/README.md")
}
ALL_PAGES = PAGES | FURTHER_PAGES
CURL_LINES = [
    block
    for text in ALL_PAGES.values()
    for block in FENCE.findall(text)
    if block.startswith("curl ")
]
PICTURES = sorted((ROOT / "docs" / "images").iterdir())
NO_DEFAULTS: tuple[object, ...] = (None, "", [], {}, ())

NO_MODULES = {"tests", "benchmarks", "demo_model", "examples", "node_modules", "build"}
MODULES = sorted(
    path
    for path in (file.relative_to(ROOT) for file in ROOT.rglob("*.py"))
    if path.name != "__init__.py"
    and not any(part in NO_MODULES or part.startswith(".") for part in path.parts)
)

OTHER_PROGRAMS_FLAGS = {
    *("--program", "--check", "--rounds", "--unix-socket", "--schema", "--scheme"),
    *("--dry-run", "--from-literal", "--head", "--generate"),
    *("--rust-frontend", "--loads", "--no-deps", "--install", "--local_dir", "--local-dir"),
    *("--add-host", "--now", "--system", "--cacert", "--ignore-eos"),
}
CODE_POSITIONS = {"APIError": None, "bad_request": 2, "unavailable": 1}
"""Where the functions that make an error take its code, if not by name alone."""


@dataclass(frozen=True)
class Row:
    page: str
    header: str
    """Of the table's first column."""
    cells: list[str]

    @property
    def names(self) -> list[str]:
        return re.findall(r"`([^`]+)`", self.cells[0])


def rows(header: str) -> list[Row]:
    """The rows of all tables whose first column has that header, on any page."""
    found, current = [], None
    for page, text in ALL_PAGES.items():
        for line in FENCE.sub("", text).splitlines():
            if not line.startswith("|"):
                current = None
            elif current is None:
                current = cells(line)[0]
            elif current == header and not line.startswith("|---"):
                found.append(Row(page, header, cells(line)))
    return found


def named(header: str) -> dict[str, Row]:
    """The rows by the names in their first cells; asserts that none is there twice."""
    found = [(name, row) for row in rows(header) for name in row.names]
    assert len({name for name, _ in found}) == len(found), f"a {header} stands in two rows"
    return dict(found)


def shapes(drawing: Path) -> list[tuple[str, dict[str, str]]]:
    """What an SVG draws, without its words."""
    tree = ElementTree.fromstring(drawing.read_text(encoding="utf-8"))
    return [(each.tag, {**each.attrib}) for each in tree.iter()]


def our_flags() -> set[str]:
    """The server's own flags, those that are on or off in both forms."""
    found = {"--config"}
    for setting in fields(ClusterSettings):
        name = setting.name.replace("_", "-")
        found.add(f"--{name}")
        if isinstance(getattr(ClusterSettings(), setting.name), bool):
            found.add(f"--no-{name}")
    return found


def codes() -> Iterator[str]:
    """The codes of errors, as the modules make them."""
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in CODE_POSITIONS
            ):
                position = CODE_POSITIONS[node.func.id]
                given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                given += node.args[position : position + 1] if position else []
                yield from (
                    value.value
                    for value in given
                    if isinstance(value, ast.Constant)
                    and isinstance(value.value, str)
                    and value.value
                )


def fields_of(model: type[GenerationFields]) -> set[str]:
    """The fields of a body; of a response's those that it declares itself, for the others are a completion's."""
    if model is ResponsesRequest:
        return {*ResponsesRequest.__annotations__}
    return {*model.model_fields}


@pytest.mark.parametrize("setting", fields(ClusterSettings), ids=lambda setting: setting.name)
def test_every_flag_stands_in_one_table_with_its_default(setting: Field[Any]) -> None:
    default = getattr(ClusterSettings(), setting.name)
    cell = named("flag")["--" + setting.name.replace("_", "-")].cells[1]
    if setting.name == "model":
        assert cell == "the demo model"
    elif isinstance(default, bool):
        assert cell == ("on" if default else "off")
    elif setting.name == "replicas":
        assert cell == "`1`"
    elif isinstance(default, tuple) and default:
        assert json.loads(cell.strip("`")) == list(default)
    elif default not in NO_DEFAULTS:
        assert cell == f"`{default}`"
    elif setting.name == "override_generation_config":
        assert cell == "`{}`"


@pytest.mark.parametrize(
    ("model", "header"),
    [
        (CompletionRequest, "field"),
        (ChatCompletionRequest, "field"),
        (ResponsesRequest, "field of a response"),
    ],
)
def test_every_request_field_stands_in_one_table_with_its_default(
    model: type[GenerationFields], header: str
) -> None:
    table = named(header)
    for name in fields_of(model):
        field = model.model_fields[name]
        cell = table[name].cells[1]
        if field.is_required():
            assert cell == "required"
        elif field.default_factory is not None:
            assert cell == "none", name
        elif isinstance(field.json_schema_extra, dict) and "default" in field.json_schema_extra:
            assert cell == f"`{field.json_schema_extra['default']}`", name
        elif isinstance(field.default, bool):
            assert cell in (f"`{str(field.default).lower()}`", "none"), name
        elif field.default not in NO_DEFAULTS or field.default == 0:
            assert cell == f"`{field.default}`", name
        else:
            assert cell in ("none", "the served model", "`--raw-completions`"), name


def test_no_table_tells_of_a_flag_or_field_that_does_not_exist() -> None:
    flags = our_flags()
    assert set(named("flag")) == flags
    assert set(named("field")) == {
        *CompletionRequest.model_fields,
        *ChatCompletionRequest.model_fields,
    }
    assert set(named("field of a response")) == fields_of(ResponsesRequest)


@pytest.fixture
def document(serve: Callable[..., TestClient]) -> Schema:
    """`/openapi.json` with all endpoints."""
    client = serve(allow_lora_updates=True)
    found: Schema = client.get("/openapi.json").json()
    return found


def test_every_field_of_a_body_is_described_with_its_limits(document: Schema) -> None:
    bodies = request_bodies(document)
    assert len(bodies) == 7
    for body in bodies.values():
        for name, field in all_fields(document, body).items():
            said = " ".join(field["description"].split())
            assert len(said.split()) > 1, name
            assert said.endswith("."), name
            assert needed_limits(field) <= stated_limits(said) <= limits(field), name


def test_every_field_of_a_reply_and_every_parameter_of_a_path_is_described(
    document: Schema,
) -> None:
    for name, schema in document["components"]["schemas"].items():
        for field, properties in schema["properties"].items():
            assert properties["description"].endswith((".", ":")), (name, field)
    operations = [each for path in document["paths"].values() for each in path.values()]
    for operation in operations:
        assert operation["description"]
        assert all(parameter["description"] for parameter in operation.get("parameters", ()))


def test_what_a_description_names_exists(document: Schema) -> None:
    """Fields of the same body or of replies, values, flags, codes and paths, each of them marked as code."""
    schemas, bodies = document["components"]["schemas"], request_bodies(document)
    known = {"true", "false", "null", *codes()}
    for part in parts(schemas):
        if isinstance(part, dict):
            known |= {
                each for each in (part.get("const"), *part.get("enum", ())) if str(each) == each
            }
    known |= {field for name in schemas.keys() - bodies for field in schemas[name]["properties"]}
    flags = our_flags() | vllm_flags()
    sent: set[str] = set()
    for body in bodies.values():
        fields = all_fields(document, body)
        names = {name.rpartition(".")[2] for name in fields}
        sent |= names
        for name, field in fields.items():
            check_names(name, field["description"], known | names, flags, document["paths"])
    for name, schema in schemas.items():
        for field in schema["properties"].values():
            check_names(name, field["description"], known | sent, flags, document["paths"])


def check_names(
    where: str, description: str, known: set[str], flags: set[str], paths: Schema
) -> None:
    """Assert that what a description has as code is known, and that it has no name of a field outside of code."""
    assert not re.findall(r"\b[a-z]+_[a-z_]+\b", re.sub(r"`[^`]+`", "", description)), where
    for code in re.findall(r"`([^`]+)`", description):
        name = re.sub(r"\[\d+\]", "", code)
        if name.startswith("--"):
            assert name.split()[0] in flags, where
        elif name.startswith("/"):
            assert name in paths, where
        elif re.fullmatch(r"[a-z][a-z_.]*", name):
            assert name in known or known.issuperset(name.split(".")), (where, name)


@pytest.mark.parametrize(
    ("bodies", "header"),
    [
        (("CompletionRequest", "ChatCompletionRequest"), "field"),
        (("ResponsesRequest",), "field of a response"),
    ],
)
def test_the_tables_of_fields_state_the_limits_of_the_schema(
    document: Schema, bodies: tuple[str, ...], header: str
) -> None:
    described = [request_bodies(document)[body]["properties"] for body in bodies]
    for name, row in named(header).items():
        beside = [fields[each] for each in row.names for fields in described if each in fields]
        allowed = set().union(*map(limits, beside))
        declared = [fields[name] for fields in described if name in fields]
        needed = set().union(*map(needed_limits, declared))
        assert needed <= stated_limits(row.cells[2]) <= allowed, name


def test_the_pages_hints_say_one_thing_in_both_languages_within_the_schemas_limits(
    document: Schema,
) -> None:
    source = (ROOT / "page" / "parameters.js").read_text(encoding="utf-8")
    hints = re.findall(
        r'^  (\w+): \["[^"]*", "[^"]*", "([^"]*)", "([^"]*)"\],$', source, re.MULTILINE
    )
    assert len(hints) == source.split("};")[0].count(": [") > 25
    known = request_bodies(document)["ChatCompletionRequest"]["properties"]
    for name, chinese, english in hints:
        assert re.findall(NUMBER, chinese) == re.findall(NUMBER, english), name
        assert stated_limits(chinese) == stated_limits(english) <= limits(known[name]), name


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_flag_that_a_page_names_exists(page: str) -> None:
    ours = our_flags()
    words = {word.split("=")[0] for word in spans(ALL_PAGES[page]) if re.match(r"--[a-z]", word)}
    assert words <= ours | vllm_flags() | OTHER_PROGRAMS_FLAGS


def test_every_code_of_an_error_stands_in_a_table() -> None:
    assert set(named("code")) == set(codes())


def test_every_metric_stands_in_a_table() -> None:
    source = "".join((ROOT / module).read_text(encoding="utf-8") for module in MODULES)
    made = re.findall(r'\b(Counter|Gauge|Histogram)\(\s*"(\w+)"', source)
    counted = {name + "_total" * (kind == "Counter") for kind, name in made}
    assert {name for name in named("metric") if not name.startswith("vllm:")} == counted


def test_the_figures_of_the_demo_model_are_those_of_its_training() -> None:
    figures = json.loads((DEMO_MODEL / "figures.json").read_text(encoding="utf-8"))
    text = " ".join(PAGES["README.md"].split("## The demo model")[1].split("## ")[0].split())
    right, questions, score = (
        figures["held_out_right"],
        figures["held_out_questions"],
        100 * figures["held_out_score"],
    )
    assert f"{right} of {questions} held-out questions rightly ({score:.1f} %)" in text
    assert f"{figures['parameters']:,} parameters ({figures['bytes'] / 1e6:.1f} MB)" in text
    assert f"{figures['minutes']:.0f} minutes" in text
    assert figures["bytes"] == (DEMO_MODEL / "model.safetensors").stat().st_size


def test_the_figures_of_the_speed_are_those_of_the_benchmark() -> None:
    measured = {tuple(row.cells[:7]) for row in rows("load")}
    table = rows("demo model, 2 CPU cores")
    assert len(table) > 5
    for row in table:
        *figures, ratio, rust, ratio_to_rust = row.cells
        assert (*figures, f"**{ratio}**", rust, f"**{ratio_to_rust}**") in measured


def test_every_line_of_the_banner_is_explained() -> None:
    settings = Settings(host="0.0.0.0", lora_modules=[AdapterModule("poet", "/adapters/poet")])
    shown = banner(settings, replace(LOADED, adapter_templates={"poet": "alpaca-2"}))
    labels = set(re.findall(r"^  (\w+(?: \w+)?)  ", shown, re.MULTILINE))
    assert set(named("line")) == labels | {"network"}  # which a machine without a network lacks


def test_every_module_stands_in_the_architecture() -> None:
    table = named("module")
    assert {row.page for row in table.values()} == {"docs/architecture.md"}
    assert set(table) == {module.as_posix() for module in MODULES}


def test_every_row_of_the_features_is_seen_by_a_test_that_exists() -> None:
    features = rows("feature")
    assert len(features) > 20
    assert {row.page for row in features} == {"README.md"}
    for row in features:
        seen_by = re.fullmatch(r"`(\w+/test_\w+\.py)::(test_\w+)`", row.cells[2])
        assert seen_by is not None, row.cells[0]
        file, name = seen_by.groups()
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), row.cells[0]


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    assert missing_paths(page, ALL_PAGES[page]) == []


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    assert dead_links(page, ALL_PAGES[page]) == []


def test_every_page_of_docs_is_linked_from_readme() -> None:
    for page in PAGES:
        assert page == "README.md" or f"]({page})" in PAGES["README.md"], page


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_a_page_have_up_to_120_columns(page: str) -> None:
    prose = [line for line in FENCE.sub("", PAGES[page]).splitlines() if not line.startswith("|")]
    assert max(map(len, prose)) <= 120


def test_what_the_page_of_clients_shows_in_bold_stands_in_their_tests() -> None:
    programs = [path for path in (ROOT / "tests" / "clients").glob("*.*") if path.is_file()]
    words = {
        word for path in programs for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))
    }
    cells_of_all = " ".join(" ".join(row.cells[1:]) for row in rows("library"))
    bold = re.findall(r"\*\*`(.+?)`\*\*", cells_of_all)
    assert len(bold) > 20
    for code in bold:
        assert {*re.findall(r"\w+", code)} - {"NAME"} <= words, code


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_target_of_make_that_a_page_names_exists(page: str) -> None:
    [targets] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    code = "\n".join((*FENCE.findall(ALL_PAGES[page]), *re.findall(r"`[^`]+`", ALL_PAGES[page])))
    assert {*re.findall(r"^`?make ([a-z-]+)", code, re.MULTILINE)} <= {*targets.split()}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_every_picture_is_small_and_stands_in_the_readme_of_its_language(picture: Path) -> None:
    assert picture.stat().st_size < 300_000
    readme = "README_zh.md" if ".zh." in picture.name else "README.md"
    if readme in PAGES:
        assert f"](docs/images/{picture.name})" in PAGES[readme]
    other = picture.with_name(picture.name.replace(".zh.", "."))
    if picture.suffix == ".svg":
        assert shapes(picture) == shapes(other)
    else:
        assert picture.read_bytes()[:24] == other.read_bytes()[:24]  # of one size, as PNG


def test_the_versions_that_are_promised_are_those_of_the_project() -> None:
    text = PAGES["docs/versioning.md"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    major = int(project["version"].split(".")[0])
    assert f"\n## What {major}.0.0 promises\n" in text
    assert f"Until {major + 1}.0.0" in text
    [(pinned,)] = [re.findall(r"^vllm==(.*?)\.\d+$", (ROOT / "requirements.txt").read_text(), re.M)]
    assert f"now {pinned}." in text
    [(oldest, beyond)] = [
        each
        for line in project["dependencies"]
        for each in re.findall(r"^vllm>=(.*),<0\.(.*)$", line)
    ]
    assert f"Versions {oldest}\nto 0.{int(beyond) - 1} are allowed" in text


def test_the_newest_entry_of_the_changelog_is_the_version() -> None:
    source = "".join((ROOT / module).read_text(encoding="utf-8") for module in MODULES)
    [version] = re.findall(r'^VERSION = "(.*)"$', source, re.MULTILINE)
    newest = re.search(
        r"^## (\S+) \((?:unreleased|\d{4}-\d{2}-\d{2})\)$", PAGES["CHANGELOG.md"], re.MULTILINE
    )
    assert newest is not None
    assert newest[1] == version


@pytest.mark.engine
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", CURL_LINES, ids=range(len(CURL_LINES)))
def test_every_curl_line_of_the_pages_works(server: Server, line: str) -> None:
    command = line.replace("curl ", "curl -sS --fail-with-body ", 1).replace(
        "http://localhost:8000", server.url
    )
    process = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    if '"stream": true' in line:
        assert len(events(process.stdout)) > 10
    else:
        assert json.loads(process.stdout)


@pytest.mark.engine
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_line_for_windows_works_with_the_file_that_it_sends(
    server: Server, tmp_path: Path
) -> None:
    blocks = FENCE.findall(PAGES["docs/quickstart.md"].split("## curl on Windows")[1])
    (tmp_path / "body.json").write_text(blocks[0], encoding="utf-8")
    [line] = [line for line in blocks[1].splitlines() if line.startswith("curl.exe ")]
    command = line.replace("curl.exe ", "curl -sS --fail-with-body ")
    sent = subprocess.run(
        ["bash", "-c", command.replace("http://localhost:8000", server.url)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "北京" in json.loads(sent.stdout)["choices"][0]["message"]["content"]


def test_all_curl_lines_are_found() -> None:
    assert len(CURL_LINES) == sum(text.count("\ncurl ") for text in ALL_PAGES.values()) >= 12
    assert "告诉我中国的首都在哪里" in next(
        line for line in CURL_LINES if line in PAGES["README.md"]
    )
