"""Adapters on the real engine: each way of decoding, beside the base model and against peft."""

import json
import math
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.adapters import PROMPT, logprobs_of, pefts_logprobs, write_adapter
from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.polling import wait_for
from tests.support.questions import MODEL
from tests.support.replies import error, numbers
from tests.support.server_process import Server

pytestmark = pytest.mark.engine
KEY = "adapters"
UNLOAD = "/v1/unload_lora_adapter"
LOADED = ("first", "second")
MODELS = (MODEL, *LOADED)
FUNCTION = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
    },
}
ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": (COMPLETIONS, {"prompt": PROMPT, "temperature": 0}),
    "sampled": (COMPLETIONS, {"prompt": PROMPT, "seed": 3, "n": 2, "temperature": 1.5}),
    "best_of": (COMPLETIONS, {"prompt": PROMPT, "seed": 3, "best_of": 4}),
    "beams": (COMPLETIONS, {"prompt": PROMPT, "num_beams": 3, "n": 2}),
    "log-probabilities": (COMPLETIONS, {"prompt": PROMPT, "temperature": 0, "logprobs": 2}),
    "echo": (COMPLETIONS, {"prompt": PROMPT, "echo": True, "max_tokens": 0, "logprobs": 2}),
    "grammar": (CHAT, {"messages": "你好", "temperature": 0, "guided_regex": "[a-z]{12}"}),
    "call": (
        CHAT,
        {
            "messages": "杭州天气怎么样？",
            "temperature": 0,
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": "required",
        },
    ),
    "response": ("/v1/responses", {"input": "龘 你好 asdf", "temperature": 0}),
}
CHANGING = ("id", "created", "created_at", "completed_at", "model", "usage")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The adapters' folders, and that of a third one, which is not loaded at the start."""
    folder = tmp_path_factory.mktemp("adapters")
    names = (*LOADED, "third")
    return {name: write_adapter(folder / name, at, 8 * (at + 1)) for at, name in enumerate(names)}


@pytest.fixture(scope="module")
def adapted(folders: dict[str, Path]) -> Iterator[Server]:
    modules = [f"{name}={folders[name]}" for name in LOADED]
    server = Server(
        "--port", "0", "--api-key", KEY, "--allow-lora-updates", "--lora-modules", *modules
    )
    server.wait_for_banner()
    yield server
    assert server.stop() == 0


@pytest.fixture
def http(adapted: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with closing(httpx.Client(base_url=adapted.url, timeout=120, headers=headers)) as client:
        yield client


def ask(http: httpx.Client, kind: str, model: str) -> Any:
    """What a model answers, without what differs from reply to reply."""
    path, body = ASKS[kind]
    reply = http.post(path, json={"max_tokens": 16, **body, "model": model})
    assert reply.status_code == 200, reply.text
    whole = reply.json()
    assert whole["model"] == model
    found = {name: value for name, value in whole.items() if name not in CHANGING}
    return json.loads(json.dumps(found), object_hook=_without_ids)


def _without_ids(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "id"}


def close(first: Any, second: Any) -> bool:
    """Whether two replies are equal but for the rounding of log-probabilities."""
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, abs_tol=0.05)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(close, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            close(first[key], second[key]) for key in first
        )
    return bool(first == second)


