"""The clients that people use, against the real server, each in a process and an environment of its own.

`make test-clients` installs them. What is in `tests/clients` sends and reads; here stands what must be read.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.city import City
from tests.support.client_programs import (
    ANSWER,
    CLIENTS,
    MODEL,
    OFFICIAL,
    QUESTION,
    Ask,
    is_city,
    output,
    tool,
)
from tests.support.paths import ROOT
from tests.support.server_process import Server

OTHER_ANSWER = "法国的首都是巴黎。"
CHAT = {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
STORY = {**CHAT, "messages": [{"role": "user", "content": "给我讲一些有关杭州的故事吧"}]}
PROMPTS = {
    "model": MODEL,
    "temperature": 0,
    "prompt": [QUESTION, "给我讲一些有关杭州的故事吧"],
    "max_tokens": 40,
}
TOO_LONG = "北京" * 3000
FAULTS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "n": ({"n": 1000}, [400, "n", None]),
    "model": ({"model": "gpt-4"}, [404, "model", "model_not_found"]),
    "context": (
        {"messages": [{"role": "user", "content": TOO_LONG}]},
        [400, "messages", "context_length_exceeded"],
    ),
}
Samples = dict[str, list[dict[str, Any]]]
"""Of each of lm-eval's tasks."""
Evaluate = Callable[..., Samples]
pytestmark = pytest.mark.engine


def extra(environment: str, **fields: Any) -> dict[str, Any]:
    """Fields that OpenAI's API does not have, as the official clients want them."""
    return fields if environment == "node" else {"extra_body": fields}


def contents(reply: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in reply["choices"]]


def joined(chunks: list[dict[str, Any]]) -> list[str]:
    """The texts of a stream's choices, of either endpoint."""
    texts: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        piece = choice["delta"].get("content") if "delta" in choice else choice["text"]
        texts[choice["index"]] = texts.get(choice["index"], "") + (piece or "")
    return [texts[index] for index in sorted(texts)]


def spelt(logged: list[dict[str, Any]]) -> str:
    """The text that the bytes of a choice's log-probabilities spell."""
    return bytes(byte for token in logged for byte in token["bytes"]).decode()


@pytest.mark.parametrize("environment", OFFICIAL)
@pytest.mark.parametrize("n", [1, 2])
def test_an_official_client_reads_one_answer_in_each_of_its_ways(
    ask: Ask, environment: str, n: int
) -> None:
    read = ask(environment, "with_openai", "chat", **STORY, n=n)
    plain = read["plain"]
    texts = contents(plain)
    assert len(texts) == n
    assert "杭州" in texts[0]
    assert contents(read["raw"]) == contents(read["final"]) == joined(read["chunks"]) == texts
    assert read["type"].startswith("application/json")
    assert read["chunks"][-1]["choices"] == []
    assert read["chunks"][-1]["usage"] == plain["usage"]
    assert {"content.delta", "content.done"} <= set(read["events"])


@pytest.mark.parametrize("environment", OFFICIAL)
def test_an_official_client_reads_the_beams_of_a_search(ask: Ask, environment: str) -> None:
    read = ask(environment, "with_openai", "chat", **STORY, n=2, **extra(environment, num_beams=3))
    first, second = contents(read["plain"])
    assert first != second
    assert (
        contents(read["raw"])
        == contents(read["final"])
        == joined(read["chunks"])
        == [first, second]
    )


@pytest.mark.parametrize("environment", OFFICIAL)
def test_an_official_client_passes_over_events_that_show_beams(ask: Ask, environment: str) -> None:
    body = {**STORY, "n": 2, **extra(environment, num_beams=3)}
    read = ask(environment, "with_openai", "beams", **body)
    texts = contents(read["plain"])
    assert contents(read["final"]) == joined(read["chunks"]) == texts
    assert "content.delta" in read["events"]
    beams = [chunk["beams"] for chunk in read["chunks"] if "beams" in chunk]
    finished = [beam["text"] for beam in beams[-1] if beam["finish_reason"]]
    assert finished[:2] == texts


