"""README says what is: every flag and field with its default, every module, every curl line."""

import json
import re
import shlex
from dataclasses import MISSING, fields

import httpx
import pytest
from conftest import ROOT, events

from protocol import ChatCompletionRequest, CompletionRequest
from settings import Settings

README = (ROOT / "README.md").read_text(encoding="utf-8")
CURL_LINES = re.findall(r"```\n(curl .*?)```", README, flags=re.DOTALL)
ROWS = {
    name: row
    for row in README.splitlines()
    if row.startswith("| `")
    for name in re.findall(r"`([^`]+)`", row.split("|")[1])
}
NO_DEFAULTS = (None, "", [], {}, ())


@pytest.mark.parametrize("setting", fields(Settings), ids=lambda setting: setting.name)
def test_every_flag_stands_in_readme_with_its_default(setting):
    default = setting.default_factory() if setting.default_factory is not MISSING else setting.default
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


def test_every_module_stands_in_readme():
    assert {module.name for module in ROOT.glob("*.py")} <= set(ROWS)


def curl(line: str, url: str) -> httpx.Response:
    """What curl would send; it knows the flags that README uses."""
    words = shlex.split(line.replace("\\\n", " "))[1:]
    headers: dict[str, str] = {"Content-Type": "application/x-www-form-urlencoded"}
    body, target = "", ""
    while words:
        word = words.pop(0)
        if word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = words.pop(0)
        elif word != "-N":
            target = word
    assert target.startswith("http://localhost:8000/")
    return httpx.post(target.replace("http://localhost:8000", url), content=body.encode(), headers=headers, timeout=120)


@pytest.mark.engine
@pytest.mark.parametrize("line", CURL_LINES, ids=range(len(CURL_LINES)))
def test_every_curl_line_of_readme_works(server, line):
    reply = curl(line, server.url)
    assert reply.status_code == 200, reply.text
    if '"stream": true' in line:
        assert len(events(reply.text)) > 10
    else:
        assert json.loads(reply.content)


def test_there_are_curl_lines():
    assert len(CURL_LINES) >= 6
    assert "告诉我中国的首都在哪里" in CURL_LINES[0]