@pytest.mark.parametrize("kind", ASKS)
def test_models_answer_beside_each_other_as_they_do_alone(http: httpx.Client, kind: str) -> None:
    alone = {model: ask(http, kind, model) for model in MODELS}
    assert alone["first"] != alone[MODEL] != alone["second"] != alone["first"] or kind == "call"
    crowd = MODELS * 4
    with ThreadPoolExecutor(len(crowd)) as pool:
        found = list(pool.map(lambda model: ask(http, kind, model), crowd))
    for model, reply in zip(crowd, found, strict=True):
        assert close(reply, alone[model]), (model, reply, alone[model])


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_pefts_to_bfloat16(
    http: httpx.Client, folders: dict[str, Path], model: str
) -> None:
    wanted = pefts_logprobs(folders.get(model))
    differences = sorted(
        abs(one - other) for one, other in zip(logprobs_of(http, model), wanted, strict=True)
    )
    assert differences[len(differences) // 2] < 0.1
    assert differences[-1] < 1.0


def test_streams_and_metrics_are_each_ones_own(http: httpx.Client) -> None:
    name = 'generated_tokens_total{{model="{}"}}'
    for model in MODELS:
        before = numbers(http).get(name.format(model), 0)
        whole = ask(http, "greedy", model)["choices"][0]["text"]
        body = {
            "prompt": PROMPT,
            "temperature": 0,
            "max_tokens": 16,
            "model": model,
            "stream": True,
        }
        text = ""
        with http.stream("POST", COMPLETIONS, json=body) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["text"]
        assert text == whole
        assert numbers(http)[name.format(model)] > before


def test_no_model_takes_what_another_has_cached(http: httpx.Client) -> None:
    prompt = [1, *(300 + at % 999 for at in range(400)), 903]

    def cached(model: str) -> int:
        body = {"prompt": prompt, "max_tokens": 1, "model": model}
        usage = http.post(COMPLETIONS, json=body).json()["usage"]
        found: int = usage.get("prompt_tokens_details", {"cached_tokens": 0})["cached_tokens"]
        return found

    assert [cached(model) for model in MODELS] == [0, 0, 0]
    assert min(cached(model) for model in MODELS) >= 256


def test_an_adapter_goes_when_what_runs_on_it_has_ended_and_another_takes_its_name(
    http: httpx.Client, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["third"], tmp_path / "moving")
    loaded = {"lora_name": "moving", "lora_path": str(folder)}
    assert http.post("/v1/load_lora_adapter", json=loaded).status_code == 200
    first, base = logprobs_of(http, "moving"), logprobs_of(http, MODEL)
    shutil.rmtree(folder)  # it is in memory
    assert logprobs_of(http, "moving") == first
    long = {"prompt": PROMPT, "max_tokens": 1500, "ignore_eos": True, "model": "moving"}
    pieces: list[str] = []
    begun = threading.Event()

    def stream_long() -> None:
        with http.stream("POST", COMPLETIONS, json={**long, "stream": True}) as stream:
            for line in stream.iter_lines():
                pieces.append(line)
                begun.set()

    streaming = threading.Thread(target=stream_long)
    streaming.start()
    assert begun.wait(30)
    with ThreadPoolExecutor(1) as pool:
        unloaded = pool.submit(http.post, UNLOAD, json={"lora_name": "moving"})
        asked = {"prompt": PROMPT, "max_tokens": 1, "model": "moving"}
        assert wait_for(lambda: http.post(COMPLETIONS, json=asked).status_code == 404, 10)
        others = fill_places(http, folders["third"])
        assert close(logprobs_of(http, MODEL), base)
        assert streaming.is_alive()
        assert unloaded.result().status_code == 200
    streaming.join(1)
    assert not streaming.is_alive()  # it had ended before
    for name in others:
        assert http.post(UNLOAD, json={"lora_name": name}).status_code == 200
    assert pieces[-2] == "data: [DONE]"
    assert not any("error" in piece for piece in pieces)
    assert http.post(COMPLETIONS, json=long).status_code == 404
    write_adapter(folder, seed=9, rank=8)
    assert http.post("/v1/load_lora_adapter", json=loaded).status_code == 200
    assert not close(logprobs_of(http, "moving"), first)  # nothing of the old one is in a cache


def fill_places(http: httpx.Client, folder: Path) -> list[str]:
    """Load adapters until there is no place left; returns their names."""
    names: list[str] = []
    while True:
        name = f"more-{len(names)}"
        reply = http.post(
            "/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)}
        )
        if reply.status_code != 200:
            assert reply.status_code == 400
            assert "--max-loras" in reply.json()["error"]["message"]
            return names
        names.append(name)


def test_there_are_only_so_many_places(http: httpx.Client, folders: dict[str, Path]) -> None:
    base = logprobs_of(http, MODEL)
    names = fill_places(http, folders["third"])
    assert 1 <= len(names) <= 4
    assert close(logprobs_of(http, MODEL), base)
    for name in names:
        assert http.post(UNLOAD, json={"lora_name": name}).status_code == 200
    assert http.get("/health").status_code == 200


def test_what_vllm_refuses_is_a_400_that_says_why(http: httpx.Client, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "large", seed=1, rank=128)
    refused = http.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": str(folder)})
    assert "LoRA rank 128 is greater than max_lora_rank" in error(refused, 400).message
