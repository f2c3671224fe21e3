"""The chat page in a browser, as a visitor has it: on the app with a fake engine, listened to by the test."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    expect,
)

from tests.support.fake_engine import FakeEngine
from tests.support.polling import wait_for

shared: list[Browser] = []
"""The browser that the tests of the page share while they run."""
FAILED_LOAD = "Failed to load resource"
"""What Chromium writes on the console for each reply that is an error, whatever the page does about it."""


@dataclass
class Visit:
    """A visitor's browser with the page in it."""

    url: str
    context: BrowserContext
    page: Page
    wrong: list[str] = field(default_factory=list)
    """What should not have been: errors, warnings, and requests to another host."""
    may_fail: bool = False
    """Whether the test makes requests fail."""

    def check(self) -> None:
        faults = [
            text for text in self.wrong if not (self.may_fail and text.startswith(FAILED_LOAD))
        ]
        assert faults == []

    def listen(self, page: Page) -> Page:
        """Hear what a page writes on its console and whom it asks."""
        origin = "/".join(self.url.split("/")[:3])

        def hear(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self.wrong.append(message.text)

        def see(request: Request) -> None:
            if not request.url.startswith((f"{origin}/", "blob:")):
                self.wrong.append(request.url)

        page.on("console", hear)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", see)
        return page

    def new_tab(self) -> Page:
        """Another tab of the same browser."""
        page = self.listen(self.context.new_page())
        page.goto(self.url)
        return page

    def wait_until_ready(self) -> None:
        """Wait until the page knows the model, and the server is there."""
        expect(self.page.locator("#gauge")).to_be_visible(timeout=20_000)
        expect(self.page.locator("#state")).to_be_hidden(timeout=20_000)

    @property
    def question(self) -> Locator:
        return self.page.locator("#question")

    @property
    def answers(self) -> Locator:
        return self.page.locator(".message.is-assistant")

    @property
    def answer(self) -> Locator:
        """The text of the last answer."""
        return self.answers.last.locator(".message-body")

    def ask(self, text: str) -> None:
        self.question.fill(text)
        self.question.press("Enter")

    def ask_to_the_end(self, text: str) -> None:
        self.ask(text)
        self.wait_for_end()

    def wait_for_end(self) -> None:
        self.wait_for_end_of_run()
        expect(self.answers.last).not_to_have_class(re.compile("is-running"))

    def wait_for_end_of_run(self) -> None:
        expect(self.page.locator("#send.is-stop")).to_have_count(0)

    def wait_until_at_end(self) -> None:
        """Wait until the view stands within 8 pixels of its end."""
        gap = "(box) => box.scrollHeight - box.scrollTop - box.clientHeight"
        assert wait_for(lambda: self.page.locator("#scroller").evaluate(gap) <= 8, 2)

    def act(self, name: str, message: int = -1) -> None:
        """Click one of the buttons of a message."""
        shown = self.page.locator(".message").nth(message)
        shown.hover()
        shown.locator(f'[data-action="{name}"]').click()

    def set_parameters(self, **values: Any) -> None:
        for name, value in values.items():
            self.page.locator(f'[data-field="{name}"] input[type="number"]').fill(str(value))

    def stored(self) -> list[dict[str, Any]]:
        """The conversations in the browser's storage."""
        found = self.page.evaluate(
            """() => new Promise((resolve) => {
              const opening = indexedDB.open("alpaca-page", 1);
              opening.onsuccess = () => {
                const all = opening.result.transaction("conversations").objectStore("conversations").getAll();
                all.onsuccess = () => { resolve(all.result); opening.result.close(); };
              };
            })"""
        )
        assert isinstance(found, list)
        return found


def visit(browser: Browser, url: str, **options: Any) -> Visit:
    """Open the page in a browser of its own: nothing is stored there yet."""
    context = browser.new_context(
        **{"locale": "zh-CN", "viewport": {"width": 1360, "height": 860}, **options}
    )
    context.set_default_timeout(10_000)
    visit = Visit(url.rstrip("/") + "/", context, context.new_page())
    visit.listen(visit.page)
    visit.page.goto(visit.url)
    return visit


def sent(request: Request) -> dict[str, Any]:
    """The body of a request of the page."""
    body = json.loads(request.post_data or "null")
    assert isinstance(body, dict)
    return body


def reset(engine: FakeEngine) -> FakeEngine:
    """The engine as if it were new, but for the app that serves it."""
    new = vars(type(engine)())
    del new["running"]  # an earlier test may have left something that ends only now
    vars(engine).update(new)
    return engine
