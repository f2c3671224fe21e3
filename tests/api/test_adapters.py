"""Adapters as models of their own: names, templates, and those that come and go. On a fake engine."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from errors import bad_request
from settings import DEMO_MODEL, AdapterModule, Settings, StartError, adapter_module
from template_choice import load_prompt_template
from tests.support.adapter_folders import HIDDEN, write_adapter
from tests.support.fake_engine import FakeEngine
from tests.support.questions import MODEL

KEY = "k"
HEADERS = {"Authorization": f"Bearer {KEY}"}
MODULES = (
    AdapterModule("poet", "/adapters/poet"),
    AdapterModule("plain", "/adapters/plain", "vicuna_v1.1"),
)
ASK = {"messages": "你好", "max_tokens": 4}
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture
def adapted(serve: Callable[..., TestClient]) -> TestClient:
    return serve(lora_modules=MODULES)


@pytest.fixture
def open_to_updates(serve: Callable[..., TestClient]) -> TestClient:
    client = serve(allow_lora_updates=True, api_key=[KEY])
    client.headers.update(HEADERS)
    return client


def test_each_adapter_is_a_model_beside_its_base(adapted: TestClient) -> None:
    listed = adapted.get("/v1/models").json()["data"]
    assert [(model["id"], model["root"], model["parent"]) for model in listed] == [
        (MODEL, str(DEMO_MODEL), None),
        ("poet", "/adapters/poet", MODEL),
        ("plain", "/adapters/plain", MODEL),
    ]
    assert adapted.get("/v1/models/poet").json() == listed[1]
    refusal = adapted.post("/v1/chat/completions", json={**ASK, "model": "other"})
    assert refusal.status_code == 404
    assert "Served here" in refusal.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("model", [None, MODEL, "poet"])
def test_the_name_chooses_who_answers(
    adapted: TestClient, engine: FakeEngine, path: str, model: str | None
) -> None:
    body = {"messages": "你好"} if "chat" in path else {"prompt": "你好"}
    body = {"input": "你好"} if "responses" in path else body
    reply = adapted.post(path, json={**body, "model": model} if model else body)
    assert reply.json()["model"] == (model or MODEL)
    assert engine.asked[-1][1].adapter == ("poet" if model == "poet" else "")


def test_the_template_is_the_adapters_own(adapted: TestClient) -> None:
    prompts = {
        name: adapted.post("/tokenize", json={**ASK, "model": name}).json()["prompt"]
        for name in (MODEL, "poet", "plain")
    }
    assert prompts["poet"] == prompts[MODEL]
    assert "ASSISTANT:" in prompts["plain"]
    assert "[INST]" in prompts[MODEL]


def test_a_name_tells_the_template_where_the_base_has_another(
    serve: Callable[..., TestClient],
) -> None:
    vicuna = load_prompt_template(Settings(prompt_template="vicuna_v1.1")).layout
    modules = [AdapterModule("my-chinese-alpaca-2-lora", "/a"), AdapterModule("poet", "/b")]
    client = serve(layout=vicuna, lora_modules=modules)
    prompts = [
        client.post("/tokenize", json={**ASK, "model": module.name}).json()["prompt"]
        for module in modules
    ]
    assert ["[INST]" in prompt for prompt in prompts] == [True, False]
    with pytest.raises(StartError, match="no prompt template nonsense"):
        serve(lora_modules=[AdapterModule("a", "/a", "nonsense")])


def test_log_and_metrics_tell_them_apart(
    adapted: TestClient, lines: Callable[[], list[str]]
) -> None:
    for name in (MODEL, "poet"):
        adapted.post("/v1/chat/completions", json={**ASK, "model": name})
    assert all(f"model={name}" in line for name, line in zip((MODEL, "poet"), lines(), strict=True))
    shown = adapted.get("/metrics").text
    assert 'generated_tokens_total{model="poet"} 4.0' in shown
    assert f'generated_tokens_total{{model="{MODEL}"}} 4.0' in shown


def test_adapters_come_and_go(
    open_to_updates: TestClient, engine: FakeEngine, tmp_path: Path
) -> None:
    client, folder = open_to_updates, write_adapter(tmp_path / "a")
    body = {"lora_name": "a", "lora_path": str(folder)}
    loaded = client.post(LOAD, json=body)
    assert (loaded.status_code, loaded.text) == (
        200,
        "Success: LoRA adapter 'a' added successfully.",
    )
    assert engine.adapters == {"a": str(folder)}
    assert client.post("/v1/chat/completions", json={**ASK, "model": "a"}).status_code == 200
    again = client.post(LOAD, json=body)
    assert (again.status_code, again.json()["error"]["param"]) == (400, "lora_name")
    unloaded = client.post(UNLOAD, json={"lora_name": "a", "lora_int_id": 1})
    assert unloaded.status_code == 200
    assert "removed" in unloaded.text
    assert engine.adapters == {}
    assert client.post("/v1/chat/completions", json={**ASK, "model": "a"}).status_code == 404
    assert client.post(UNLOAD, json={"lora_name": "a"}).status_code == 404
    assert client.post(UNLOAD, json={"lora_name": MODEL}).status_code == 404


def test_what_cannot_be_served_is_refused_with_a_sentence(
    open_to_updates: TestClient, engine: FakeEngine, tmp_path: Path
) -> None:
    def refusal(path: Path) -> str:
        reply = open_to_updates.post(LOAD, json={"lora_name": "x", "lora_path": str(path)})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "lora_path")
        return str(reply.json()["error"]["message"])

    assert "There is no directory" in refusal(tmp_path / "nothing")
    assert "has no adapter_config.json" in refusal(tmp_path)
    assert "is of another base model" in refusal(write_adapter(tmp_path / "other", columns=8))
    whole = write_adapter(tmp_path / "whole")
    rows = {"base_model.model.model.embed_tokens.weight": torch.ones(9, HIDDEN)}
    save_file(rows, whole / "adapter_model.safetensors")
    assert "merge it into its base model with python -m tools.merge" in refusal(whole)
    assert engine.adapters == {}


def test_a_refused_load_leaves_nothing(
    open_to_updates: TestClient, engine: FakeEngine, tmp_path: Path
) -> None:
    body = {"lora_name": "a", "lora_path": str(write_adapter(tmp_path / "a"))}
    for fields, param in (
        ({"prompt_template": "nonsense"}, "prompt_template"),
        ({"load_inplace": True}, "load_inplace"),
        ({"lora_name": "a\nid=1 status=200"}, "lora_name"),
        ({"lora_name": "a" * 257}, "lora_name"),
        ({"lora_name": ""}, "lora_name"),
        ({"lora_name": MODEL}, "lora_name"),
    ):
        reply = open_to_updates.post(LOAD, json={**body, **fields})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    engine.refusal = bad_request("vLLM refuses the adapter: too large", "lora_path")
    assert "too large" in open_to_updates.post(LOAD, json=body).json()["error"]["message"]
    assert engine.adapters == {}
    assert len(open_to_updates.get("/v1/models").json()["data"]) == 1
    engine.refusal = None
    loaded = open_to_updates.post(LOAD, json={**body, "is_3d_lora_weight": False})
    assert (loaded.status_code, loaded.headers["X-Ignored-Parameters"]) == (
        200,
        "is_3d_lora_weight",
    )


def test_no_path_of_the_machine_is_told(
    open_to_updates: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    body = {"lora_name": "a", "lora_path": "~"}
    message = open_to_updates.post(LOAD, json=body).json()["error"]["message"]
    assert message == "lora_path is no adapter: it has no adapter_config.json."


def test_nothing_changes_while_the_model_loads(
    open_to_updates: TestClient, engine: FakeEngine, tmp_path: Path
) -> None:
    body = {"lora_name": "a", "lora_path": str(write_adapter(tmp_path / "a"))}
    assert open_to_updates.post(LOAD, json=body).status_code == 200
    engine.is_ready = False
    for path in (LOAD, UNLOAD):
        assert open_to_updates.post(path, json=body).status_code == 503
    engine.is_ready = True
    assert open_to_updates.post(UNLOAD, json=body).status_code == 200


def test_updates_need_a_flag_and_a_key(
    client: TestClient, open_to_updates: TestClient, tmp_path: Path
) -> None:
    body = {"lora_name": "a", "lora_path": str(tmp_path)}
    for path in (LOAD, UNLOAD):
        assert client.post(path, json=body).status_code == 404
        wrong = open_to_updates.post(path, json=body, headers={"Authorization": "Bearer no"})
        assert wrong.status_code == 401


def test_the_flag_is_read_as_vllm_reads_it() -> None:
    assert adapter_module("a=/b=c") == AdapterModule("a", "/b=c")
    text = '{"name": "a", "path": "/b", "base_model_name": "c", "prompt_template": "alpaca"}'
    assert adapter_module(text) == AdapterModule("a", "/b", "alpaca")
    vllms = '{"name": "a", "path": "/b", "is_3d_lora_weight": false}'
    assert adapter_module(vllms) == AdapterModule("a", "/b")
    for wrong in ("a", "a=", "=b", '{"name": "a"}', '{"name": "a", "path": "b", "rank": 1}',
                  '{"name": "", "path": "b"}', '{"name": "a", "path": ""}'):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            adapter_module(wrong)
