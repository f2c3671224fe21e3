"""The way of a plain chat request is what docs/architecture.md lists, function by function."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT
from tests.support.polling import wait_for
from tests.support.server_process import Server

sys.path.insert(0, str(ROOT / ".ci"))

from request_way import definitions_of, listed_names

pytestmark = pytest.mark.engine

Name = tuple[str, str]
CHAT = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 12}
BESIDE_REQUESTS = {
    ("server/uvicorn_server.py", "DrainingServer.on_tick"),
    ("server/uvicorn_server.py", "watch"),
    ("engine/vllm_engine.py", "VLLMEngine.is_dead"),
    ("server/console.py", "log_writer"),
    ("settings.py", "print_stderr"),
}
"""Called by a clock, or by the thread that writes the log, and not by what a request calls."""


def traced_calls(server: Server, file: Path) -> list[tuple[Name | None, Name]]:
    """The caller and the called of a plain chat request and of a streamed one, on a connection of their own."""
    server.process.send_signal(signal.SIGUSR1)
    with httpx.Client(base_url=server.url, timeout=120) as client:
        for stream in (False, True):
            reply = client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
            assert reply.status_code == 200
    server.process.send_signal(signal.SIGUSR2)
    assert wait_for(file.exists, 60)
    calls = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return [(caller and tuple(caller), tuple(called)) for caller, called in calls]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Name | None, Name]]]:
    file = tmp_path_factory.mktemp("trace") / "calls.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACE_FILE", str(file))
        server = Server("--port", "0", program="tests/support/traced_command.py")
    server.wait_for_banner()
    traced_calls(server, file)  # what the first request alone does is not of the way
    yield traced_calls(server, file)
    assert server.stop() == 0


def test_the_page_lists_the_functions_of_a_plain_chat_request(
    calls: list[tuple[Name | None, Name]],
) -> None:
    passed = {(module, name.split(".<locals>")[0]) for _, (module, name) in calls} - BESIDE_REQUESTS
    functions = {
        (module, name)
        for module in {module for module, _ in passed}
        for name in definitions_of(module)
    }
    listed = {(module, name) for module, names in listed_names().items() for name in names}
    missing = sorted((passed & functions) - listed)
    classes = {(module, name) for module, name in listed if name[0].isupper() and "." not in name}
    stale = sorted(listed - passed - classes)
    assert (missing, stale) == ([], [])
