"""The request as a command and as a program: both run as copied."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from prompts.encoder import SentencePieceEncoder
from tests.support.fake_engine import FakeEngine
from tests.support.panel_page import panel_page
from tests.support.paths import CHROMIUM
from tests.support.replies import events

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

QUESTION = "it's $HOME `id` \"quoted\" \\n !x\n第二行 '\\'' 😀"
BODIES: list[tuple[Any, dict[str, Any]]] = [
    ([{"role": "system", "content": "短"}, {"role": "user", "content": QUESTION}], {}),
    (
        [{"role": "user", "content": QUESTION}],
        {
            "temperature": 0,
            "top_k": 5,
            "do_sample": False,
            "n": 2,
            "stop": ["'"],
            "logit_bias": {"5": -1},
        },
    ),
    (QUESTION, {"max_tokens": 9, "structured_outputs": {"choice": ["是", "it's"]}}),
]
WRITE = """
async ([asked, values, form, needsKey]) => {
  const {toBody, pathOf, toCurl, toPython} = await import("/page/request.js");
  const body = toBody(asked, values, "chinese-llama-alpaca-2");
  return [body, (form === "curl" ? toCurl : toPython)(`${location.origin}/`, pathOf(body), body, needsKey)];
}
"""
OPEN = """
async () => {
  const {createRequest} = await import("/page/request.js");
  const panel = window.panel = createRequest(window.app);
  document.querySelector("main").replaceChildren(panel.node);
  panel.show(null);
}
"""
ENGINE = FakeEngine()


@pytest.fixture(scope="module")
def page(demo_encoder: SentencePieceEncoder) -> Iterator[Page]:
    with panel_page(demo_encoder, ENGINE) as page:
        yield page


@pytest.fixture(autouse=True)
def nothing_asked() -> None:
    ENGINE.asked.clear()


def run(*command: str) -> str:
    environment = {**os.environ, "VLLM_API_KEY": "k'ey"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def take_asked() -> Any:
    """What the engine has been asked since the last call."""
    asked = [(prompt, decoding) for prompt, decoding, _ in ENGINE.asked]
    ENGINE.asked.clear()
    return asked


def asked_directly(page: Page, body: dict[str, Any]) -> Any:
    """What the engine is asked for a body that the page itself sends."""
    path = "v1/completions" if "prompt" in body else "v1/chat/completions"
    reply = page.request.post(
        f"{page.url}{path}", data=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert reply.ok, reply.text()
    return take_asked()


@pytest.mark.parametrize("needs_key", [False, True])
@pytest.mark.parametrize(("asked", "values"), BODIES)
def test_the_copied_curl_is_answered_by_bash(
    page: Page, asked: Any, values: dict[str, Any], needs_key: bool
) -> None:
    body, command = page.evaluate(WRITE, [asked, values, "curl", needs_key])
    assert "k'ey" not in command
    replies = events(run("bash", "-c", command.replace("curl -N", "curl -sN", 1)))
    assert replies[0]["choices"]
    by_curl = take_asked()
    assert by_curl == asked_directly(page, body)


@pytest.mark.parametrize("needs_key", [False, True])
@pytest.mark.parametrize(("asked", "values"), BODIES)
def test_the_copied_python_is_answered_by_openais_client(
    page: Page, asked: Any, values: dict[str, Any], needs_key: bool
) -> None:
    body, program = page.evaluate(WRITE, [asked, values, "python", needs_key])
    assert run(sys.executable, "-c", program).strip() == "北京。"
    by_client = take_asked()
    assert by_client == asked_directly(page, body)


def test_only_what_the_user_changed_is_sent(page: Page) -> None:
    body, _ = page.evaluate(
        WRITE, [[{"role": "user", "content": "a"}], {"num_beams": 4}, "curl", False]
    )
    assert body == {
        "model": "chinese-llama-alpaca-2",
        "messages": [{"role": "user", "content": "a"}],
        "num_beams": 4,
        "stream": True,
        "stream_options": {"include_usage": True, "include_beams": True},
    }


def test_the_panel_shows_the_next_request_and_that_of_an_answer(page: Page) -> None:
    page.evaluate(OPEN)
    expect(page.locator("pre")).to_contain_text("curl -N")
    page.evaluate("() => { app.draft = '现在的问题'; app.emit('draft'); }")
    expect(page.locator("pre")).to_contain_text("现在的问题")
    page.get_by_role("button", name="JSON").click()
    assert json.loads(page.locator("pre").inner_text())["messages"][0]["content"] == "现在的问题"
    page.evaluate("() => panel.show({request: {prompt: [1, 2], max_tokens: 3}})")
    assert json.loads(page.locator("pre").inner_text()) == {"prompt": [1, 2], "max_tokens": 3}
    page.get_by_role("button", name="Python").click()
    expect(page.locator("pre")).to_contain_text("prompt=[1, 2],")


def test_a_request_is_opened_as_the_raw_text_of_its_prompt(page: Page) -> None:
    page.evaluate(OPEN)
    page.evaluate("() => { app.draft = '你好'; panel.show(null); }")
    page.get_by_role("button", name="在续写里打开").click()
    expect(page.locator("pre")).to_be_visible()
    page.wait_for_timeout(300)
    opened = page.evaluate("() => app.opened")
    assert opened.startswith("[INST] <<SYS>>")
    assert opened.endswith("你好 [/INST]")
