"""The numbers of `/metrics`: of requests, and of the engine."""

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.support.bodies import ASK, LONG
from tests.support.fake_engine import FakeEngine
from tests.support.polling import wait_for
from tests.support.questions import MODEL
from tests.support.replies import numbers


def test_metrics_count(client: TestClient, engine: FakeEngine) -> None:
    before = numbers(client)
    prompt_tokens = client.post("/v1/completions", json=ASK).json()["usage"]["prompt_tokens"]
    client.post("/v1/completions", json={**ASK, "stream": True})
    client.post("/v1/completions", json={"prompt": 1})
    after = numbers(client)

    def gained(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert gained('http_requests_total{method="POST",path="/v1/completions",status="200"}') == 2
    assert gained('http_requests_total{method="POST",path="/v1/completions",status="400"}') == 1
    assert gained(f'prompt_tokens_total{{model="{MODEL}"}}') == 2 * prompt_tokens
    assert gained(f'generated_tokens_total{{model="{MODEL}"}}') == 8
    assert gained("time_to_first_token_seconds_count") == 2
    assert gained('http_request_duration_seconds_count{path="/v1/completions"}') == 3
    assert after["http_requests_in_flight"] == 1  # this one


@pytest.mark.engine
def test_the_engine_is_seen(http: httpx.Client) -> None:
    with http.stream(
        "POST", "/v1/completions", json={**LONG, "prompt": "你好", "stream": True}
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert wait_for(lambda: numbers(http)["vllm:num_requests_running"] == 1, 2)
        assert 0 < numbers(http)["vllm:kv_cache_usage_perc"] < 1
    assert wait_for(lambda: numbers(http)["vllm:kv_cache_usage_perc"] == 0, 2)
