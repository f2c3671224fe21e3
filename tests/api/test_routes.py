"""The other endpoints, their schema and their documentation, on a fake engine."""

import re
from collections.abc import Callable
from typing import Any

import openapi_spec_validator
import pytest
from fastapi.testclient import TestClient

from api.app import VERSION
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import BASE_MODEL
from tests.support.fake_engine import FakeEngine


def test_models_are_listed_under_all_names(serve: Callable[..., TestClient]) -> None:
    client = serve(served_model_name=("first", "org/second"))
    data = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in data] == ["first", "org/second"]
    assert all(model["object"] == "model" and model["max_model_len"] == 2048 for model in data)
    assert client.get("/v1/models/org/second").json() == data[1]


@pytest.mark.parametrize(
    ("asked", "told"), [(None, "first"), ("first", "first"), ("second", "second")]
)
def test_replies_name_the_model_as_asked(
    serve: Callable[..., TestClient], asked: str | None, told: str
) -> None:
    client = serve(served_model_name=("first", "second"))
    assert (
        client.post("/v1/completions", json={"prompt": "a", "model": asked}).json()["model"] == told
    )


def test_a_model_named_by_its_path_is_found(serve: Callable[..., TestClient]) -> None:
    client = serve(model="/data/model")
    assert client.get("/v1/models/%2Fdata%2Fmodel").json()["id"] == "/data/model"
    assert client.get("/v1/models//data/model").json()["id"] == "/data/model"


@pytest.mark.parametrize("path", ["/v1//models", "//v1/models", "/v1/models", "/v1/models/"])
def test_repeated_slashes_are_collapsed(client: TestClient, path: str) -> None:
    assert (
        client.get("http://testserver" + path).json()["data"][0]["id"] == "chinese-llama-alpaca-2"
    )


def test_health_is_there_and_unavailable_while_loading(
    client: TestClient, engine: FakeEngine
) -> None:
    assert client.get("/health").status_code == 200
    assert client.head("/health").status_code == 200
    engine.is_ready = False
    reply = client.get("/health")
    assert reply.status_code == 503
    assert reply.json()["error"]["type"] == "server_error"
    engine.max_model_len = 0
    reply = client.post("/v1/completions", json={"prompt": "a"})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")


def test_version(client: TestClient) -> None:
    assert client.get("/version").json() == {"version": VERSION}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "告诉我中国的首都在哪里"},
        {"prompt": "从前</s>", "raw": True},
        {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "</s>你好"}]},
        {"messages": [{"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}]},
    ],
)
def test_tokenize_shows_the_very_prompt_that_is_sent(
    client: TestClient,
    engine: FakeEngine,
    demo_encoder: SentencePieceEncoder,
    fields: dict[str, Any],
) -> None:
    reply = client.post("/tokenize", json=fields).json()
    client.post("/v1/chat/completions" if "messages" in fields else "/v1/completions", json=fields)
    assert reply["tokens"] == engine.asked[0][0].ids
    assert reply["count"] == len(reply["tokens"])
    assert reply["max_model_len"] == 2048
    assert reply["prompt"] == demo_encoder.decode(reply["tokens"])
    assert client.post("/detokenize", json={"tokens": reply["tokens"]}).json() == {
        "prompt": reply["prompt"]
    }


def test_tokenize_without_the_beginning_of_a_text(
    client: TestClient, demo_encoder: SentencePieceEncoder
) -> None:
    fields = {"prompt": "你好", "raw": True, "add_special_tokens": False}
    assert client.post("/tokenize", json=fields).json()["tokens"] == demo_encoder.encode(["你好"])


def test_the_template_begins_a_chat_prompt_in_any_case(client: TestClient) -> None:
    fields = {"messages": [{"role": "user", "content": "你好"}]}
    bare = client.post("/tokenize", json={**fields, "add_special_tokens": False}).json()
    assert bare == client.post("/tokenize", json=fields).json()


@pytest.mark.parametrize("fields", [{"prompt": "北京😀</s>"}, {"messages": "你好"}])
def test_tokenize_can_spell_each_token(client: TestClient, fields: dict[str, Any]) -> None:
    reply = client.post("/tokenize", json={**fields, "return_token_strs": True}).json()
    assert len(reply["token_strs"]) == reply["count"]
    assert reply["token_strs"][:2] == ["<s>", ""] or reply["token_strs"][0] == "<s>"
    assert "".join(text for text in reply["token_strs"] if "\ufffd" not in text) == reply[
        "prompt"
    ].replace("😀", "")
    assert client.post("/tokenize", json=fields).json()["token_strs"] is None


def test_tokenize_cannot_leave_out_where_an_answer_begins(client: TestClient) -> None:
    question = {"role": "user", "content": "你好"}
    reply = client.post("/tokenize", json={"messages": [question], "add_generation_prompt": False})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "add_generation_prompt")
    begun = [question, {"role": "assistant", "content": "您"}]
    reply = client.post("/tokenize", json={"messages": begun, "add_generation_prompt": False})
    assert reply.json()["prompt"].endswith("[/INST] 您")


