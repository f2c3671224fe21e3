"""Fields that are wrong, foreign, or of former times: each is named, with what is wrong."""

import json
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.bodies import ASK, CHAT, COMPLETIONS, TALK
from tests.support.fake_engine import FakeEngine
from tests.support.replies import error


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, {}, "prompt"),
        (COMPLETIONS, {"prompt": None}, "prompt"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": [[]]}, "prompt"),
        (COMPLETIONS, {"prompt": {"a": 1}}, "prompt"),
        (COMPLETIONS, {"prompt": ["a", 1]}, "prompt"),
        (COMPLETIONS, {**ASK, "temperature": 2.01}, "temperature"),
        (COMPLETIONS, {**ASK, "temperature": -0.1}, "temperature"),
        (COMPLETIONS, {**ASK, "temperature": "hot"}, "temperature"),
        (COMPLETIONS, {**ASK, "top_p": -0.1}, "top_p"),
        (COMPLETIONS, {**ASK, "top_k": -2}, "top_k"),
        (COMPLETIONS, {**ASK, "min_p": 1.5}, "min_p"),
        (COMPLETIONS, {**ASK, "presence_penalty": 2.5}, "presence_penalty"),
        (COMPLETIONS, {**ASK, "frequency_penalty": -2.5}, "frequency_penalty"),
        (COMPLETIONS, {**ASK, "repetition_penalty": 0}, "repetition_penalty"),
        (COMPLETIONS, {**ASK, "max_tokens": -1}, "max_tokens"),
        (COMPLETIONS, {**ASK, "max_tokens": 1.5}, "max_tokens"),
        (COMPLETIONS, {**ASK, "n": 0}, "n"),
        (COMPLETIONS, {**ASK, "n": 129}, "n"),
        (COMPLETIONS, {**ASK, "best_of": 129}, "best_of"),
        (COMPLETIONS, {**ASK, "n": 4, "best_of": 3}, "best_of"),
        (COMPLETIONS, {**ASK, "stop": ["a"] * 17}, "stop"),
        (COMPLETIONS, {**ASK, "stop": [1]}, "stop[0]"),
        (COMPLETIONS, {**ASK, "min_tokens": 600}, "min_tokens"),
        (COMPLETIONS, {**ASK, "logit_bias": {"5": 101}}, "logit_bias"),
        (COMPLETIONS, {**ASK, "logit_bias": {"five": 1}}, "logit_bias"),
        (COMPLETIONS, {**ASK, "top_k": 10**30}, "top_k"),
        (COMPLETIONS, {**ASK, "seed": 2**63 - 1}, "seed"),
        (COMPLETIONS, {**ASK, "stop_token_ids": [2**31]}, "stop_token_ids[0]"),
        (COMPLETIONS, {"prompt": [-1]}, "prompt"),
        (COMPLETIONS, {"prompt": [2**40]}, "prompt"),
        (COMPLETIONS, {"prompt": [60000], "echo": True}, "prompt"),
        (COMPLETIONS, {**ASK, "stream_options": {"include_usage": True}}, "stream_options"),
        (COMPLETIONS, {**ASK, "suffix": "end"}, "suffix"),
        (COMPLETIONS, {**ASK, "bad_words": [""]}, "bad_words"),
        (COMPLETIONS, {**ASK, "bad_words": "a"}, "bad_words"),
        (COMPLETIONS, {**ASK, "bad_words": ["a"], "num_beams": 2}, "bad_words"),
        (COMPLETIONS, {**ASK, "allowed_token_ids": []}, "allowed_token_ids"),
        (COMPLETIONS, {**ASK, "allowed_token_ids": [-1]}, "allowed_token_ids[0]"),
        (
            COMPLETIONS,
            {**ASK, "allowed_token_ids": [5], "use_beam_search": True},
            "allowed_token_ids",
        ),
        (
            COMPLETIONS,
            {**ASK, "allowed_token_ids": [5], "structured_outputs": {"regex": "a"}},
            "allowed_token_ids",
        ),
        (
            CHAT,
            {**TALK, "bad_words": ["a"], "response_format": {"type": "json_object"}},
            "bad_words",
        ),
        (COMPLETIONS, {**ASK, "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        (COMPLETIONS, {**ASK, "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        (CHAT, {**TALK, "truncate_prompt_tokens": 2048}, "truncate_prompt_tokens"),
        (CHAT, {**TALK, "truncation_side": "middle"}, "truncation_side"),
        (COMPLETIONS, {**ASK, "num_beams": 17}, "num_beams"),
        (COMPLETIONS, {**ASK, "num_beams": 4, "n": 5}, "num_beams"),
        (COMPLETIONS, {**ASK, "use_beam_search": True, "best_of": 17}, "best_of"),
        (COMPLETIONS, {**ASK, "use_beam_search": True, "n": 17}, "n"),
        (COMPLETIONS, {**ASK, "num_beams": 4, "length_penalty": 11}, "length_penalty"),
        (COMPLETIONS, {**ASK, "num_beams": 4, "early_stopping": "always"}, "early_stopping"),
        (COMPLETIONS, {**ASK, "num_beams": 4, "presence_penalty": 1}, "presence_penalty"),
        (COMPLETIONS, {**ASK, "num_beams": 4, "frequency_penalty": 1}, "frequency_penalty"),
        (COMPLETIONS, {**ASK, "num_beams": 4, "repetition_penalty": 0.9}, "repetition_penalty"),
        (COMPLETIONS, {**ASK, "num_beams": 4, "logit_bias": {"5": 1}}, "logit_bias"),
        (
            COMPLETIONS,
            {**ASK, "num_beams": 4, "response_format": {"type": "json_object"}},
            "response_format",
        ),
        (COMPLETIONS, {**ASK, "logprobs": 21}, "logprobs"),
        (COMPLETIONS, {**ASK, "logprobs": -1}, "logprobs"),
        (COMPLETIONS, {**ASK, "structured_outputs": {}}, "structured_outputs"),
        (
            COMPLETIONS,
            {**ASK, "structured_outputs": {"choice": ["a"], "regex": "a"}},
            "structured_outputs",
        ),
        (COMPLETIONS, {**ASK, "structured_outputs": {"json_": {}}}, "structured_outputs"),
        (COMPLETIONS, {**ASK, "structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        (
            COMPLETIONS,
            {**ASK, "structured_outputs": {"json": r'{"title": "\ud800"}'}},
            "structured_outputs.json",
        ),
        (COMPLETIONS, {**ASK, "structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        (
            COMPLETIONS,
            {**ASK, "structured_outputs": {"choice": ["a"]}, "min_tokens": 1},
            "structured_outputs",
        ),
        (
            COMPLETIONS,
            {**ASK, "structured_outputs": {"choice": ["a"]}, "ignore_eos": True},
            "structured_outputs",
        ),
        (
            COMPLETIONS,
            {**ASK, "structured_outputs": {"regex": "a" * 16_385}},
            "structured_outputs.regex",
        ),
        (CHAT, {}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [{"content": "a"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
        (
            CHAT,
            {"messages": [*TALK["messages"], {"role": "user", "content": 5}]},
            "messages[1].content",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0]",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "file"}]}]},
            "messages[0].content[0]",
        ),
        (CHAT, {**TALK, "logprobs": 5}, "logprobs"),
        (CHAT, {**TALK, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {**TALK, "top_logprobs": 3}, "top_logprobs"),
        (CHAT, {**TALK, "response_format": {"type": "xml"}}, "response_format.type"),
        (CHAT, {**TALK, "response_format": {"type": "json_schema"}}, "response_format"),
        (
            CHAT,
            {**TALK, "response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
        ),
        (
            CHAT,
            {
                **TALK,
                "response_format": {"type": "json_object"},
                "structured_outputs": {"regex": "a"},
            },
            "structured_outputs",
        ),
        (CHAT, {**TALK, "tool_choice": "required"}, "tool_choice"),
        (CHAT, {**TALK, "modalities": ["text", "audio"]}, "modalities[1]"),
        (CHAT, {**TALK, "modalities": ["audio"], "audio": {"voice": "a"}}, "modalities[0]"),
        (CHAT, {**TALK, "modalities": "audio"}, "modalities"),
        (CHAT, {**TALK, "num_beams": 2, "presence_penalty": 1}, "presence_penalty"),
    ],
)
def test_a_wrong_field_is_named(
    client: TestClient, engine: FakeEngine, path: str, body: dict[str, Any], param: str
) -> None:
    assert error(client.post(path, json=body), 400).param == param
    assert engine.asked == []


@pytest.mark.parametrize(
    ("path", "fields", "successor"),
    [
        (CHAT, {**TALK, "prompt_logprobs": 1}, "echo"),
        (COMPLETIONS, {**ASK, "prompt_logprobs": 0}, "echo"),
        (CHAT, {**TALK, "chat_template": "{{ messages }}"}, "--prompt-template"),
        (CHAT, {**TALK, "grammar": 'root ::= "a"'}, "structured_outputs"),
        (COMPLETIONS, {**ASK, "json_schema": {"type": "object"}}, "response_format"),
        (COMPLETIONS, {**ASK, "n_predict": 5}, "max_tokens"),
        (CHAT, {**TALK, "max_new_tokens": 5}, "max_tokens"),
        (CHAT, {**TALK, "repeat_penalty": 1.2}, "repetition_penalty"),
        (COMPLETIONS, {**ASK, "mirostat": 2}, "not supported"),
        (COMPLETIONS, {**ASK, "regex": "a+"}, "structured_outputs"),
        (CHAT, {**TALK, "echo": True}, "/v1/completions"),
        (CHAT, {**TALK, "add_generation_prompt": False}, "assistant"),
        (COMPLETIONS, {**ASK, "add_special_tokens": False}, "token ids"),
        (COMPLETIONS, {**ASK, "return_tokens_as_token_ids": True}, "return_token_ids"),
    ],
)
def test_a_field_of_former_times_names_its_successor(
    client: TestClient, path: str, fields: dict[str, Any], successor: str
) -> None:
    fault = error(client.post(path, json=fields), 400)
    assert fault.param == list(fields)[-1]
    assert successor in fault.message


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {**TALK, "mirostat": 0}),
        (CHAT, {**TALK, "echo": False}),
        (CHAT, {**TALK, "typical_p": 1.0}),
        (COMPLETIONS, {**ASK, "xtc_probability": 0.0}),
        (COMPLETIONS, {**ASK, "add_special_tokens": True}),
        (COMPLETIONS, {**ASK, "num_beam_groups": 1}),
        (CHAT, {**TALK, "cache_prompt": True}),
        (CHAT, {**TALK, "chat_template_kwargs": {"enable_thinking": False}}),
    ],
)
def test_a_foreign_field_that_changes_nothing_is_named_in_the_header(
    client: TestClient, path: str, fields: dict[str, Any]
) -> None:
    reply = client.post(path, json=fields)
    assert (reply.status_code, reply.headers["X-Ignored-Parameters"]) == (200, list(fields)[-1])


@pytest.mark.parametrize(
    ("content", "step", "reason"),
    [
        (
            [{"type": "text", "text": "a"}, "b", {"type": "image_url", "image_url": {"url": "x"}}],
            2,
            "type image_url",
        ),
        ([{"type": "text", "text": "a"}, {"type": "input_audio"}], 1, "type input_audio"),
        ([{"type": "text", "txt": "a"}], 0, "needs 'text'"),
        (["a", {"type": "text", "text": None}], 1, "needs 'text'"),
        ([{"type": "refusal", "text": "a"}], 0, "needs 'refusal'"),
        ([{"type": "input_text", "input_text": "a"}], 0, "needs 'text'"),
        ([{"type": "input_image", "text": "a"}], 0, "type input_image"),
        ([{"text": "a"}], 0, "missing or unknown"),
        ([{"type": ["text"], "text": "a"}], 0, "missing or unknown"),
        (["a", None], 1, "a text part or a string"),
        (["a", "b", ["c"]], 2, "a text part or a string"),
    ],
    ids=str,
)
@pytest.mark.parametrize("role", ["user", "system", "tool", "assistant"])
def test_a_wrong_part_is_named_by_its_place_with_what_is_wrong(
    client: TestClient, role: str, content: list[object], step: int, reason: str
) -> None:
    fault = error(
        client.post(
            CHAT, json={"messages": [*TALK["messages"], {"role": role, "content": content}]}
        ),
        400,
    )
    assert fault.param == f"messages[1].content[{step}]"
    assert reason in fault.message


@pytest.mark.parametrize("role", ["user", "system", "developer", "tool", "function"])
@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_a_message_without_content_is_a_400(client: TestClient, role: str, path: str) -> None:
    """A misspelt name of the field would be answered as if nothing were said."""
    fault = error(
        client.post(path, json={"messages": [*TALK["messages"], {"role": role, "contents": "a"}]}),
        400,
    )
    assert (fault.param, fault.message) == (
        "messages[1].content",
        "The field 'messages[1].content' is required.",
    )
    empty_contents: tuple[object, ...] = (None, "", [])
    for empty in empty_contents:
        assert (
            client.post(path, json={"messages": [{"role": role, "content": empty}]}).status_code
            == 200
        )


@pytest.mark.parametrize(
    "message", [{}, {"content": None}, {"tool_calls": []}, {"refusal": "不行"}]
)
def test_an_assistant_need_not_say_anything(client: TestClient, message: dict[str, Any]) -> None:
    messages = [*TALK["messages"], {"role": "assistant", **message}, *TALK["messages"]]
    assert client.post(CHAT, json={"messages": messages}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_mistakes_are_told_before_the_first_byte_of_a_stream(
    client: TestClient, stream: bool
) -> None:
    reply = client.post(COMPLETIONS, json={**ASK, "stream": stream, "num_beams": 4, "n": 8})
    assert error(reply, 400).message == "'num_beams' must be at least 'n', which is 8."


@pytest.mark.parametrize("limit", [{"max_tokens": 0}, {"max_completion_tokens": 0}])
def test_a_prompt_too_long_to_go_on_can_be_asked_for_nothing(
    client: TestClient, engine: FakeEngine, limit: dict[str, Any]
) -> None:
    engine.max_model_len = 10
    reply = client.post(COMPLETIONS, json={"prompt": "很长的问题" * 20, **limit}).json()
    assert (reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]) == ("", "length")
    assert not engine.asked


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["temperature", "max_tokens", "seed", "presence_penalty"])
def test_numbers_that_are_none(client: TestClient, field: str, number: str) -> None:
    content = f'{{"prompt": "a", "{field}": {number}}}'
    assert error(client.post(COMPLETIONS, content=content), 400).param == field


def test_the_first_of_many_faults_is_told_shortly(client: TestClient) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "x" * 100}}] * 10_000
    fault = error(client.post(CHAT, json={"messages": [{"role": "user", "content": parts}]}), 400)
    assert fault.param == "messages[0].content[0]"
    assert "image_url" in fault.message


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "秘密", "content": "秘密"}]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "秘密"}]}]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "\ud800"}]}]}),
        (CHAT, {**TALK, "temperature": "秘密"}),
        (CHAT, {**TALK, "logit_bias": {"秘密": 1}}),
        (CHAT, {**TALK, "logit_bias": {"\x00" * 300: 1}}),
        (CHAT, {**TALK, "chat_template": "秘密"}),
    ],
)
def test_the_input_is_not_echoed(client: TestClient, path: str, body: dict[str, Any]) -> None:
    reply = client.post(path, content=json.dumps(body))
    error(reply, reply.status_code)
    assert reply.status_code in (400, 404)
    assert "秘密" not in reply.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [1] * 250_000}),
        (COMPLETIONS, {**ASK, "stop_token_ids": ["a"] * 250_000}),
        (COMPLETIONS, {**ASK, "stop": [1] * 250_000}),
        ("/detokenize", {"tokens": ["a"] * 250_000}),
    ],
)
def test_many_faults_are_found_as_fast_as_one(
    client: TestClient, path: str, body: dict[str, Any]
) -> None:
    content = json.dumps(body)
    began = time.process_time()
    error(client.post(path, content=content), 400)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("path", "ask"), [(COMPLETIONS, {"prompt": [1] * 2048}), (CHAT, {"messages": "你" * 4000})]
)
def test_a_prompt_that_does_not_fit_is_told_with_both_lengths(
    client: TestClient, path: str, ask: dict[str, Any]
) -> None:
    fault = error(client.post(path, json=ask), 400)
    assert fault.code == "context_length_exceeded"
    assert fault.message.startswith(
        "This model's maximum context length is 2048 tokens. However, your prompt has "
    )
