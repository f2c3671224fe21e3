"""Every failure in OpenAI's shape, on a fake engine."""

import json
import re
import time

import pytest

from errors import APIError
from generation import Delta
from protocol import ErrorReply
from tests.support.bodies import ASK, CHAT, COMPLETIONS, TALK
from tests.support.fake_engine import SCRIPTS, FakeEngine
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
        (CHAT, {**TALK, "num_beams": 2, "presence_penalty": 1}, "presence_penalty"),
    ],
)
def test_a_wrong_field_is_named(client, engine, path, body, param):
    assert error(client.post(path, json=body), 400).param == param
    assert engine.asked == []


@pytest.mark.parametrize(
    ("path", "fields", "successor"),
    [
        (COMPLETIONS, {**ASK, "guided_choice": ["a"]}, "structured_outputs"),
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
        (CHAT, {**TALK, "guided_json": {}}, "structured_outputs"),
        (CHAT, {**TALK, "functions": [{"name": "f"}]}, "tools"),
        (CHAT, {**TALK, "function_call": {"name": "f"}}, "tool_choice"),
    ],
)
def test_a_field_of_former_times_names_its_successor(client, path, fields, successor):
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
def test_a_foreign_field_that_changes_nothing_is_named_in_the_header(client, path, fields):
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
        ([{"text": "a"}], 0, "missing or unknown"),
        ([{"type": ["text"], "text": "a"}], 0, "missing or unknown"),
        (["a", None], 1, "a text part or a string"),
        (["a", "b", ["c"]], 2, "a text part or a string"),
    ],
    ids=str,
)
@pytest.mark.parametrize("role", ["user", "system", "tool", "assistant"])
def test_a_wrong_part_is_named_by_its_place_with_what_is_wrong(client, role, content, step, reason):
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
def test_a_message_without_content_is_a_400(client, role, path):
    """A misspelt name of the field would be answered as if nothing were said."""
    fault = error(
        client.post(path, json={"messages": [*TALK["messages"], {"role": role, "contents": "a"}]}),
        400,
    )
    assert (fault.param, fault.message) == (
        "messages[1].content",
        "The field 'messages[1].content' is required.",
    )
    for empty in (None, "", []):
        assert (
            client.post(path, json={"messages": [{"role": role, "content": empty}]}).status_code
            == 200
        )


@pytest.mark.parametrize(
    "message", [{}, {"content": None}, {"tool_calls": []}, {"refusal": "不行"}]
)
def test_an_assistant_need_not_say_anything(client, message):
    messages = [*TALK["messages"], {"role": "assistant", **message}, *TALK["messages"]]
    assert client.post(CHAT, json={"messages": messages}).status_code == 200


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("gpt-4", "'gpt-4'"),
        ("通义千问", "'通义千问'"),
        ("a" * 65, f"'{'a' * 63}…'"),
        ("a\r\nb\x1b[31m", "'a\\r\\nb\\x1b[31m'"),
        ("\u202e\u2028", "'\\u202e\\u2028'"),
        ("\x00" * 64, f"'{(chr(92) + 'x00') * 16}"[:64] + "…'"),
    ],
)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/tokenize", "/detokenize"])
def test_an_unknown_model_is_named_and_so_is_what_is_served(serve, path, sent, shown):
    body = {"model": sent, **(TALK if path == CHAT else ASK), "tokens": [5]}
    fault = error(serve(served_model_name=["first", "第二"]).post(path, json=body), 404)
    assert fault.code == "model_not_found"
    assert fault.message == f"The model {shown} does not exist. Served here: 'first', '第二'."


def test_an_unknown_models_page_names_it_too(serve):
    served = [f"/models/{number}/a-very-long-name" for number in range(20)]
    fault = error(serve(served_model_name=served).get("/v1/models/gpt-4"), 404)
    assert fault.message.startswith(
        "The model 'gpt-4' does not exist. Served here: '/models/0/a-very-long-name', '/mo"
    )
    assert fault.message.endswith("…'.")