def test_tokenize_and_detokenize_name_what_they_ignore(client: TestClient) -> None:
    for path, fields in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [5]})):
        reply = client.post(path, json={**fields, "typo": 1})
        assert (reply.status_code, reply.headers["X-Ignored-Parameters"]) == (200, "typo")


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"messages": "a", "raw": True, "add_special_tokens": False}, "raw, add_special_tokens"),
        ({"messages": "a", "tools": [TOOL]}, None),
        ({"messages": "a", "tools": [TOOL], "tool_choice": "none"}, "tools"),
        (
            {"prompt": "a", "add_generation_prompt": False, "tools": [TOOL]},
            "tools, add_generation_prompt",
        ),
        ({"messages": "a", "tools": [TOOL], "tool_choice": "required"}, None),
    ],
)
def test_tokenize_names_what_its_kind_of_prompt_has_no_use_for(
    client: TestClient, fields: dict[str, Any], ignored: str | None
) -> None:
    assert client.post("/tokenize", json=fields).headers.get("X-Ignored-Parameters") == ignored


def test_tokenize_shows_no_prompt_that_cannot_be_sent(client: TestClient) -> None:
    reply = client.post("/tokenize", json={"messages": "a", "tool_choice": "required"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tool_choice")


@pytest.mark.parametrize(
    "fields", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}]
)
def test_tokenize_wants_one_of_both(client: TestClient, fields: dict[str, Any]) -> None:
    assert client.post("/tokenize", json=fields).status_code == 400


def test_detokenize_refuses_ids_outside_the_vocabulary(client: TestClient) -> None:
    reply = client.post("/detokenize", json={"tokens": [1, 10**8]})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "tokens"


REQUESTS = (
    "CompletionRequest",
    "ChatCompletionRequest",
    "ResponsesRequest",
    "TokenizeRequest",
    "DetokenizeRequest",
)


def test_the_schema_gives_every_request_field_its_type_and_default(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for name in REQUESTS:
        for field, schema in schemas[name]["properties"].items():
            assert (
                "default" in schema
                or field in schemas[name].get("required", [])
                or is_optional(schema)
            ), field
    temperature = schemas["CompletionRequest"]["properties"]["temperature"]
    del temperature["description"]
    assert temperature == {
        "type": "number", "minimum": 0, "maximum": 2, "default": 0.2, "title": "Temperature",
    }  # fmt: skip


def is_optional(schema: dict[str, Any]) -> bool:
    return {"type": "null"} in schema.get("anyOf", ()) or schema.keys() <= {
        *("title", "description", "$ref")
    }


def test_the_schema_is_valid_openapi(client: TestClient) -> None:
    openapi_spec_validator.validate(client.get("/openapi.json").json())


def test_the_docs_need_no_other_host(client: TestClient) -> None:
    page = client.get("/docs").text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(sources) >= 2
    assert all(client.get(source).status_code == 200 for source in sources)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": "你好"}, "messages"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "你好"}], "stream": True},
            "messages",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "assistant", "content": "你"}], "num_beams": 2},
            "messages",
        ),
        ("/v1/completions", {"prompt": "你好", "raw": False}, "raw"),
        ("/v1/completions", {"prompt": ["a", "b"], "raw": False, "stream": True}, "raw"),
        ("/tokenize", {"messages": [{"role": "user", "content": "你好"}]}, "messages"),
        ("/tokenize", {"prompt": "你好", "raw": False}, "raw"),
    ],
)
def test_a_base_model_says_how_to_choose_a_template(
    serve: Callable[..., TestClient], path: str, body: dict[str, Any], param: str
) -> None:
    client = serve(layout=BASE_MODEL, raw_completions=True)
    reply = client.post(path, json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert "--prompt-template" in reply.json()["error"]["message"]
    assert "…" not in reply.json()["error"]["message"]


@pytest.mark.parametrize("raw", [{}, {"raw": True}])
def test_a_base_model_reads_prompts_as_they_are(
    serve: Callable[..., TestClient],
    engine: FakeEngine,
    demo_encoder: SentencePieceEncoder,
    raw: dict[str, Any],
) -> None:
    client = serve(layout=BASE_MODEL, raw_completions=True)
    assert client.post("/v1/completions", json={"prompt": "你好", **raw}).status_code == 200
    assert engine.asked[0][0].ids == demo_encoder.encode([1, "你好"])
    assert (
        client.post("/tokenize", json={"prompt": "你好", **raw}).json()["tokens"]
        == engine.asked[0][0].ids
    )


def test_the_docs_show_the_servers_own_defaults(serve: Callable[..., TestClient]) -> None:
    changed = {"temperature": 0.7, "max_new_tokens": 99}
    schemas = (
        serve(override_generation_config=changed)
        .get("/openapi.json")
        .json()["components"]["schemas"]
    )
    for body in ("CompletionRequest", "ChatCompletionRequest"):
        fields = schemas[body]["properties"]
        assert (fields["temperature"]["default"], fields["max_tokens"]["default"]) == (0.7, 99)
        assert fields["top_p"]["default"] == 0.9