@pytest.mark.parametrize("environment", OFFICIAL)
def test_an_official_client_reads_log_probabilities(ask: Ask, environment: str) -> None:
    read = ask(environment, "with_openai", "chat", **CHAT, logprobs=True, top_logprobs=2)
    [choice], [final] = read["plain"]["choices"], read["final"]["choices"]
    logged = choice["logprobs"]["content"]
    assert spelt(logged) == choice["message"]["content"] == ANSWER
    assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in logged)
    assert [token["token"] for token in final["logprobs"]["content"]] == [
        token["token"] for token in logged
    ]
    assert "logprobs.content.done" in read["events"]


@pytest.mark.parametrize("environment", ["openai3", "openai2"])
def test_the_asynchronous_official_client_reads_the_same(ask: Ask, environment: str) -> None:
    read = ask(environment, "with_openai", "chat_async", **CHAT)
    assert contents(read["plain"]) == contents(read["final"]) == joined(read["chunks"]) == [ANSWER]


@pytest.mark.parametrize("environment", OFFICIAL)
def test_an_official_client_reads_completions_of_several_prompts(
    ask: Ask, environment: str
) -> None:
    read = ask(environment, "with_openai", "complete", **PROMPTS, n=2, logprobs=1)
    choices = read["plain"]["choices"]
    texts = [choice["text"] for choice in choices]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert joined(read["chunks"]) == texts
    assert read["chunks"][-1]["usage"] == read["plain"]["usage"]
    assert all(
        "".join(choice["logprobs"]["tokens"]).startswith(choice["text"][:8]) for choice in choices
    )


@pytest.mark.parametrize("environment", OFFICIAL)
def test_an_official_client_finds_the_model(ask: Ask, environment: str) -> None:
    read = ask(environment, "with_openai", "models", model=MODEL)
    assert [model["id"] for model in read["listed"]] == [MODEL]
    assert read["one"] == read["listed"][0]


@pytest.mark.parametrize("environment", OFFICIAL)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_official_client_raises_the_error_that_fits(
    ask: Ask, environment: str, fault: str
) -> None:
    fields, details = FAULTS[fault]
    read = ask(environment, "with_openai", "fail", **{**CHAT, **fields})
    name = "NotFoundError" if details[0] == 404 else "BadRequestError"
    assert read["raised"] == [[name, *details]] * 2


@pytest.mark.parametrize("environment", OFFICIAL)
def test_an_official_client_parses_structured_output(ask: Ask, environment: str) -> None:
    read = ask(environment, "with_openai", "parse", **CHAT)
    [plain], [streamed] = read["plain"]["choices"], read["streamed"]["choices"]
    assert is_city(plain["message"]["parsed"])
    assert (
        json.loads(plain["message"]["content"])
        == streamed["message"]["parsed"]
        == plain["message"]["parsed"]
    )
    assert plain["finish_reason"] == streamed["finish_reason"] == "stop"


@pytest.mark.parametrize("environment", OFFICIAL)
@pytest.mark.parametrize(
    "tool_choice", ["required", {"type": "function", "function": {"name": "City"}}], ids=str
)
def test_an_official_client_reads_a_forced_call_and_answers_it(
    ask: Ask, environment: str, tool_choice: dict[str, Any] | str
) -> None:
    read = ask(environment, "with_openai", "call", **CHAT, tool_choice=tool_choice)
    [plain] = read["plain"]["choices"]
    [call] = plain["message"]["tool_calls"]
    function = call["function"]
    assert (plain["message"]["content"], plain["finish_reason"], function["name"]) == (
        None,
        "tool_calls",
        "City",
    )
    assert is_city(json.loads(function["arguments"]))
    for way in ("parsed", "final"):
        [same] = read[way]["choices"][0]["message"]["tool_calls"]
        assert same["function"]["arguments"] == function["arguments"]
    assert read["parsed"]["choices"][0]["message"]["tool_calls"][0]["function"]["parsed_arguments"][
        "name"
    ]
    assert "tool_calls.function.arguments.done" in read["events"]
    assert contents(read["answer"])[0]


