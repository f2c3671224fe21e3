"""Typing Chinese: no key does anything on the page while an input method composes."""

import re

import pytest
from playwright.sync_api import CDPSession, Page, expect

from tests.support.chat_page import Visit
from tests.support.fake_engine import HUNDRED, FakeEngine
from tests.support.paths import CHROMIUM

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

SAFARI = """
(field) => {
  field.dispatchEvent(new CompositionEvent("compositionend", {bubbles: true, data: "你好"}));
  field.dispatchEvent(new KeyboardEvent("keydown", {bubbles: true, cancelable: true, key: "Enter", keyCode: 13}));
}
"""


def compose(page: Page, text: str) -> CDPSession:
    """Begin to compose a text, as an input method does."""
    session = page.context.new_cdp_session(page)
    session.send(
        "Input.imeSetComposition",
        {"text": text, "selectionStart": len(text), "selectionEnd": len(text)},
    )
    return session


def press(session: CDPSession, key: str, code: int) -> None:
    for kind in ("rawKeyDown", "keyUp"):
        session.send(
            "Input.dispatchKeyEvent", {"type": kind, "key": key, "windowsVirtualKeyCode": code}
        )


@pytest.mark.parametrize("code", [13, 229])
def test_enter_that_confirms_a_candidate_does_not_send(
    here: Visit, engine: FakeEngine, code: int
) -> None:
    here.question.focus()
    session = compose(here.page, "ni hao")
    press(session, "Enter", code)
    session.send("Input.insertText", {"text": "你好"})
    expect(here.question).to_have_value("你好")
    assert (here.answers.count(), engine.asked) == (0, [])
    here.page.wait_for_timeout(80)
    here.question.press("Enter")
    here.wait_for_end()
    expect(here.page.locator(".said")).to_have_text("你好")


def test_safaris_order_of_events_does_not_send_either(here: Visit, engine: FakeEngine) -> None:
    """Safari ends the composition first, and then tells of the key as if nothing had been composed."""
    here.question.fill("你好")
    here.question.evaluate(SAFARI)
    assert (here.answers.count(), engine.asked) == (0, [])
    here.page.wait_for_timeout(80)
    here.question.press("Enter")
    expect(here.answers).to_have_count(1)
    here.wait_for_end()


def test_escape_while_composing_does_not_stop(here: Visit, engine: FakeEngine) -> None:
    engine.script, engine.delay = HUNDRED, 0.02
    here.ask("写一百个字")
    expect(here.answer).to_contain_text("字字")
    here.question.focus()
    session = compose(here.page, "ni")
    press(session, "Escape", 229)
    expect(here.page.locator("#send")).to_have_class(re.compile("is-stop"))
    session.send("Input.insertText", {"text": "你"})
    here.page.wait_for_timeout(80)
    here.question.press("Escape")
    here.wait_for_end()
    expect(here.page.locator(".figures").last).to_contain_text("已停止")


def test_keys_of_other_editors_wait_for_the_composition_too(
    here: Visit, engine: FakeEngine
) -> None:
    here.ask_to_the_end("首都？")
    here.act("edit", 0)
    editor = here.page.locator(".message .editor")
    editor.press("End")
    session = compose(here.page, "ma")
    press(session, "Escape", 229)
    expect(editor).to_be_visible()
    session.send("Input.insertText", {"text": "吗"})
    expect(editor).to_have_value("首都？吗")
    here.page.wait_for_timeout(80)
    editor.press("Escape")
    expect(editor).to_have_count(0)
    here.page.locator("#chat-list li").hover()
    here.page.get_by_role("button", name="改名").click()
    title = here.page.locator("#chat-list .editor")
    title.fill("新名")
    session = compose(here.page, "zi")
    press(session, "Enter", 229)
    expect(title).to_be_visible()
    session.send("Input.insertText", {"text": "字"})
    here.page.wait_for_timeout(80)
    title.press("Enter")
    expect(here.page.locator(".entry")).to_have_text("新名字")


def test_enter_sends_and_with_shift_breaks_the_line(here: Visit) -> None:
    here.question.fill("一")
    here.question.press("Shift+Enter")
    here.question.press_sequentially("二")
    expect(here.question).to_have_value("一\n二")
    here.question.press("Control+Enter")
    expect(here.page.locator(".said")).to_have_text("一\n二", use_inner_text=True)
    expect(here.question).to_have_value("")
    here.wait_for_end()


def test_keys_of_the_page(here: Visit) -> None:
    here.ask_to_the_end("首都？")
    here.question.press("ArrowUp")
    expect(here.page.locator(".message .editor")).to_have_value("首都？")
    here.page.keyboard.press("Escape")
    here.page.keyboard.press("Control+k")
    expect(here.page.locator("#search")).to_be_focused()
    here.page.keyboard.press("Control+Shift+O")
    expect(here.page.locator("#welcome")).to_be_visible()
    expect(here.question).to_be_focused()
