"""A browser's page from which the panels are imported one by one, beside the app on a fake engine."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from playwright.sync_api import ConsoleMessage, Page, Route

from generation import Decoding, Prompt, TokenLogprob
from prompts.encoder import SentencePieceEncoder
from server.page import POLICY
from tests.support.app_on_fake_engine import listening
from tests.support.chat_page import shared
from tests.support.fake_engine import FakeEngine

EMPTY = (
    "<!doctype html><html lang=zh-CN><meta charset=utf-8><title>panels</title><main id=panels></main>"
    "<svg class=icon aria-hidden=true><use/></svg>"
)
APP = """
async () => {
  const message = (id, parent, role, content) => ({id, parent, role, content, created: 0});
  const messages = {
    a: message("a", null, "user", "讲讲杭州"), b: message("b", "a", "assistant", "西湖很美😀。去看看吧。"),
  };
  const listeners = {};
  const app = window.app = {
    model: {id: "chinese-llama-alpaca-2", max_model_len: 2048}, draft: "", parameters: {}, branches: [], opened: null,
    conversation: {mode: "chat", leaf: "b", system: "", messages},
    messages: () => app.asked ?? [{role: "user", content: app.draft}],
    on: (name, f) => (listeners[name] ??= []).push(f),
    emit: (name) => (listeners[name] ?? []).forEach((f) => f()),
    branch: (...values) => app.branches.push(values),
    openCompletion: (text) => { app.opened = text; },
    showPanel: () => {},
  };
}
"""
"""The part of the page that the panels are given, as an object of its own."""


@dataclass
class ScoringEngine(FakeEngine):
    """Finds each token half likely, and the same rivals beside it."""

    rivals: tuple[int, ...] = ()

    async def score(
        self, prompt: Prompt, decoding: Decoding, request_id: str
    ) -> list[TokenLogprob]:
        wanted = decoding.alternatives or 0
        top = [(token_id, math.log(0.2 / (at + 1))) for at, token_id in enumerate(self.rivals)]
        return [
            TokenLogprob(token_id, math.log(0.5) if at else None, top[:wanted] if at else ())
            for at, token_id in enumerate(prompt.ids)
        ]


@contextmanager
def panel_page(encoder: SentencePieceEncoder, engine: FakeEngine | None = None) -> Iterator[Page]:
    """A page with nothing on it, under the policy of the chat page, with the app on `engine` as its origin.

    Asserts in the end that its console has stayed empty and that it has asked no other host.
    """
    with listening(engine or FakeEngine(), encoder) as url:
        page = shared[0].new_context(locale="zh-CN").new_page()
        wrong: list[str] = []

        def answer(route: Route) -> None:
            asked = route.request.url
            if asked == f"{url}/":
                headers = {"Content-Security-Policy": POLICY}
                route.fulfill(body=EMPTY, content_type="text/html", headers=headers)
            elif not asked.startswith(f"{url}/"):
                wrong.append(asked)
                route.abort()
            else:
                route.continue_()

        def hear(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                wrong.append(message.text)

        page.context.route("**/*", answer)
        page.on("console", hear)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{url}/")
        page.evaluate(APP)
        yield page
        page.context.close()
        assert wrong == []