@pytest.mark.parametrize("environment", OFFICIAL)
def test_the_deltas_of_a_streamed_call_are_openais(ask: Ask, environment: str) -> None:
    chunks = ask(environment, "with_openai", "call", **CHAT, tool_choice="required")["chunks"]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    pieces = [piece for choice in choices for piece in choice["delta"].get("tool_calls") or []]
    assert choices[0]["delta"]["role"] == "assistant"
    assert (pieces[0]["type"], pieces[0]["function"]["name"]) == ("function", "City")
    assert pieces[0]["id"]
    assert len(pieces) > 2
    assert all(piece["index"] == 0 for piece in pieces)
    assert not any(piece.get("id") or piece["function"].get("name") for piece in pieces[1:])
    assert is_city(json.loads("".join(piece["function"]["arguments"] for piece in pieces)))
    assert not any(choice["delta"].get("content") for choice in choices)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [
        "tool_calls"
    ]


@pytest.mark.parametrize("n", [1, 2])
def test_openai_0_28_reads_one_answer_plain_and_streamed(ask: Ask, n: int) -> None:
    chat = ask("openai0", "with_openai_028", "chat", **STORY, n=n)
    assert joined(chat["chunks"]) == contents(chat["plain"])
    assert len(contents(chat["plain"])) == n
    completion = ask("openai0", "with_openai_028", "complete", **PROMPTS, n=n)
    assert joined(completion["chunks"]) == [
        choice["text"] for choice in completion["plain"]["choices"]
    ]
    assert len(completion["plain"]["choices"]) == 2 * n


def test_openai_0_28_finds_the_model(ask: Ask) -> None:
    assert [model["id"] for model in ask("openai0", "with_openai_028", "models")["data"]] == [MODEL]


@pytest.mark.parametrize("fault", FAULTS)
def test_openai_0_28_raises_its_error(ask: Ask, fault: str) -> None:
    fields, details = FAULTS[fault]
    assert ask("openai0", "with_openai_028", "fail", **{**CHAT, **fields}) == [
        "InvalidRequestError",
        *details,
    ]


@pytest.mark.parametrize(
    ("settings", "text", "reason"),
    [
        ({}, ANSWER, "stop"),
        ({"maxOutputTokens": 3}, "中国的首", "length"),
        ({"stopSequences": ["北"]}, "中国的首都是", "stop"),
        ({"stopSequences": ["中"]}, "", "stop"),
        ({"withTools": True}, ANSWER, "stop"),
        ({"fields": {"num_beams": 3}}, ANSWER, "stop"),
        ({"fields": {"logprobs": True, "top_logprobs": 2}}, ANSWER, "stop"),
        ({"endpoint": "completionModel", "fields": {"raw": True, "stop": ["。"]}}, None, "stop"),
    ],
    ids=lambda value: json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else "",
)
def test_the_ai_sdk_takes_every_kind_of_reply_whole_and_streamed(
    ask: Ask, settings: dict[str, Any], text: str | None, reason: str
) -> None:
    read = ask("node", "with_ai_sdk", "text", model=MODEL, prompt=QUESTION, **settings)
    assert read["errors"] == []
    assert read["streamed"] == read["plain"]
    assert read["plain"]["usage"]["completion_tokens"] > 0
    assert (read["plain"]["finishReason"], read["plain"]["calls"]) == (reason, [])
    assert text is None or read["plain"]["text"] == text


def test_the_ai_sdk_reads_a_forced_call(ask: Ask) -> None:
    settings = {"model": MODEL, "prompt": QUESTION, "withTools": True, "toolChoice": "required"}
    read = ask("node", "with_ai_sdk", "text", **settings)
    assert read["errors"] == []
    assert read["streamed"] == read["plain"]
    assert (read["plain"]["text"], read["plain"]["finishReason"]) == ("", "tool-calls")
    [call] = read["plain"]["calls"]
    assert is_city(call)


def test_the_ai_sdk_runs_a_call_and_reads_the_answer_to_its_result(ask: Ask) -> None:
    [called, answered] = ask("node", "with_ai_sdk", "steps", model=MODEL, prompt=QUESTION)
    assert called[:2] == ["", "tool-calls"]
    assert len(called[2]) == 1
    assert (answered[1], answered[2], answered[0] != "") == ("stop", [], True)


