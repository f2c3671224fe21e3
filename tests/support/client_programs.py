"""Programs of `tests/clients`, each in an environment of its own, where `make test-clients` has installed it."""

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.city import City
from tests.support.paths import ROOT

CLIENTS = ROOT / "tests" / "clients"
ENVIRONMENTS = CLIENTS / "environments"
OFFICIAL = ("openai3", "openai2", "node")
"""Where there is an official client: the two majors for Python that are in use, and the one for Node."""
MODEL = "chinese-llama-alpaca-2"
QUESTION = "中国的首都是哪里？"
ANSWER = "中国的首都是北京。"
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
    "PROMPTFOO_DISABLE_SHARING": "1",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
}
"""What keeps clients from asking anything of the internet."""

Ask = Callable[..., Any]


def tool(environment: str, name: str) -> str:
    """A program of a client's environment; skips the test where that is not installed."""
    is_node = environment == "node"
    directory = CLIENTS / "node_modules" if is_node else ENVIRONMENTS / environment
    if not (directory / ".installed").exists():
        pytest.skip(f"{environment} is not installed: `make test-clients`")
    return str(directory / (".bin" if is_node else "bin") / name)


def output(command: list[str], **options: Any) -> str:
    environment = {**os.environ, **OFFLINE, **options.pop("env", {})}
    process: subprocess.CompletedProcess[str] = subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
        env=environment,
        **options,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def asking(url: str) -> Ask:
    """Calls a function of a module in `tests/clients`, in an environment there; what the client read is returned."""

    def call(environment: str, module: str, function: str, **body: Any) -> Any:
        runner = (
            [tool("node", "node"), "run.mjs"]
            if environment == "node"
            else [tool(environment, "python"), "run.py"]
        )
        printed = output([*runner, module, function, url, json.dumps(body)], cwd=CLIENTS)
        return json.loads(printed.splitlines()[-1])  # some clients print a line of their own before

    return call


def is_city(value: object) -> bool:
    return City.model_validate(value, strict=True).model_dump() == value