@pytest.mark.parametrize("stream", [False, True])
def test_mistakes_are_told_before_the_first_byte_of_a_stream(client, stream):
    reply = client.post(COMPLETIONS, json={**ASK, "stream": stream, "num_beams": 4, "n": 8})
    assert error(reply, 400).message == "'num_beams' must be at least 'n', which is 8."


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b'"prompt"', b"null", b"\xff\xfe", b"5", b"[" * 100_000]
)
def test_a_body_that_is_no_json_object(client, content):
    assert error(client.post(COMPLETIONS, content=content), 400).code is None


@pytest.mark.parametrize("depth", [200, 900, 970, 995, 5_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize(
    "body",
    [
        '{"messages": [{"role": "assistant", "tool_calls": [%s]}, {"role": "user", "content": ""}]}',
        '{"messages": "a", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": %s}}}], '
        '"tool_choice": "required"}',
        '{"messages": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": {"a": %s}}}}',
        '{"messages": "a", "metadata": %s, "unknown": 1}',
        '{"messages": [{"role": "user", "content": %s}]}',
    ],
)
def test_deep_nesting_is_read_or_refused_anywhere(client, body, opens, closes, depth):
    reply = client.post(CHAT, content=body % (opens * depth + "1" + closes * depth))
    assert reply.status_code == 200 or error(reply, 400)


@pytest.mark.parametrize("schema", [b'{"minimum": NaN}', b'{"enum": ["' + b"x" * 70_000 + b'"]}'])
def test_a_schema_that_is_no_json_or_endless_is_a_bad_request(client, schema):
    content = (
        b'{"messages": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": %b}}}'
        % schema
    )
    assert (
        error(client.post(CHAT, content=content), 400).param == "response_format.json_schema.schema"
    )


@pytest.mark.parametrize("limit", [{"max_tokens": 0}, {"max_completion_tokens": 0}])
def test_a_prompt_too_long_to_go_on_can_be_asked_for_nothing(client, engine, limit):
    engine.max_model_len = 10
    reply = client.post(COMPLETIONS, json={"prompt": "很长的问题" * 20, **limit}).json()
    assert (reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]) == ("", "length")
    assert not engine.asked


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["temperature", "max_tokens", "seed", "presence_penalty"])
def test_numbers_that_are_none(client, field, number):
    content = f'{{"prompt": "a", "{field}": {number}}}'
    assert error(client.post(COMPLETIONS, content=content), 400).param == field


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (CHAT, rb'{"messages": [{"role": "user", "content": "a\ud800b"}]}'),
        (CHAT, rb'{"messages": "\udfff"}'),
        (COMPLETIONS, rb'{"prompt": "a", "stop": "\ud83d"}'),
        (COMPLETIONS, rb'{"prompt": "a\ud800b", "metadata": 1}'),
        (CHAT, rb'{"messages": "a", "metadata": {"\ud800": 1}}'),
        (
            CHAT,
            rb'{"messages": "a", "response_format": {"json_schema": {"schema": {"title": "\ud800"}}}}',
        ),
    ],
)
def test_a_lone_surrogate_is_a_bad_request_that_says_where(client, path, content):
    message = error(client.post(path, content=content), 400).message
    assert re.fullmatch(
        r"The request body is not valid JSON: .* hex escape at line 1 column \d+\.", message
    )


def test_a_surrogate_pair_is_a_character(client, engine, demo_encoder):
    assert client.post(COMPLETIONS, content=rb'{"prompt": "\ud83d\ude00"}').status_code == 200
    assert "😀" in demo_encoder.decode(engine.asked[0][0].ids)


def test_the_first_of_many_faults_is_told_shortly(client):
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
def test_the_input_is_not_echoed(client, path, body):
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
def test_many_faults_are_found_as_fast_as_one(client, path, body):
    content = json.dumps(body)
    began = time.monotonic()
    error(client.post(path, content=content), 400)
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize(("path", "ask"), [(COMPLETIONS, ASK), (CHAT, TALK), ("/tokenize", ASK)])
def test_an_unknown_model_is_not_found(client, path, ask):
    fault = error(client.post(path, json={**ask, "model": "gpt-4"}), 404)
    assert (fault.param, fault.code) == ("model", "model_not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/nothing"),
        ("POST", "/"),
        ("GET", "/v1/models/gpt-4"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/responses"),
        ("GET", "/v1/files"),
    ],
)
def test_unknown_paths_are_not_found(client, method, path):
    assert error(client.request(method, path), 404).code in ("not_found", "model_not_found")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", COMPLETIONS), ("DELETE", CHAT), ("POST", "/v1/models")]
)
def test_wrong_methods_are_not_allowed(client, method, path):
    reply = client.request(method, path)
    error(reply, 405)
    assert reply.headers["allow"]


