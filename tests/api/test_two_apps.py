"""Two apps in one process: neither waits for the other, and neither counts for the other."""

import threading
from collections.abc import Callable, Sequence

import pytest
from fastapi.testclient import TestClient

from prompts.encoder import Run, SentencePieceEncoder
from server.offload import THREAD_MIN_BYTES

COMPLETIONS, TOKENIZE = "/v1/completions", "/tokenize"
LONG = "a" * THREAD_MIN_BYTES


@pytest.mark.parametrize("path", [COMPLETIONS, TOKENIZE])
def test_an_app_does_not_wait_for_a_long_body_of_another(
    serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    encode = SentencePieceEncoder.encode

    def encode_late(self: SentencePieceEncoder, runs: Sequence[Run]) -> list[int]:
        if any("late" in str(run) for run in runs):
            begun.set()
            assert may_end.wait(30)
        return encode(self, runs)

    monkeypatch.setattr(SentencePieceEncoder, "encode", encode_late)
    first, second = serve(), serve()
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(first.post(path, json={"prompt": f"{LONG} late"}).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert begun.wait(10)
        assert second.post(path, json={"prompt": LONG}).status_code in (200, 400)
        assert not statuses
    finally:
        may_end.set()
        asking.join(10)
    assert statuses


def test_what_one_app_counts_is_not_in_the_metrics_of_another(
    serve: Callable[..., TestClient],
) -> None:
    first, second = serve(), serve()
    assert first.post(COMPLETIONS, json={"prompt": "a"}).status_code == 200
    row = 'http_requests_total{method="POST",path="/v1/completions",status="200"} 1.0'
    assert row in first.get("/metrics").text
    shown = second.get("/metrics").text
    assert "http_requests_total{" not in shown
    assert "prompt_tokens_total{" not in shown


def test_the_metrics_of_the_process_are_among_those_of_each_app(
    serve: Callable[..., TestClient],
) -> None:
    """Where vLLM's are, too."""
    for client in (serve(), serve()):
        names = [
            line.split()[2]
            for line in client.get("/metrics").text.splitlines()
            if line.startswith("# TYPE ")
        ]
        assert {"python_info", "http_requests_total", "asyncio_tasks"} <= {*names}
        assert len(names) == len({*names})