def test_the_ai_sdk_generates_objects_whole_and_streamed(ask: Ask) -> None:
    read = ask("node", "with_ai_sdk", "object", model=MODEL, prompt=QUESTION)
    assert is_city(read["plain"])
    assert read["streamed"] == read["plain"]


@pytest.mark.parametrize(
    ("settings", "details"),
    [
        ({"fields": {"n": 1000}}, [400, "n", None]),
        ({"model": "gpt-4"}, [404, "model", "model_not_found"]),
    ],
    ids=["n", "model"],
)
def test_the_ai_sdk_reads_errors(ask: Ask, settings: dict[str, Any], details: list[Any]) -> None:
    read = ask("node", "with_ai_sdk", "fail", **{"model": MODEL, "prompt": QUESTION, **settings})
    assert read["raised"] == [["AI_APICallError", *details]] * 2


def test_langchains_chat_model_reads_one_answer_in_each_of_its_ways(ask: Ask) -> None:
    read = ask("openai3", "with_langchain", "chat", model=MODEL)
    ways = [read[way] for way in ("invoke", "stream", "ainvoke", "astream")]
    assert [message["content"] for message in read["batch"]] == [ANSWER, OTHER_ANSWER]
    assert all(message["content"] == ANSWER for message in ways)
    assert all(message["response_metadata"]["finish_reason"] == "stop" for message in ways)
    assert all(message["usage_metadata"] == ways[0]["usage_metadata"] for message in ways)
    assert ways[0]["usage_metadata"]["output_tokens"] > 0


def test_langchains_completion_model_reads_one_answer_in_each_of_its_ways(ask: Ask) -> None:
    read = ask("openai3", "with_langchain", "complete", model=MODEL)
    assert read.pop("batch") == [ANSWER, OTHER_ANSWER]
    assert read == dict.fromkeys(("invoke", "stream", "ainvoke", "astream"), ANSWER)


def test_langchain_reads_several_choices_of_several_prompts(ask: Ask) -> None:
    read = ask("openai3", "with_langchain", "choices", model=MODEL)
    assert read["chat"] == read["complete"] == [[ANSWER] * 2, [OTHER_ANSWER] * 2]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_reads_structured_output(ask: Ask, method: str) -> None:
    read = ask("openai3", "with_langchain", "structured", model=MODEL, method=method)
    assert read["parsing_error"] is None
    assert is_city(read["parsed"])


def test_langchain_reads_an_object_of_json_mode(ask: Ask) -> None:
    assert ask("openai3", "with_langchain", "any_object", model=MODEL) == {}


@pytest.mark.parametrize("tool_choice", ["any", "City"])
def test_langchain_reads_forced_calls_whole_and_streamed(ask: Ask, tool_choice: str) -> None:
    read = ask("openai3", "with_langchain", "call", model=MODEL, tool_choice=tool_choice)
    [whole], [streamed] = read["invoke"]["tool_calls"], read["stream"]["tool_calls"]
    assert is_city(whole["args"])
    assert (streamed["name"], streamed["args"]) == (whole["name"], whole["args"])
    assert read["stream"]["response_metadata"]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("environment", ["openai2", "openai3"])
def test_langchain_knows_an_overflow_of_the_context(ask: Ask, environment: str) -> None:
    read = ask(environment, "with_langchain", "overflow", model=MODEL, prompt=TOO_LONG)
    assert read == {"invoke": True, "stream": True}


@pytest.mark.parametrize("is_chat_model", [True, False], ids=["chat", "completion"])
def test_llama_index_reads_one_answer_in_each_of_its_ways(ask: Ask, is_chat_model: bool) -> None:
    read = ask("openai2", "with_llama_index", "answers", model=MODEL, is_chat_model=is_chat_model)
    for way in ("complete", "chat"):
        text = read[way]
        assert text
        assert read[f"a{way}"] == text
        assert "".join(read[f"stream_{way}"]) == "".join(read[f"astream_{way}"]) == text
        assert len(read[f"stream_{way}"]) > 3
    assert read["complete"] == ANSWER


