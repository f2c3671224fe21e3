"""Clients of `/v1/responses` against the real server, and of both endpoints through litellm and its proxy."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.client_programs import (
    ANSWER,
    MODEL,
    OFFICIAL,
    OFFLINE,
    QUESTION,
    Ask,
    asking,
    is_city,
    output,
    tool,
)
from tests.support.polling import wait_for
from tests.support.server_process import Server

BODY = {"model": MODEL, "temperature": 0, "input": [{"role": "user", "content": QUESTION}]}
pytestmark = pytest.mark.engine


def text(response: dict[str, Any]) -> str:
    """Of the messages among a response's items."""
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


def joined(events: list[dict[str, Any]]) -> str:
    deltas = (event for event in events if event["type"] == "response.output_text.delta")
    return "".join(event["delta"] for event in deltas)


@pytest.mark.parametrize("environment", OFFICIAL)
def test_an_official_client_reads_one_response_in_each_of_its_ways(
    ask: Ask, environment: str
) -> None:
    read = ask(environment, "with_openai_responses", "respond", **BODY)
    events = read["events"]
    assert read["text"] == text(read["plain"]) == text(read["final"]) == joined(events) == ANSWER
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    types = [event["type"] for event in events]
    assert [*dict.fromkeys(types)] == [*dict.fromkeys(read["runner"])]  # deltas are as they come
    assert (read["runner"][0], read["runner"][-1]) == ("response.created", "response.completed")
    assert events[-1]["response"]["usage"] == read["plain"]["usage"]
    assert read["plain"]["status"] == read["final"]["status"] == "completed"


@pytest.mark.parametrize("environment", ["openai3", "openai2"])
def test_the_asynchronous_official_client_reads_the_same(ask: Ask, environment: str) -> None:
    read = ask(environment, "with_openai_responses", "respond_async", **BODY)
    assert text(read["plain"]) == text(read["final"]) == joined(read["events"]) == ANSWER


@pytest.mark.parametrize("environment", OFFICIAL)
def test_an_official_client_parses_structured_output(ask: Ask, environment: str) -> None:
    read = ask(environment, "with_openai_responses", "parse", **BODY)
    assert is_city(read["plain"])
    assert json.loads(read["text"]) == read["streamed"] == read["plain"]
    assert "response.output_text.done" in read["events"]


@pytest.mark.parametrize("environment", OFFICIAL)
@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "name": "City"}], ids=str)
def test_an_official_client_reads_a_forced_call_and_answers_it(
    ask: Ask, environment: str, tool_choice: dict[str, Any] | str
) -> None:
    read = ask(environment, "with_openai_responses", "call", **BODY, tool_choice=tool_choice)
    [call] = read["plain"]["output"]
    assert (call["type"], call["name"]) == ("function_call", "City")
    assert is_city(json.loads(call["arguments"]))
    for way in ("parsed", "final"):
        [same] = read[way]["output"]
        assert same["arguments"] == call["arguments"]
    [parsed] = read["parsed"]["output"]
    assert is_city(parsed["parsed_arguments"])
    assert "response.function_call_arguments.done" in read["events"]
    assert read["answer"]


@pytest.mark.parametrize("environment", OFFICIAL)
@pytest.mark.parametrize(
    ("fields", "details"),
    [
        ({"model": "gpt-4"}, ["NotFoundError", 404, "model", "model_not_found"]),
        ({"input": "北京" * 3000}, ["BadRequestError", 400, "input", "context_length_exceeded"]),
        (
            {"previous_response_id": "resp_1"},
            ["BadRequestError", 400, "previous_response_id", None],
        ),
    ],
    ids=["model", "context", "previous_response_id"],
)
def test_an_official_client_raises_the_error_that_fits(
    ask: Ask, environment: str, fields: dict[str, Any], details: list[Any]
) -> None:
    read = ask(environment, "with_openai_responses", "fail", **{**BODY, **fields})
    assert read["raised"] == [details] * 2


def test_the_ai_sdk_reads_text_whole_and_streamed(ask: Ask) -> None:
    read = ask("node", "with_ai_sdk_openai", "text", model=MODEL, prompt=QUESTION)
    assert read["errors"] == []
    assert read["streamed"] == read["plain"]
    assert (read["plain"]["text"], read["plain"]["finishReason"]) == (ANSWER, "stop")
    assert read["pieces"] > 3


def test_the_ai_sdk_generates_objects_whole_and_streamed(ask: Ask) -> None:
    read = ask("node", "with_ai_sdk_openai", "object", model=MODEL, prompt=QUESTION)
    assert is_city(read["plain"])
    assert read["streamed"] == read["plain"]


