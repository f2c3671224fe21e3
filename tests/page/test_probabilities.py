"""The probabilities of an answer's tokens, their rivals, and the branch from one."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from prompts.encoder import SentencePieceEncoder
from tests.support.panel_page import ScoringEngine, panel_page
from tests.support.paths import CHROMIUM

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

ANSWER = "西湖很美😀。去看看吧。"
OPEN = """
async (text) => {
  const {createProbabilities} = await import("/page/probabilities.js");
  app.branches = [];
  app.conversation.messages.b.content = text;
  document.querySelector("main").replaceChildren(createProbabilities(app, app.conversation.messages.b));
}
"""


@pytest.fixture(scope="module")
def browser_page(demo_encoder: SentencePieceEncoder) -> Iterator[Page]:
    (rival,) = demo_encoder.ids_spelt_as("城市")
    with panel_page(demo_encoder, ScoringEngine(rivals=(rival, 2, 243))) as page:
        yield page


@pytest.fixture
def page(browser_page: Page) -> Page:
    browser_page.evaluate(OPEN, ANSWER)
    expect(browser_page.locator(".scored-sum")).to_be_visible()
    return browser_page


def test_the_answer_is_shown_token_by_token_without_the_prompt(page: Page) -> None:
    assert "".join(page.locator(".scored-token").all_inner_texts()) == ANSWER
    expect(page.locator(".scored-token").first).to_have_attribute("title", "50.0 %")


def test_perplexity_is_that_of_all_tokens_of_the_answer(page: Page) -> None:
    expect(page.locator(".scored-sum")).to_contain_text("困惑度 2.00")


def test_a_rival_is_chosen_and_gone_on_from(page: Page) -> None:
    page.locator(".scored-token", has_text="美").click()
    rivals = page.locator(".rival")
    assert page.locator(".rival-text").all_inner_texts() == ["“美”", "“城市”", "</s>", "\\xf0"]
    expect(rivals.nth(1)).to_contain_text(f"{20:.1f} %")
    page.get_by_role("button", name="城市").click()
    assert page.evaluate("() => app.branches") == [["b", "西湖很城市", {"goOn": True}]]
    expect(page.locator(".rivals")).to_be_hidden()


def test_control_tokens_and_parts_of_a_character_cannot_be_chosen(page: Page) -> None:
    page.locator(".scored-token", has_text="美").click()
    assert page.locator("button.rival").count() == 1
    page.locator(".scored-token", has_text="😀").click()
    expect(page.locator(".rivals")).to_contain_text("4 个词元")
    assert page.locator("button.rival").count() == 0


def test_a_group_of_parts_counts_as_its_tokens(page: Page) -> None:
    face = page.locator(".scored-token", has_text="😀")
    expect(face).to_have_attribute("title", "6.3 %")
    assert "is-rare" in (face.get_attribute("class") or "")


def test_arrows_go_from_token_to_token_and_escape_closes(page: Page) -> None:
    tokens = page.locator(".scored-token")
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    expect(page.locator(".rivals-head")).to_contain_text(tokens.nth(1).inner_text())
    page.keyboard.press("Escape")
    expect(page.locator(".rivals")).to_be_hidden()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("() => app.branches") == [["b", "城市", {"goOn": True}]]


@pytest.mark.parametrize("text", [" 空格开头", "a\n\nb", "😀", "你"])
def test_what_stands_before_a_token_is_the_answers_own_text(page: Page, text: str) -> None:
    page.evaluate(OPEN, text)
    expect(page.locator(".scored-sum")).to_be_visible()
    last = page.locator(".scored-token").last
    last.click()
    shown = page.locator("button.rival")
    if shown.count():
        shown.first.click()
        before = page.evaluate("() => app.branches[0][1]").removesuffix("城市")
        assert text.startswith(before)
        assert len(before) < len(text)


def test_an_error_of_the_server_is_said(page: Page) -> None:
    page.route("**/v1/completions", lambda route: route.fulfill(
        status=200, json={"choices": [{"logprobs": None}]}))  # fmt: skip
    page.evaluate(OPEN, ANSWER)
    expect(page.get_by_role("alert")).to_be_visible()
    page.unroute("**/v1/completions")