def test_llama_index_reads_structured_output(ask: Ask) -> None:
    kind = {"is_chat_model": True, "is_function_calling_model": True}
    assert is_city(ask("openai2", "with_llama_index", "structured", model=MODEL, **kind))


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_a_pydantic_ai_agent_reads_text_and_keeps_its_history(ask: Ask, endpoint: str) -> None:
    read = ask("openai3", "with_pydantic_ai", "text", model=MODEL, endpoint=endpoint)
    assert "".join(read["pieces"]) == read["plain"] == ANSWER
    assert len(read["pieces"]) > 3
    assert read["usages"][0] == read["usages"][1]
    assert read["again"] == OTHER_ANSWER


@pytest.mark.parametrize("kind", ["tool", "function", "native"])
def test_a_pydantic_ai_agent_reads_structured_output(ask: Ask, kind: str) -> None:
    read = ask("openai3", "with_pydantic_ai", "structured", model=MODEL, kind=kind)
    assert is_city(read["plain"])
    assert read["streamed"] == read["plain"]


def test_a_pydantic_ai_agent_reads_an_object_that_it_asked_for_in_words(ask: Ask) -> None:
    read = ask("openai3", "with_pydantic_ai", "structured", model=MODEL, kind="prompted")
    assert read == {"plain": {}, "streamed": {}}


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_instructor_reads_structured_output(ask: Ask, mode: str) -> None:
    read = ask("openai2", "with_instructor", "structured", mode=mode, **CHAT)
    assert is_city(read["plain"])
    assert is_city(read["streamed"])  # of a function named otherwise, so perhaps another city


def test_instructor_reads_an_object_of_json_mode(ask: Ask) -> None:
    assert ask("openai2", "with_instructor", "structured", mode="JSON", **CHAT) == {
        "plain": {},
        "streamed": {},
    }


def test_guidance_reads_text_that_is_held_to_its_grammars(ask: Ask) -> None:
    read = ask("agents", "with_guidance", "ask", model=MODEL)
    assert read["text"] == ANSWER
    assert re.fullmatch("[1-9][0-9]{2}", read["number"])
    assert read["choice"] in ("巴黎", "柏林")


@pytest.fixture
def llm(server: Server, tmp_path: Path) -> Callable[..., str]:
    """Runs the `llm` command, which knows the server's two endpoints as the models `chat` and `completion`."""
    program = tool("openai3", "llm")
    models = [
        {"model_id": "chat", "supports_schema": True},
        {"model_id": "completion", "completion": True},
    ]
    models = [{**model, "model_name": MODEL, "api_base": f"{server.url}/v1"} for model in models]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models), encoding="utf-8")
    environment = {"LLM_USER_PATH": str(tmp_path)}
    return lambda *arguments: output([program, *arguments], env=environment).strip()


@pytest.mark.parametrize(
    "flags", [["-m", "chat"], ["-m", "chat", "--no-stream"], ["-m", "completion"]], ids=" ".join
)
def test_the_llm_command_prints_an_answer_and_logs_its_tokens(
    llm: Callable[..., str], flags: list[str]
) -> None:
    assert llm(*flags, "-o", "temperature", "0", QUESTION) == ANSWER
    [logged] = json.loads(llm("logs", "--json", "-n", "1"))
    assert logged["response"] == ANSWER
    assert logged["model"] == flags[1]
    if "completion" not in flags:
        assert logged["output_tokens"] > 0


def test_the_llm_command_continues_a_conversation(llm: Callable[..., str]) -> None:
    llm("-m", "chat", "-o", "temperature", "0", QUESTION)
    assert llm("-c", "-o", "temperature", "0", "法国呢？") == OTHER_ANSWER


@pytest.mark.parametrize("flags", [[], ["--no-stream"]], ids=["streamed", "whole"])
def test_the_llm_command_prints_structured_output(
    llm: Callable[..., str], flags: list[str]
) -> None:
    schema = json.dumps(City.model_json_schema())
    assert is_city(
        json.loads(
            llm("-m", "chat", "-o", "temperature", "0", *flags, "--schema", schema, QUESTION)
        )
    )


