"""Takes the screenshots of the READMEs, in each language of the page: `python -m tests.page.screenshots URL [FOLDER]`.

URL is that of a running server with the demo model; FOLDER is `docs/images` unless it is given.
"""

import sys
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from tests.support.chat_page import visit
from tests.support.paths import CHROMIUM, ROOT

PICTURES = {"page.png": "en-US", "page.zh.png": "zh-CN"}
"""The locale of the browser in each."""
VIEW = {"width": 1280, "height": 880}
QUESTION = "给我讲一些有关杭州的故事吧"


def take(browser: Browser, url: str, file: Path, locale: str) -> None:
    """Ask, and show how likely each token of the answer was and which ids the model read, in light mode."""
    here = visit(browser, url, locale=locale, color_scheme="light", viewport=VIEW)
    here.wait_until_ready()
    here.set_parameters(temperature=0)
    here.ask_to_the_end(QUESTION)
    here.act("chance")
    expect(here.page.locator(".scored-sum")).to_be_visible()
    here.page.locator("#tab-prompt").click()
    expect(here.page.locator("#panel-prompt button").first).to_be_visible()
    here.page.screenshot(path=file)
    here.context.close()
    here.check()


def main(url: str, folder: str = str(ROOT / "docs" / "images")) -> None:
    """Take all pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, locale in PICTURES.items():
            take(browser, url, Path(folder) / name, locale)


if __name__ == "__main__":
    main(*sys.argv[1:])
