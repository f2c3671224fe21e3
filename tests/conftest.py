"""What pytest gives the tests: the app on a fake engine, the demo model's encoder, one real server for the session."""

import gc
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI

from api.app import build_app
from prompt_template import PromptTemplate
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import ALPACA_2
from settings import DEMO_MODEL, Settings
from tests.support.app_on_fake_engine import logged
from tests.support.fake_engine import FakeEngine
from tests.support.server_process import BATCH, ROOM, Server


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--program tests/support/vllms_own_parts.py` runs the tests of the real server without its lighter parts."""
    parser.addoption("--program", default="openai_api_server_vllm.py")


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Leave what earlier modules have imported and made out of Python's garbage collections, as a server does at start.

    Else one of them takes half a second over a million objects, in the midst of a test that measures time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def demo_encoder() -> SentencePieceEncoder:
    return SentencePieceEncoder(DEMO_MODEL / "tokenizer.model")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def serve(engine: FakeEngine, demo_encoder: SentencePieceEncoder) -> Callable[..., TestClient]:
    """A client of the app on the fake engine, for the settings given."""

    def client(**settings: Any) -> TestClient:
        layout, system = settings.pop("layout", ALPACA_2), settings.pop("system_text", None)
        template = PromptTemplate(layout, demo_encoder, system)
        app = build_app(engine, template, Settings(**settings), log=logged.append)
        return TestClient(app, raise_server_exceptions=False)

    return client


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    return serve()


@pytest.fixture
def lines() -> Callable[[], list[str]]:
    """The lines that the apps log, as they come."""
    logged.clear()
    return lambda: [*logged]


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The real server with vLLM on the demo model, one for all tests."""
    program = pytestconfig.getoption("--program")
    flags = ("--port", "0", "--max-num-queued-reqs", str(ROOM), "--max-num-seqs", str(BATCH))
    server = Server(*flags, program=program)
    server.wait_for_banner()
    yield server
    assert server.stop() == 0
    assert "leaked" not in "".join(server.lines)  # no library complains at the end


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with closing(httpx.Client(base_url=server.url, timeout=120)) as client:
        yield client


@pytest.fixture(scope="session")
def openai(server: Server) -> OpenAI:
    """The official client of the real server."""
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