@pytest.fixture
def evaluate(server: Server, tmp_path: Path) -> Evaluate:
    """Runs tasks of `tests/clients/lm_eval_tasks` with lm-eval's `local-completions`; the samples of each task."""
    program = tool("lm_eval", "lm_eval")

    def run(tokenized: bool, *tasks: str) -> Samples:
        model = {
            "model": MODEL,
            "base_url": f"{server.url}/v1/completions",
            "tokenizer": ROOT / "demo_model",
            "tokenized_requests": tokenized,
            "num_concurrent": 4,
        }
        arguments = ",".join(f"{name}={value}" for name, value in model.items())
        command = [
            program,
            "--model",
            "local-completions",
            "--model_args",
            arguments,
            "--tasks",
            ",".join(tasks),
        ]
        options = ["--include_path", ".", "--output_path", str(tmp_path), "--log_samples"]
        directory = CLIENTS / "lm_eval_tasks"
        output(command + options, cwd=directory, env={"HF_HOME": str(tmp_path)})
        samples: Samples = {}
        for task in tasks:
            [path] = tmp_path.glob(f"**/samples_{task}_*.jsonl")
            samples[task] = [
                json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
            ]
        return samples

    return run


def test_lm_eval_scores_the_log_probabilities_that_the_server_gives(
    evaluate: Evaluate, http: httpx.Client
) -> None:
    samples = evaluate(True, "capitals_chosen", "capitals_written")
    assert all(sample["acc"] == 1 for sample in samples["capitals_chosen"])
    assert sum(sample["exact_match"] for sample in samples["capitals_written"]) >= 4

    def ids(text: str) -> list[int]:
        body = {"prompt": text, "raw": True, "add_special_tokens": False}
        tokens: list[int] = http.post("/tokenize", json=body).json()["tokens"]
        return tokens

    for sample in samples["capitals_chosen"]:
        for [[score, _]], argument in zip(
            sample["resps"], sample["arguments"].values(), strict=True
        ):
            context, continuation = argument["arg_0"], argument["arg_1"]
            body = {
                "prompt": ids(context + continuation),
                "echo": True,
                "logprobs": 1,
                "max_tokens": 0,
            }
            scores = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"][
                "token_logprobs"
            ]
            assert float(score) == pytest.approx(sum(scores[len(ids(context)) :]), abs=1e-2)


def test_lm_eval_reads_answers_to_questions_in_the_prompt_template(evaluate: Evaluate) -> None:
    samples = evaluate(False, "capitals_written")["capitals_written"]
    assert [sample["resps"] for sample in samples][:2] == [
        [["中国的首都是北京"]],
        [["法国的首都是巴黎"]],
    ]
    assert all(sample["exact_match"] == 1 for sample in samples)


def curl(*arguments: str) -> str:
    if (program := shutil.which("curl")) is None:
        pytest.skip("curl is not installed")
    return output([program, "-sS", *arguments])


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--http1.0"],
        ["--http2"],
        ["--compressed"],
        ["-H", "Expect: 100-continue"],
        ["-H", "Transfer-Encoding: chunked"],
        ["-H", "Content-Type: application/json; charset=utf-8"],
        ["-H", "Content-Type: text/plain"],
    ],
    ids=" ".join,
)
def test_curl_reads_the_same_with_any_of_its_flags(server: Server, flags: list[str]) -> None:
    reply = json.loads(
        curl(
            "--fail-with-body", *flags, f"{server.url}/v1/chat/completions", "-d", json.dumps(CHAT)
        )
    )
    assert contents(reply) == [ANSWER]


def test_curl_sends_one_request_after_another_on_one_connection(server: Server) -> None:
    """After a plain reply, a stream and an error too."""
    arguments = []
    for body in (CHAT, {**CHAT, "stream": True}, {**CHAT, "n": 1000}, CHAT):
        request = [f"{server.url}/v1/chat/completions", "-d", json.dumps(body)]
        arguments += ["--next", "-o", os.devnull, "-w", "%{http_code} %{num_connects}\n", *request]
    assert curl(*arguments[1:]).splitlines() == ["200 1", "200 0", "400 0", "200 0"]
