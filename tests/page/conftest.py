"""What pytest gives the tests of the page: one browser and one app for all, an engine and a visit for each."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from prompts.encoder import SentencePieceEncoder
from tests.support.app_on_fake_engine import listening
from tests.support.chat_page import Visit, reset, shared, visit
from tests.support.fake_engine import FakeEngine
from tests.support.paths import CHROMIUM


@pytest.fixture(scope="package", autouse=True)
def browser() -> Iterator[Browser | None]:
    """Chromium for the tests of the page; it ends with them, for its event loop runs in their thread."""
    if not CHROMIUM:
        yield None
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shared.append(browser)
        yield browser
        shared.clear()
        browser.close()


@pytest.fixture(scope="package")
def app_engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="package")
def url(app_engine: FakeEngine, demo_encoder: SentencePieceEncoder) -> Iterator[str]:
    with listening(app_engine, demo_encoder) as url:
        yield url


@pytest.fixture
def engine(app_engine: FakeEngine) -> FakeEngine:
    return reset(app_engine)


@pytest.fixture
def open_page(browser: Browser, url: str, engine: FakeEngine) -> Iterator[Callable[..., Visit]]:
    """Opens the page, also of another URL; in the end nothing may have gone wrong there."""
    visits: list[Visit] = []

    def opened(at: str = url, **options: Any) -> Visit:
        visits.append(visit(browser, at, **options))
        return visits[-1]

    yield opened
    for each in visits:
        each.context.close()
    for each in visits:
        each.check()


@pytest.fixture
def open_guarded(
    open_page: Callable[..., Visit], demo_encoder: SentencePieceEncoder
) -> Iterator[Callable[[str], Visit]]:
    """Opens the page of a server that wants the given key."""
    with ExitStack() as servers:

        def opened(key: str) -> Visit:
            app = listening(FakeEngine(), demo_encoder, api_key=[key])
            visit = open_page(servers.enter_context(app))
            visit.may_fail = True
            return visit

        yield opened


@pytest.fixture
def here(open_page: Callable[..., Visit]) -> Visit:
    """A visit, once the page knows the model."""
    visit = open_page()
    visit.wait_until_ready()
    return visit
