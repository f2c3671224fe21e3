"""A browser against the real server: a page of another origin, and the documentation."""

import json
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from tests.support.paths import CHROMIUM
from tests.support.server_process import Server

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed"),
]


FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


class OtherOrigin(ThreadingHTTPServer):
    """Serves this folder from an origin that is not the server's, and hears what its page has to tell."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), partial(Visited, directory=Path(__file__).parent))
        self.heard: Queue[dict[str, Any]] = Queue()


class Visited(SimpleHTTPRequestHandler):
    server: OtherOrigin

    def do_POST(self) -> None:
        self.server.heard.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: the page's own requests are of no interest."""


@pytest.fixture
def other_origin() -> Iterator[OtherOrigin]:
    with OtherOrigin() as origin:
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        yield origin
        origin.shutdown()


def test_a_page_of_another_origin_reads_streams_and_errors(
    server: Server, other_origin: OtherOrigin, tmp_path: Path
) -> None:
    page = f"http://127.0.0.1:{other_origin.server_port}/page.html?server={server.url}"
    browser = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "--remote-debugging-port=0", page],
        stderr=subprocess.DEVNULL,
    )
    try:
        heard = other_origin.heard.get(timeout=90)
    finally:
        browser.terminate()
        browser.wait(timeout=30)
    answer = "".join(event["choices"][0]["delta"].get("content", "") for event in heard["events"])
    assert "北京" in answer
    assert heard["ignored"] == "typo"
    assert heard["wrongField"]["error"]["param"] == "temperature"
    assert {name: reply["status"] for name, reply in heard.items() if isinstance(reply, dict)} == {
        "wrongField": 400, "unknownPath": 404, "wrongMethod": 405, "unknownModel": 404,
    }  # fmt: skip


def test_the_docs_show_every_operation_without_the_internet(server: Server, tmp_path: Path) -> None:
    flags = [*FLAGS, f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom"]
    command = [CHROMIUM, *flags, f"{server.url}/docs"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    for path in (
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/models",
        "/tokenize",
        "/detokenize",
        "/health",
    ):
        assert path in shown.replace("\u200b", "")
    assert "Create Chat Completion" in shown
