"""The examples, as their first lines say that they are run, against the real server and its demo model."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import sync_playwright

from prompts.encoder import SentencePieceEncoder
from tests.support.app_on_fake_engine import listening
from tests.support.client_programs import (
    ANSWER,
    CLIENTS,
    MODEL,
    OFFLINE,
    QUESTION,
    asking,
    output,
    tool,
)
from tests.support.fake_engine import HUNDRED, FakeEngine
from tests.support.paths import CHROMIUM, ROOT
from tests.support.polling import wait_for
from tests.support.server_process import Server

EXAMPLES = ROOT / "examples"


def told(url: str) -> dict[str, str]:
    """What an example is told of a server by its environment."""
    return {"BASE_URL": f"{url}/v1", "MODEL": MODEL, "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(python: str, file: str, url: str) -> Iterator[str]:
    """An example that serves a page, for the server at `url`: the page's own URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    ports = {"PORT": port, "GRADIO_SERVER_PORT": port, "GRADIO_ANALYTICS_ENABLED": "False"}
    environment = {**os.environ, **OFFLINE, **told(url), **ports}
    process = subprocess.Popen(
        [python, str(EXAMPLES / file)], env=environment, stdout=subprocess.DEVNULL
    )
    page = f"http://127.0.0.1:{port}/"
    try:
        assert wait_for(lambda: process.poll() is not None or answers(page), 100)
        yield page
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(page: str) -> bool:
    try:
        return httpx.get(page).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.engine
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_lines_are_answered(server: Server) -> None:
    printed = output(["bash", str(EXAMPLES / "curl.sh")], env=told(server.url))
    asked = re.findall(r"^== (.*)$", printed, re.MULTILINE)
    assert asked == ["models", *["chat/completions"] * 6, "completions"]
    assert ANSWER in printed
    assert "data: [DONE]" in printed
    assert '\\"首都\\":' in printed


@pytest.mark.engine
@pytest.mark.parametrize(
    ("environment", "program", "file"),
    [
        ("openai3", "python", "openai_python.py"),
        ("openai2", "python", "openai_python.py"),
        ("node", "node", "openai_node.mjs"),
    ],
    ids=["openai 3", "openai 2", "node"],
)
def test_the_official_clients_examples_print_answers(
    server: Server, tmp_path: Path, environment: str, program: str, file: str
) -> None:
    command = tool(environment, program)
    shutil.copy(EXAMPLES / file, tmp_path)
    if environment == "node":  # it looks for packages beside the file
        (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    printed = output([command, str(tmp_path / file)], env=told(server.url))
    one, conversation, beams, fault = printed.split("== ")[1:]
    assert one.splitlines()[1] == ANSWER
    assert len(re.findall(r"^答：.+$", conversation, re.MULTILINE)) == 2
    assert len(re.findall(r"^[12] .+$", beams, re.MULTILINE)) == 2
    assert fault.splitlines()[1].startswith("temperature - ")


@pytest.mark.engine
def test_the_chat_by_gradio_answers_as_it_is_told(server: Server) -> None:
    with running(tool("gradio", "python"), "gradio_chat.py", server.url) as page:
        first, second = asking(page)("gradio", "with_gradio", "chat", questions=[QUESTION, "谢谢"])
    for grown in (first, second):
        assert len(grown) > 1
        assert all(longer.startswith(text) for text, longer in pairwise(grown))
    assert "北京" in first[-1]


def test_the_chat_by_gradio_stops_the_engine_when_it_is_stopped(
    demo_encoder: SentencePieceEncoder,
) -> None:
    engine = FakeEngine(HUNDRED, delay=0.1)
    python = tool("gradio", "python")
    with listening(engine, demo_encoder) as url, running(python, "gradio_chat.py", url) as page:
        begun = asking(page)("gradio", "with_gradio", "stop", question="你好")
        assert begun.startswith("字")
        assert wait_for(lambda: engine.running == 0, 3)
    assert len(engine.asked) == 1


def test_the_chat_by_gradio_has_at_most_40_lines() -> None:
    assert len((EXAMPLES / "gradio_chat.py").read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.engine
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_the_page_of_the_back_end_shows_an_answer(server: Server) -> None:
    with (
        running(sys.executable, "web_backend.py", server.url) as page,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        tab = browser.new_page()
        tab.goto(page)
        tab.fill("textarea", QUESTION)
        tab.click("text=发送")
        tab.wait_for_function("document.querySelector('output').textContent.includes('北京')")
        assert "[" not in tab.inner_text("output")


@pytest.mark.parametrize("began", [False, True], ids=["before the first token", "while it answers"])
def test_a_visitor_who_leaves_the_back_end_stops_the_engine(
    demo_encoder: SentencePieceEncoder, began: bool
) -> None:
    engine = FakeEngine(HUNDRED, delay=0.3 if began else 3.0)
    with (
        listening(engine, demo_encoder) as url,
        running(sys.executable, "web_backend.py", url) as page,
        httpx.Client(timeout=None if began else 1.0) as visitor,
    ):
        try:
            with visitor.stream("POST", f"{page}ask", json={"question": "你好"}) as reply:
                pieces = reply.iter_text()  # held: httpx closes the connection once this is let go
                assert {*next(pieces)} == {"字"}
                assert engine.running == 1
        except httpx.ReadTimeout:
            assert not began
        assert len(engine.asked) == 1
        assert wait_for(lambda: engine.running == 0, 10), "alone it would take 30 s, or 300"


def test_a_fault_of_the_server_is_told_by_the_back_end(demo_encoder: SentencePieceEncoder) -> None:
    with (
        listening(FakeEngine(is_ready=False), demo_encoder) as url,
        running(sys.executable, "web_backend.py", url) as page,
    ):
        reply = httpx.post(f"{page}ask", json={"question": "你好"}, timeout=30)
        assert "[" in reply.text
        assert "loading" in reply.text
        assert httpx.post(f"{page}ask", json={"question": ""}).status_code == 422
