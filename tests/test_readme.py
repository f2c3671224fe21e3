"""README says what is: every flag and field with its default, every module, every curl line."""

import json
import re
import shutil
import subprocess
from dataclasses import fields

import pytest
from conftest import ROOT, events

from protocol import ChatCompletionRequest, CompletionRequest
from settings import DEMO_MODEL, Settings

README = (ROOT / "README.md").read_text(encoding="utf-8")
CURL_LINES = re.findall(r"```\n(curl .*?)```", README, flags=re.DOTALL)
ROWS = {
    name: row
    for row in README.splitlines()
    if re.match(r"\| `(?!.*test_\w+\.py)", row)
    for name in re.findall(r"`([^`]+)`", row.split("|")[1])
}
NO_DEFAULTS = (None, "", [], {}, ())


@pytest.mark.parametrize("setting", fields(Settings), ids=lambda setting: setting.name)
def test_every_flag_stands_in_readme_with_its_default(setting):
    default = getattr(Settings(), setting.name)
    cell = ROWS["--" + setting.name.replace("_", "-")].split("|")[2].strip()
    if setting.name == "model":
        assert cell == "the demo model"
    elif isinstance(default, bool):
        assert cell == ("on" if default else "off")
    elif isinstance(default, tuple) and default:
        assert json.loads(cell.strip("`")) == list(default)
    elif default not in NO_DEFAULTS:
        assert cell == f"`{default}`"
    elif setting.name == "override_generation_config":
        assert cell == "`{}`"


@pytest.mark.parametrize("model", [CompletionRequest, ChatCompletionRequest])
def test_every_request_field_stands_in_readme_with_its_default(model):
    for name, field in model.model_fields.items():
        cell = ROWS[name].split("|")[2].strip()
        if field.is_required():
            assert cell == "required"
        elif isinstance(field.default, bool):
            assert cell in (f"`{str(field.default).lower()}`", "none"), name
        elif field.default not in NO_DEFAULTS or field.default == 0:
            assert cell == f"`{field.default}`", name
        else:
            assert cell in ("none", "the served model", "`--raw-completions`"), name


def test_readme_tells_of_no_flag_or_field_that_does_not_exist():
    flags = {"--" + setting.name.replace("_", "-") for setting in fields(Settings)} | {"--config"}
    known = {*CompletionRequest.model_fields, *ChatCompletionRequest.model_fields, *flags}
    files = {path.name + "/" * path.is_dir() for path in ROOT.iterdir()}
    assert set(ROWS) <= known | files


def test_the_demo_models_figures_are_those_of_its_training():
    figures = json.loads((DEMO_MODEL / "figures.json").read_text(encoding="utf-8"))
    text = " ".join(README.split("## The demo model")[1].split("## ")[0].split())
    right, questions, score = (
        figures["held_out_right"],
        figures["held_out_questions"],
        100 * figures["held_out_score"],
    )
    assert f"{right} of {questions} held-out questions rightly ({score:.1f} %)" in text
    assert f"{figures['parameters']:,} parameters ({figures['bytes'] / 1e6:.1f} MB)" in text
    assert f"{figures['minutes']:.0f} minutes" in text
    assert figures["bytes"] == (DEMO_MODEL / "model.safetensors").stat().st_size


def test_every_module_stands_in_readme():
    assert {module.name for module in ROOT.glob("*.py")} <= set(ROWS)


def test_every_row_of_the_features_is_seen_by_a_test_that_exists():
    rows = [
        row.split("|")
        for row in README.split("## Features")[1].split("## ")[0].splitlines()
        if row.startswith("| ")
    ]
    assert len(rows) > 20
    for row in rows[1:]:
        file, name = re.fullmatch(r" `(test_\w+\.py)::(test_\w+)` ", row[3]).groups()
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), row[1]


@pytest.mark.engine
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", CURL_LINES, ids=range(len(CURL_LINES)))
def test_every_curl_line_of_readme_works(server, line):
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


def test_there_are_curl_lines():
    assert len(CURL_LINES) >= 6
    assert "告诉我中国的首都在哪里" in CURL_LINES[0]