@pytest.mark.parametrize("tool_choice", ["auto", "required"])
def test_the_ai_sdk_runs_a_call_and_reads_the_answer_to_its_result(
    ask: Ask, tool_choice: str
) -> None:
    read = ask("node", "with_ai_sdk_openai", "steps", model=MODEL, toolChoice=tool_choice)
    for called, answered in (read["plain"], read["streamed"]):
        assert called[:2] == ["", "tool-calls"]
        assert len(called[2]) == 1
        if tool_choice == "auto":
            assert (answered[1], answered[2], answered[0] != "") == ("stop", [], True)


def test_the_ai_sdk_sends_its_own_messages_again_where_it_is_told_that_nothing_is_kept(
    ask: Ask,
) -> None:
    options = {"openai": {"store": False}}
    read = ask("node", "with_ai_sdk_openai", "turns", model=MODEL, providerOptions=options)
    assert all(read)


def test_the_ai_sdk_reads_errors(ask: Ask) -> None:
    read = ask("node", "with_ai_sdk_openai", "fail", model="gpt-4", prompt=QUESTION)
    assert read["raised"] == [["AI_APICallError", 404, "model", "model_not_found"]] * 2


def test_langchain_reads_responses(ask: Ask) -> None:
    read = ask("openai3", "with_langchain", "respond", model=MODEL)
    assert text({"output": [{"type": "message", "content": read["invoke"]["content"]}]}) == ANSWER
    assert read["invoke"]["usage_metadata"]["output_tokens"] > 0
    assert (read["stream"], read["again"]) == (ANSWER, "法国的首都是巴黎。")
    assert is_city(read["structured"])
    [call] = read["call"]
    assert is_city(call["args"])


def test_litellm_reads_completions(ask: Ask) -> None:
    read = ask("litellm", "with_litellm", "chat", model=MODEL)
    for way in ("plain", "streamed"):
        [choice] = read[way]["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (ANSWER, "stop")
        assert read[way]["usage"]["completion_tokens"] > 0
    assert is_city(json.loads(read["structured"]))


@pytest.mark.parametrize("tool_choice", ["auto", "required"])
def test_litellm_reads_a_call(ask: Ask, tool_choice: str) -> None:
    read = ask("litellm", "with_litellm", "call", model=MODEL, tool_choice=tool_choice)
    for way in ("plain", "streamed"):
        [choice] = read[way]["choices"]
        [call] = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls"
        assert call["function"]["name"] == "get_weather"
        assert [*json.loads(call["function"]["arguments"])] == ["city"]


def test_litellm_reads_responses(ask: Ask) -> None:
    read = ask("litellm", "with_litellm", "respond", model=MODEL)
    assert text(read["plain"]) == text(read["streamed"]) == ANSWER
    assert read["events"][-1] == "response.completed"


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """litellm's proxy before the server."""
    program, directory = tool("litellm", "litellm"), tmp_path_factory.mktemp("proxy")
    there = {"model": f"openai/{MODEL}", "api_base": f"{server.url}/v1", "api_key": "none"}
    models = {"model_list": [{"model_name": MODEL, "litellm_params": there}]}
    (directory / "config.yaml").write_text(json.dumps(models), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**OFFLINE, "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            return httpx.get(f"{url}/health/liveliness").status_code == 200
        except httpx.TransportError:
            return False

    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=directory, env={**os.environ, **environment}, stdout=log, stderr=log
        )
        try:
            assert wait_for(is_up, 90), (directory / "log").read_text(encoding="utf-8")
            yield url
        finally:
            process.terminate()
            process.wait(30)


def test_an_official_client_reads_the_same_through_litellms_proxy(proxy: str) -> None:
    chat = {"model": MODEL, "temperature": 0, "messages": BODY["input"]}
    read = asking(proxy)("openai3", "with_openai", "chat", **chat)
    for way in ("plain", "final"):
        [choice] = read[way]["choices"]
        assert choice["message"]["content"] == ANSWER
    read = asking(proxy)("openai3", "with_openai_responses", "respond", **BODY)
    assert read["text"] == text(read["final"]) == joined(read["events"]) == ANSWER


def test_promptfoo_evaluates_both_endpoints(server: Server, tmp_path: Path) -> None:
    program = [tool("node", "node"), tool("node", "promptfoo")]
    there = {"apiBaseUrl": f"{server.url}/v1", "apiKey": "none", "temperature": 0}
    providers = [f"openai:{kind}:{MODEL}" for kind in ("chat", "responses")]
    config = {
        "prompts": ["{{question}}"],
        "providers": [{"id": provider, "config": there} for provider in providers],
        "tests": [
            {"vars": {"question": QUESTION}, "assert": [{"type": "equals", "value": ANSWER}]}
        ],
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    arguments = ["eval", "-c", "config.json", "-o", "results.json", "--no-cache", "--no-write"]
    output([*program, *arguments], cwd=tmp_path, env={"PROMPTFOO_CONFIG_DIR": str(tmp_path)})
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["results"]
    # They are asked at once, and listed as they end.
    assert sorted(result["provider"]["id"] for result in results["results"]) == providers
    assert results["stats"]["successes"] == len(providers)
