"""The page for everyone: axe, the keyboard, two languages, two themes, and a phone."""

import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from generation import Delta
from tests.support.chat_page import Visit
from tests.support.fake_engine import FakeEngine
from tests.support.paths import CHROMIUM

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WORDS = "async () => (await import('/page/words.js')).words"
"""Those of all parts: the page has loaded them."""


def check(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Callable[..., Visit], scheme: str) -> None:
    here = open_page(color_scheme=scheme)
    here.wait_until_ready()
    check(here.page)
    here.set_parameters(temperature=0, top_p=0.5, n=2)
    here.ask_to_the_end("首都？")
    here.ask_to_the_end("再说")
    here.act("chance", 1)
    expect(here.page.locator(".scored-sum")).to_be_visible()
    check(here.page)
    for tab in ("prompt", "request"):
        here.page.locator(f"#tab-{tab}").click()
        expect(here.page.locator(f"#panel-{tab} button").first).to_be_visible()
        check(here.page)
    here.page.locator("#new-completion").click()
    here.page.locator("#raw-text").fill("中国的首都是")
    here.page.locator("#raw-text").press("Control+Enter")
    here.wait_for_end_of_run()
    check(here.page)


def test_axe_finds_nothing_in_errors_and_dialogs(
    open_page: Callable[..., Visit], engine: FakeEngine
) -> None:
    here = open_page(**PHONE)
    here.may_fail = True
    here.wait_until_ready()
    engine.room = 0
    here.ask("首都？")
    expect(here.page.locator(".message-error")).to_be_visible()
    check(here.page)
    here.page.locator("#toggle-chats").click()
    check(here.page)
    here.page.locator("#close-drawer button").click()
    here.page.locator("#toggle-panels").click()
    check(here.page)


def test_axe_finds_nothing_where_a_key_is_asked_for(open_guarded: Callable[[str], Visit]) -> None:
    here = open_guarded("right")
    here.page.locator("#key").fill("wrong")
    here.page.locator("#key").press("Enter")
    expect(here.page.locator("#key-error")).to_contain_text("不认识")
    check(here.page)


def test_there_are_landmarks_and_one_heading(here: Visit) -> None:
    for name in ("header", "nav", "main", "aside", "h1"):
        assert here.page.locator(f"{name}:visible").count() == 1, name


def test_a_chat_is_had_by_keyboard_alone(here: Visit) -> None:
    here.page.keyboard.type("首都？")
    here.page.keyboard.press("Enter")
    here.wait_for_end()
    for _ in range(30):
        here.page.keyboard.press("Shift+Tab")
        if here.page.evaluate("() => document.activeElement.dataset.action") == "again":
            break
    here.page.keyboard.press("Enter")
    expect(here.page.locator(".place")).to_have_text("2 / 2")
    here.wait_for_end()
    here.page.locator("#tab-parameters").focus()
    here.page.keyboard.press("ArrowRight")
    expect(here.page.locator("#tab-prompt")).to_be_focused()
    expect(here.page.locator("#panel-prompt")).to_be_visible()


def test_every_word_is_there_in_both_languages(here: Visit) -> None:
    words = here.page.evaluate(WORDS)
    assert len(words) > 150
    assert all(zh.strip() and en.strip() for zh, en in words.values())


def test_every_button_has_words(here: Visit) -> None:
    """The name of a word that is nowhere would be shown as it is."""
    here.set_parameters(n=2)
    here.ask_to_the_end("首都？")
    here.page.locator("#panels .tabs button").last.click()
    shown = here.page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, [aria-label], [title]")].flatMap(
          (each) => [each.title, each.ariaLabel, each.tagName === "BUTTON" && each.textContent, each.placeholder])"""
    )
    assert [text for text in shown if text and re.fullmatch(r"[a-z]+\.\w+", text)] == []


@pytest.mark.parametrize(
    ("locale", "said"), [("zh-CN", "新对话"), ("en-GB", "New chat"), ("fr-FR", "New chat")]
)
def test_the_readers_language_is_shown_and_another_can_be_chosen(
    open_page: Callable[..., Visit], locale: str, said: str
) -> None:
    here = open_page(locale=locale)
    here.wait_until_ready()
    expect(here.page.locator("#new-chat")).to_have_text(said)
    here.page.locator("#language").click()
    other = "New chat" if said == "新对话" else "新对话"
    expect(here.page.locator("#new-chat")).to_have_text(other)
    assert here.page.locator("html").get_attribute("lang") == (
        "en" if other == "New chat" else "zh-CN"
    )
    here.page.reload()
    expect(here.page.locator("#new-chat")).to_have_text(other)
    here.wait_until_ready()


def test_no_word_is_left_in_the_other_language(open_page: Callable[..., Visit]) -> None:
    here = open_page(locale="en-GB")
    here.wait_until_ready()
    here.page.locator(".example").first.click()
    here.wait_for_end()
    here.page.evaluate(
        "() => document.querySelectorAll('.message-body, .message-actions ~ *').forEach((e) => e.remove())"
    )
    text = here.page.evaluate("() => document.body.innerText")
    assert [each for each in text if "\u4e00" <= each <= "\u9fff" and each != "中"] == []


def test_the_theme_is_the_systems_or_the_readers(open_page: Callable[..., Visit]) -> None:
    here = open_page(color_scheme="dark")
    here.wait_until_ready()
    theme = "() => document.documentElement.dataset.theme"
    assert here.page.evaluate(theme) == "dark"
    here.page.locator("#theme").click()
    assert here.page.evaluate(theme) == "light"
    here.page.reload()
    here.wait_until_ready()
    assert here.page.evaluate(theme) == "light"


def test_a_phone_has_everything_without_scrolling_sideways(
    open_page: Callable[..., Visit], engine: FakeEngine
) -> None:
    here = open_page(**PHONE)
    here.wait_until_ready()
    sideways = "() => document.documentElement.scrollWidth - innerWidth"
    assert here.page.evaluate(sideways) <= 0
    here.question.fill("首都？" * 40)
    here.page.locator("#send").tap()
    here.wait_for_end()
    assert here.page.evaluate(sideways) <= 0
    here.page.locator("#toggle-panels").tap()
    expect(here.page.locator("#drawer")).to_be_visible()
    here.page.locator("#tab-prompt").tap()
    expect(here.page.locator("#panel-prompt .prompt-count")).to_contain_text("/ 2048")
    assert here.page.evaluate(sideways) <= 0
    here.page.keyboard.press("Escape")
    expect(here.page.locator("#drawer")).to_be_hidden()
    wide = (
        "`" * 3
        + "python\n"
        + "长" * 200
        + "\n"
        + "`" * 3
        + "\n\n|"
        + "甲|" * 30
        + "\n|"
        + "-|" * 30
        + "\n"
    )
    engine.script = [Delta(0, wide, (5,)), Delta(0, "", (2,), "stop")]
    here.question.fill("写代码和表格")
    here.page.locator("#send").tap()
    here.wait_for_end()
    expect(here.answer.locator("table")).to_be_visible()
    assert here.page.evaluate(sideways) <= 0
    here.page.locator("#toggle-chats").tap()
    here.page.locator("#new-completion").tap()
    here.page.locator("#raw-text").fill("续写" * 60)
    here.page.locator("#send").tap()
    here.wait_for_end_of_run()
    assert here.page.evaluate(sideways) <= 0
    here.page.locator("#toggle-chats").tap()
    here.page.locator("#new-chat").tap()
    expect(here.page.locator("#welcome")).to_be_visible()
    expect(here.page.locator("#drawer")).to_be_hidden()
