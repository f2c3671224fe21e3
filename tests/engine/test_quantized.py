"""Quantised weights on the real engine: those that run here are served, and keep the demo model's score."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
import torch

from quantization import has_avx512
from settings import DEMO_MODEL
from tests.support.adapters import logprobs_of, pefts_logprobs, write_adapter
from tests.support.held_out import held_out_score
from tests.support.questions import MODEL
from tests.support.server_process import Server
from tools.quantize import quantize

pytestmark = pytest.mark.engine
MOST_LOST = 0.02


@contextmanager
def serving(*flags: str) -> Iterator[Server]:
    server = Server("--port", "0", "--enforce-eager", *flags)
    server.wait_for_banner()
    try:
        yield server
    finally:
        assert server.stop() == 0


@pytest.fixture(scope="module")
def score(server: Server) -> float:
    """That of the weights as they are."""
    return held_out_score(server.url)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "poet", seed=1, rank=8)


def test_int8_keeps_the_score(tmp_path: Path, score: float) -> None:
    out = tmp_path / "demo-int8"
    quantize(DEMO_MODEL, out, "int8")
    with serving("--model", str(out), "--prompt-template", "alpaca-2") as server:
        assert held_out_score(server.url) >= score - MOST_LOST


@pytest.mark.skipif(not has_avx512(), reason="vLLM computes 4 bits on a CPU with AVX-512 only")
def test_int4_is_served_where_the_processor_can_with_adapters(
    tmp_path: Path, score: float, adapter: Path
) -> None:
    out = tmp_path / "demo-int4"
    quantize(DEMO_MODEL, out, "int4")
    flags = ("--model", str(out), "--served-model-name", MODEL, "--prompt-template", "alpaca-2")
    with serving(*flags, "--lora-modules", f"poet={adapter}") as server:
        assert held_out_score(server.url) >= score - 0.1
        assert_adapted(server, adapter)


def test_fp8_is_made_as_the_weights_are_loaded_with_adapters(score: float, adapter: Path) -> None:
    flags = ("--quantization", "fp8_per_channel", "--lora-modules", f"poet={adapter}")
    with serving(*flags) as server:
        assert held_out_score(server.url) >= score - MOST_LOST
        assert_adapted(server, adapter)


def assert_adapted(server: Server, adapter: Path) -> None:
    """Base model and adapter score a chat as peft has each of them do it, and not the other."""
    chat = [
        {"role": "user", "content": "中国的首都在哪里？"},
        {"role": "assistant", "content": "中国的首都是北京。"},
    ]
    with closing(httpx.Client(base_url=server.url, timeout=120)) as http:
        ids = http.post("/tokenize", json={"messages": chat}).json()["tokens"]
        found = {model: torch.tensor(logprobs_of(http, model, ids)) for model in (MODEL, "poet")}
    folders = {MODEL: None, "poet": adapter}
    expected = {
        model: torch.tensor(pefts_logprobs(folder, ids)) for model, folder in folders.items()
    }
    for model, other in ((MODEL, "poet"), ("poet", MODEL)):
        right, wrong = ((found[model] - expected[one]).abs().median() for one in (model, other))
        assert right < wrong / 3, (model, right, wrong)
