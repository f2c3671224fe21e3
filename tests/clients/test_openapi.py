"""The published schema against the real server: no answer that it does not describe."""

import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT
from tests.support.server_process import Server

SCHEMATHESIS = ROOT / "tests" / "clients" / "environments" / "schemathesis" / "bin" / "st"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
REQUEST_TIMEOUT = 100
"""Seconds for one request: several prompts with `n` answers each, up to the end of the context, are much to generate.

What takes longer would be sent again and again, to find a smaller request that takes as long.
"""

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        not SCHEMATHESIS.exists(), reason="schemathesis: `make test-clients` has not been run"
    ),
]


def test_schemathesis_finds_no_undocumented_answer_and_no_5xx(
    server: Server, tmp_path: Path
) -> None:
    """Requests that fit the schema and such that do not, of every operation; 503 is the one 5xx of a full server."""
    command = [
        str(SCHEMATHESIS),
        "run",
        f"{server.url}/openapi.json",
        "--checks",
        CHECKS,
        "--seed",
        "2023",
        "--no-color",
    ]
    run = subprocess.run(
        [*command, "--max-examples", "60", "--request-timeout", str(REQUEST_TIMEOUT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert f"Tested: {sum(map(len, paths.values()))}" in run.stdout
