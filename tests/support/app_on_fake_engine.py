"""The app on a fake engine, on a real socket."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from api.app import build_app
from prompt_template import PromptTemplate
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import ALPACA_2, Layout
from server.sockets import bind_sockets
from server.uvicorn_server import DrainingServer, uvicorn_config
from settings import Settings
from tests.support.fake_engine import FakeEngine
from tests.support.polling import wait_for

logged: list[str] = []
"""What the apps on fake engines would show on the terminal."""


@contextmanager
def serving(
    engine: FakeEngine, encoder: SentencePieceEncoder, layout: Layout = ALPACA_2, **settings: Any
) -> Iterator[tuple[str, DrainingServer]]:
    """An app on a fake engine, on a real socket, in a thread: its URL, and the server."""
    chosen = Settings(host="127.0.0.1", port=0, **settings)
    sockets = bind_sockets(chosen)
    template = PromptTemplate(layout, encoder)

    def died() -> None:
        server.should_exit = True

    app = build_app(engine, template, chosen, log=logged.append, died=died)
    server = DrainingServer(uvicorn_config(app, chosen), engine, chosen.drain_timeout)
    thread = threading.Thread(target=server.run, args=(sockets,))
    thread.start()
    assert wait_for(lambda: server.started, 10)
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


@contextmanager
def listening(engine: FakeEngine, encoder: SentencePieceEncoder, **settings: Any) -> Iterator[str]:
    with serving(engine, encoder, **settings) as (url, _):
        yield url