@pytest.mark.parametrize(
    ("path", "ask"), [(COMPLETIONS, {"prompt": [1] * 2048}), (CHAT, {"messages": "你" * 4000})]
)
def test_a_prompt_that_does_not_fit_is_told_with_both_lengths(client, path, ask):
    fault = error(client.post(path, json=ask), 400)
    assert fault.code == "context_length_exceeded"
    assert fault.message.startswith(
        "This model's maximum context length is 2048 tokens. However, your prompt has "
    )


def test_a_full_server_says_when_to_come_back(client, engine):
    engine.room = 0
    reply = client.post(COMPLETIONS, json=ASK)
    assert error(reply, 503).code == "server_overloaded"
    assert int(reply.headers["retry-after"]) >= 1
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("ask", [{**ASK, "n": 2}, {"prompt": ["a", "b"]}])
def test_all_choices_of_a_request_need_room(client, engine, ask):
    engine.room = 1
    assert error(client.post(COMPLETIONS, json=ask), 503).code == "server_overloaded"


def test_an_unexpected_failure_is_a_500_that_says_nothing_and_is_logged(client, engine, caplog):
    engine.script = [RuntimeError("secret path /home/x")]
    assert "secret" not in error(client.post(COMPLETIONS, json=ASK), 500).message
    assert "secret path" in caplog.text


def test_a_500_can_be_read_by_a_browser(client, engine):
    engine.script = [RuntimeError("boom")]
    reply = client.post(COMPLETIONS, json=ASK, headers={"Origin": "http://demo.example"})
    error(reply, 500)
    assert reply.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "failure", [RuntimeError("boom"), APIError(503, "The engine has died.", code="engine_dead")]
)
@pytest.mark.parametrize(
    ("path", "ask"), [(COMPLETIONS, ASK), (CHAT, TALK), (COMPLETIONS, {"prompt": ["a", "b"]})]
)
def test_failure_mid_stream_is_an_event(client, engine: FakeEngine, failure, path, ask):
    engine.script = [*SCRIPTS["stop"][:2], failure]
    reply = client.post(path, json={**ask, "stream": True})
    assert reply.status_code == 200
    *chunks, last, done, rest = reply.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    body = ErrorReply.model_validate_json(last.removeprefix("data: "))
    assert body.error.type == "server_error"
    assert body.error.code == getattr(failure, "code", None)
    assert any("北京" in chunk for chunk in chunks)
    assert engine.running == 0


@pytest.mark.parametrize(
    ("path", "ask"), [(COMPLETIONS, ASK), (CHAT, TALK), (COMPLETIONS, {"prompt": ["a", "b"]})]
)
def test_failure_before_the_first_token_has_its_status_in_a_stream_too(client, engine, path, ask):
    engine.script = [APIError(503, "Full.", code="server_overloaded", headers={"Retry-After": "1"})]
    reply = client.post(
        path, json={**ask, "stream": True}, headers={"Origin": "http://demo.example"}
    )
    assert error(reply, 503).code == "server_overloaded"
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["access-control-allow-origin"] == "*"


def test_the_engine_is_free_after_a_failure_in_a_batch(client, engine):
    engine.script = [Delta(0, "x", (1,)), RuntimeError("boom")]
    error(client.post(COMPLETIONS, json={"prompt": ["a", "b", "c"]}), 500)
    assert engine.running == 0


def test_the_log_of_an_unexpected_failure_has_the_requests_id(client, engine, caplog):
    engine.script = [ValueError("unexpected")]
    for stream in (False, True):
        caplog.clear()
        client.post(COMPLETIONS, json={**ASK, "stream": stream}, headers={"X-Request-Id": "abc-1"})
        [record] = [record for record in caplog.records if record.exc_info]
        assert "abc-1" in record.getMessage()
