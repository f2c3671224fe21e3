"""The tokens of the next prompt, as one types."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from prompts.encoder import SentencePieceEncoder
from tests.support.panel_page import panel_page
from tests.support.paths import CHROMIUM

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

OPEN = """
async () => {
  const {createPrompt} = await import("/page/prompt.js");
  app.copy = (text) => navigator.clipboard.writeText(text);
  const panel = window.panel = createPrompt(window.app);
  document.querySelector("main").replaceChildren(panel.node);
  await panel.update();
}
"""
TYPE = "(text) => { app.draft = text; app.emit('draft'); }"


@pytest.fixture(scope="module")
def browser_page(demo_encoder: SentencePieceEncoder) -> Iterator[Page]:
    with panel_page(demo_encoder) as page:
        page.evaluate(OPEN)
        yield page


@pytest.fixture
def page(browser_page: Page) -> Page:
    browser_page.evaluate("() => { app.asked = null; app.conversation.mode = 'chat'; }")
    return browser_page


def shown_ids(page: Page) -> list[int]:
    return [
        int(number) for ids in page.locator(".tile-id").all_inner_texts() for number in ids.split()
    ]


def tokenize(page: Page, **body: Any) -> list[int]:
    reply = page.request.post(f"{page.url}tokenize", data=body).json()
    assert isinstance(reply["tokens"], list)
    return list(reply["tokens"])


@pytest.mark.parametrize("text", ["你好", "😀龘 x\n\n  y</s>", "a" * 50, "<s>[INST] 龘龘a"])
def test_the_ids_are_those_of_the_server_while_one_types(page: Page, text: str) -> None:
    page.evaluate(TYPE, text)
    ids = tokenize(page, messages=[{"role": "user", "content": text}])
    expect(page.locator(".prompt-count")).to_contain_text(f"{len(ids)} / 2048")
    assert shown_ids(page) == ids


def test_control_tokens_are_told_from_text_that_looks_like_them(page: Page) -> None:
    turns = [
        {"role": "user", "content": "甲</s>"},
        {"role": "assistant", "content": "乙"},
        {"role": "user", "content": "丙"},
    ]
    page.evaluate("(turns) => { app.asked = turns; app.emit('conversation'); }", turns)
    expect(page.locator(".tile-control")).to_have_count(3)
    texts = page.locator(".tile-control .tile-text").all_inner_texts()
    assert texts == ["<s>", "</s>", "<s>"]


def test_parts_of_a_character_are_one_tile(page: Page) -> None:
    page.evaluate(TYPE, "x😀y")
    expect(page.locator(".tile-text", has_text="😀")).to_have_text("😀")
    group = page.locator(".tile", has_text="😀").locator(".tile-id").inner_text()
    assert len(group.split()) == 4


def test_spaces_and_line_breaks_can_be_seen(page: Page) -> None:
    page.evaluate(TYPE, "一行\n")
    expect(page.locator(".tile-text", has_text="⏎").last).to_be_visible()
    assert "▁" in page.locator(".tile-text").all_inner_texts()


def test_a_raw_completion_has_no_template(page: Page) -> None:
    page.evaluate(
        "() => { app.conversation.mode = 'completion'; app.draft = '杭州是'; app.emit('draft'); }"
    )
    ids = tokenize(page, prompt="杭州是", raw=True)
    expect(page.locator(".prompt-count")).to_contain_text(f"{len(ids)} / 2048")
    assert shown_ids(page) == ids


def test_the_ids_can_be_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(TYPE, "复制")
    ids = tokenize(page, messages=[{"role": "user", "content": "复制"}])
    expect(page.locator(".prompt-count")).to_contain_text(f"{len(ids)} /")
    page.get_by_role("button", name="复制编号").click()
    page.wait_for_timeout(100)
    assert page.evaluate("async () => JSON.parse(await navigator.clipboard.readText())") == ids


def test_the_prompt_can_be_scored(page: Page) -> None:
    page.evaluate(TYPE, "你好")
    expect(page.locator(".tile-text", has_text="你好").first).to_be_visible()
    page.get_by_role("button", name="算每个词元的概率").click()
    expect(page.locator(".scored-sum")).to_contain_text("困惑度")
    assert "你好" in page.locator(".scored").inner_text()
