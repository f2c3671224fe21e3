"""The command on a fake engine, in a process: `python tests/support/seeded_server.py FLAGS`.

A request's seed says how it is answered. On SIGUSR1 the engine dies.
"""

import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from api.app import build_app
from prompt_template import PromptTemplate
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import ALPACA_2
from server.sockets import to_port, to_sockets
from server.uvicorn_server import DrainingServer, uvicorn_config
from settings import DEMO_MODEL, parse_settings
from tests.support.seeded_engine import seeded_engine


def main() -> int:
    """Serve until a signal; the exit status is 1 if the engine has died."""
    settings, _ = parse_settings(sys.argv[1:])
    sockets = to_sockets(settings)
    settings = replace(settings, port=to_port(sockets[0]))
    engine = seeded_engine()
    template = PromptTemplate(ALPACA_2, SentencePieceEncoder(DEMO_MODEL / "tokenizer.model"))

    def log(line: str) -> None:
        print(line, flush=True)

    def started(_: asyncio.Task[None]) -> None:
        log(f"Ready at {settings.url}/v1\n")

    def died() -> None:
        server.should_exit = True

    app = build_app(engine, template, settings, log, started, died)
    server = DrainingServer(uvicorn_config(app, settings), engine, settings.drain_timeout)
    signal.signal(signal.SIGUSR1, lambda *_: setattr(engine, "is_dead", True))
    server.run(sockets)
    return int(engine.is_dead)


if __name__ == "__main__":
    sys.exit(main())
