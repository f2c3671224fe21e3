"""`POST /v1/completions` over HTTP, on a fake engine."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openai.types import Completion

from generation import Delta
from prompts.encoder import SentencePieceEncoder
from protocol import ChatCompletionRequest, CompletionRequest, GenerationFields
from tests.support.fake_engine import SCRIPTS, FakeEngine
from tests.support.replies import events

PATH = "/v1/completions"


def test_a_prompt_is_answered(client: TestClient) -> None:
    reply = client.post(
        PATH, json={"model": "chinese-llama-alpaca-2", "prompt": "告诉我中国的首都在哪里"}
    )
    assert reply.status_code == 200
    body = Completion.model_validate(reply.json())
    assert re.fullmatch(r"cmpl-\w{22}", body.id)
    assert body.model == "chinese-llama-alpaca-2"
    assert [choice.text for choice in body.choices] == ["北京。"]
    assert body.choices[0].finish_reason == "stop"
    assert body.usage is not None
    assert body.usage.completion_tokens == 4
    assert body.usage.total_tokens == body.usage.prompt_tokens + 4
    assert "北京" in reply.text


def test_the_prompt_is_put_into_the_template(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    client.post(PATH, json={"prompt": "你好"})
    system = "You are a helpful assistant. 你是一个乐于助人的助手。"
    text = f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n你好 [/INST]"
    assert engine.asked[0][0].ids == demo_encoder.encode([1, text])


@pytest.mark.parametrize(
    ("settings", "fields"), [({}, {"raw": True}), ({"raw_completions": True}, {})]
)
def test_a_raw_prompt_is_used_as_it_is(
    serve: Callable[..., TestClient],
    engine: FakeEngine,
    demo_encoder: SentencePieceEncoder,
    settings: dict[str, Any],
    fields: dict[str, Any],
) -> None:
    body = serve(**settings).post(PATH, json={"prompt": "从前</s>", **fields}).json()
    assert engine.asked[0][0].ids == demo_encoder.encode([1, "从前</s>"])
    assert body["choices"][0]["text"] == "北京。"


def test_raw_false_wins_over_the_flag(serve: Callable[..., TestClient], engine: FakeEngine) -> None:
    serve(raw_completions=True).post(PATH, json={"prompt": "从前", "raw": False})
    assert len(engine.asked[0][0].ids) > 10


def test_token_ids_are_used_as_they_are(client: TestClient, engine: FakeEngine) -> None:
    client.post(PATH, json={"prompt": [1, 500, 2, 501]})
    assert engine.asked[0][0].ids == [1, 500, 2, 501]


@pytest.mark.parametrize(
    "prompts", [["甲", "乙", "丙"], [[1, 5], [1, 6, 7], [1]], ["甲", [1, 5], "乙"]]
)
def test_each_prompt_of_a_list_has_its_choices(
    client: TestClient, engine: FakeEngine, prompts: list[str | list[int]]
) -> None:
    engine.script = SCRIPTS["two choices"]
    body = client.post(PATH, json={"prompt": prompts, "n": 2}).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    assert [choice["text"].strip() for choice in body["choices"]] == ["Aa", "Bb"] * 3
    assert body["usage"]["prompt_tokens"] == sum(len(prompt.ids) for prompt, _, _ in engine.asked)
    assert body["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("prompts", ["你好", ["一", "二"]])
def test_a_joined_stream_equals_the_plain_reply(
    client: TestClient, engine: FakeEngine, name: str, echo: bool, prompts: list[str] | str
) -> None:
    engine.script = SCRIPTS[name]
    fields = {"prompt": prompts, "echo": echo, "n": 1 + (name == "two choices")}
    plain = client.post(PATH, json=fields).json()
    chunks = events(
        client.post(
            PATH, json={**fields, "stream": True, "stream_options": {"include_usage": True}}
        ).text
    )
    usage = chunks.pop()
    assert usage["choices"] == []
    assert usage["usage"] == plain["usage"]
    joined = [{"text": "", "finish_reason": None} for _ in plain["choices"]]
    for chunk in chunks:
        assert "usage" not in chunk
        (choice,) = chunk["choices"]
        state = joined[choice["index"]]
        assert state["finish_reason"] is None
        assert choice["text"] or choice["finish_reason"]
        state["text"] += choice["text"]
        state["finish_reason"] = choice["finish_reason"]
    assert joined == [
        {key: choice[key] for key in ("text", "finish_reason")} for choice in plain["choices"]
    ]
    assert (
        len(
            {
                (chunk["id"], chunk["created"], chunk["model"], chunk["object"])
                for chunk in [*chunks, usage]
            }
        )
        == 1
    )


def test_each_frame_is_the_json_of_the_model(client: TestClient, engine: FakeEngine) -> None:
    from protocol import Completion as OurCompletion

    engine.script = SCRIPTS["emoji and quotes"]
    body = client.post(PATH, json={"prompt": "a", "stream": True}).text
    for frame in body.split("\n\n")[:-2]:
        payload = frame.removeprefix("data: ")
        assert payload == OurCompletion.model_validate_json(payload).model_dump_json()


def test_usage_so_far_is_in_each_chunk_if_asked_for(client: TestClient) -> None:
    options = {"continuous_usage_stats": True}
    chunks = events(
        client.post(PATH, json={"prompt": "a", "stream": True, "stream_options": options}).text
    )
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [2, 3, 4]


def test_echo_gives_the_clients_own_prompt_first(client: TestClient) -> None:
    body = client.post(PATH, json={"prompt": "首都是", "echo": True}).json()
    assert body["choices"][0]["text"] == "首都是北京。"


def test_no_tokens_wanted_none_generated(client: TestClient, engine: FakeEngine) -> None:
    body = client.post(
        PATH, json={"prompt": "首都是", "echo": True, "max_tokens": 0, "n": 2}
    ).json()
    assert [choice["text"] for choice in body["choices"]] == ["首都是"] * 2
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 0
    assert engine.asked == []


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 512),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 900}, 900),
        ({"max_tokens": 7, "max_completion_tokens": 900}, 7),
        ({"max_tokens": 900, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 10**9}, 2048),
    ],
)
def test_the_token_budget_is_the_smaller_wish_within_the_room(
    client: TestClient, engine: FakeEngine, fields: dict[str, Any], limit: int
) -> None:
    client.post(PATH, json={"prompt": "a", **fields})
    prompt, _, max_tokens = engine.asked[0]
    assert max_tokens == min(limit, 2048 - len(prompt.ids))


def test_other_defaults_for_sampling_fields(
    serve: Callable[..., TestClient], engine: FakeEngine
) -> None:
    client = serve(
        override_generation_config={"temperature": 0.7, "top_k": 5, "max_new_tokens": 33}
    )
    client.post(PATH, json={"prompt": "a"})
    client.post(PATH, json={"prompt": "a", "temperature": 0.1, "max_completion_tokens": 99})
    reply = client.post(PATH, json={"prompt": "a", "temperature": 0})
    assert "X-Ignored-Parameters" not in reply.headers
    (_, request, limit), (_, other, other_limit), _ = engine.asked
    assert (request.temperature, request.top_k, request.top_p, limit) == (0.7, 5, 0.9, 33)
    assert (other.temperature, other.top_k, other_limit) == (0.1, 5, 99)


@pytest.mark.parametrize(
    ("path", "model", "ask"),
    [
        (PATH, CompletionRequest, {"prompt": "a"}),
        (
            "/v1/chat/completions",
            ChatCompletionRequest,
            {"messages": [{"role": "user", "content": "a"}]},
        ),
    ],
)
def test_null_means_absent(
    client: TestClient,
    engine: FakeEngine,
    path: str,
    model: type[GenerationFields],
    ask: dict[str, Any],
) -> None:
    nulls = {name: None for name in model.model_fields if name not in ask}
    assert client.post(path, json=ask).status_code == 200
    reply = client.post(path, json={**nulls, **ask})
    assert reply.status_code == 200
    assert "X-Ignored-Parameters" not in reply.headers
    (_, absent, _), (_, null, _) = engine.asked
    assert null == absent


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({"stream": "false"}, {"stream": False}),
        ({"max_tokens": 16.0, "top_k": 5.0, "n": 1.0}, {"max_tokens": 16, "top_k": 5, "n": 1}),
        ({"max_tokens": "16", "temperature": "0.5"}, {"max_tokens": 16, "temperature": 0.5}),
        ({"temperature": 1, "top_p": 1}, {"temperature": 1.0, "top_p": 1.0}),
        ({"stop": "a", "stop_token_ids": [2.0]}, {"stop": ["a"], "stop_token_ids": [2]}),
        ({"logprobs": False}, {"alternatives": None}),
        ({"logprobs": 2.0}, {"alternatives": 2}),
    ],
)
def test_values_are_read_as_clients_write_them(
    client: TestClient, engine: FakeEngine, sent: dict[str, Any], meant: dict[str, Any]
) -> None:
    assert client.post(PATH, json={"prompt": "a", **sent}).status_code == 200
    assert {name: getattr(engine.asked[0][1], name) for name in meant} == meant


def test_an_echo_may_be_asked_for_by_a_number(client: TestClient) -> None:
    assert (
        client.post(PATH, json={"prompt": "你好", "echo": 1}).json()["choices"][0]["text"]
        == "你好北京。"
    )


def test_a_stream_may_be_asked_for_in_words(client: TestClient) -> None:
    reply = client.post(PATH, json={"prompt": "a", "stream": "true"})
    assert reply.headers["content-type"].startswith("text/event-stream")


OPENAI_FIELDS = {
    "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "logit_bias": {}, "seed": 1,
    "stream_options": None,
}  # fmt: skip
OPENAI_CHAT_FIELDS = {
    **OPENAI_FIELDS, "parallel_tool_calls": False, "reasoning_effort": "low", "response_format": {"type": "text"},
    "tools": [], "tool_choice": "none", "max_completion_tokens": 50, "top_logprobs": 0, "logprobs": False,
    "prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "implicit"},
    "safety_identifier": "s", "verbosity": "low", "prediction": {"type": "content", "content": "a"},
    "modalities": ["text"], "reasoning": {"effort": "low"},
    "stream": True, "stream_options": {"include_obfuscation": False},
}  # fmt: skip
ANSWER_CHANGING_FIELDS = {
    "web_search_options": {},
    "moderation": {"model": "omni-moderation-latest"},
    "audio": {"voice": "alloy", "format": "wav"},
}


def test_a_kitchen_sink_of_openais_fields_is_accepted(client: TestClient) -> None:
    """What has no meaning here is expected; what would have given another answer is named."""
    assert (
        "X-Ignored-Parameters"
        not in client.post(PATH, json={"prompt": "a", **OPENAI_FIELDS}).headers
    )
    ask = {"messages": [{"role": "user", "content": "a"}], **OPENAI_CHAT_FIELDS}
    reply = client.post("/v1/chat/completions", json=ask)
    assert (reply.status_code, "X-Ignored-Parameters" in reply.headers) == (200, False)
    reply = client.post("/v1/chat/completions", json={**ask, **ANSWER_CHANGING_FIELDS})
    assert (reply.status_code, reply.headers["X-Ignored-Parameters"]) == (
        200,
        ", ".join(ANSWER_CHANGING_FIELDS),
    )


def test_fields_that_nobody_knows_are_named_in_a_header(client: TestClient) -> None:
    reply = client.post(
        PATH, json={"prompt": "a", "temprature": 1, "温度": 2, "user": "x", "store": True}
    )
    assert reply.headers["X-Ignored-Parameters"] == "temprature, %E6%B8%A9%E5%BA%A6"
    body = {"prompt": "a", "stream": True, "stream_options": {"include_usag": True}}
    assert (
        client.post(PATH, json=body).headers["X-Ignored-Parameters"]
        == "stream_options.include_usag"
    )
    reply = client.post(
        PATH, json={"prompt": "a", "temperature": 0, "top_p": 0.5, "seed": 1, "presence_penalty": 1}
    )
    assert reply.headers["X-Ignored-Parameters"] == "top_p, seed"
    assert (
        "X-Ignored-Parameters" not in client.post(PATH, json={"prompt": "a", "user": "x"}).headers
    )


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (["messages[0].name"], "messages[0].name"),
        (["a b", "c,d", "50%"], "a%20b, c%2Cd, 50%25"),
        (["x\r\nSet-Cookie: a=b", "\x00\x1b[2J"], "x%0D%0ASet-Cookie:%20a=b, %00%1B[2J"),
        (["x" * 41, "a-b.c_d"], f"{'x' * 40}, a-b.c_d"),
        ([f"f{at}" for at in range(10)], ", ".join(f"f{at}" for at in range(10))),
        (
            [f"f{at}" for at in range(1000)],
            ", ".join([*(f"f{at}" for at in range(10)), "and 990 more"]),
        ),
    ],
)
def test_names_in_the_header_are_plain_and_few(
    client: TestClient, sent: list[str], shown: str
) -> None:
    reply = client.post(PATH, json={"prompt": "a", **dict.fromkeys(sent, 1)})
    assert (reply.status_code, reply.headers["X-Ignored-Parameters"]) == (200, shown)
    assert "set-cookie" not in reply.headers


def test_the_header_is_never_longer_than_proxies_let_through(client: TestClient) -> None:
    names = [f"{at:04}{'字' * 100}" for at in range(1000)]
    reply = client.post(PATH, json={"prompt": "a", **dict.fromkeys(names, 1)})
    assert 1000 < len(reply.headers["X-Ignored-Parameters"]) < 3600


def test_all_fields_of_ours_reach_the_engine(client: TestClient, engine: FakeEngine) -> None:
    fields = {
        "temperature": 1.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "presence_penalty": -1.0, "frequency_penalty": 1.0,
        "repetition_penalty": 1.3, "n": 2, "best_of": 3, "stop": ["。"], "stop_token_ids": [7], "ignore_eos": True,
        "min_tokens": 4, "seed": 11, "logit_bias": {"5": -100.0}, "include_stop_str_in_output": True,
        "skip_special_tokens": False,
    }  # fmt: skip
    engine.script = SCRIPTS["two choices"]
    assert client.post(PATH, json={"prompt": "a", **fields}).status_code == 200
    decoding = engine.asked[0][1]
    wanted = {**fields, "logit_bias": {5: -100.0}, "width": fields["best_of"]}
    del wanted["best_of"]
    assert {name: getattr(decoding, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("best_of", "n", "width"), [(0, 1, 1), (1, 3, 3), (0, 2, 2), (5, 2, 5), (2, 2, 2)]
)
def test_best_of_is_unset_when_clients_send_its_old_default(
    client: TestClient, engine: FakeEngine, best_of: int, n: int, width: int
) -> None:
    engine.script = [Delta(index, "x", (1,), "stop") for index in range(n)]
    assert client.post(PATH, json={"prompt": "a", "n": n, "best_of": best_of}).status_code == 200
    assert engine.asked[0][1].width == width


@pytest.mark.parametrize(
    ("fields", "width", "ignored"),
    [
        ({"num_beams": 4}, 4, None),
        ({"use_beam_search": True}, 1, None),
        ({"use_beam_search": True, "n": 3}, 3, None),
        ({"use_beam_search": True, "best_of": 4}, 4, None),
        ({"use_beam_search": True, "best_of": 1, "n": 2}, 2, None),
        ({"num_beams": 3, "best_of": 8, "n": 2}, 3, "best_of"),
        ({"num_beams": 2, "do_sample": False}, 2, None),
        ({"num_beams": 2, "do_sample": True}, 2, "do_sample"),
        ({"num_beams": 2, "temperature": 1, "top_p": 0.5, "top_k": 3, "min_p": 0, "seed": 1}, 2,
         "temperature, top_p, top_k, min_p, seed"),
        ({"num_beams": 2, "length_penalty": 2, "early_stopping": "never"}, 2, None),
        ({"num_beams": 1, "length_penalty": 2, "early_stopping": True}, 1, "length_penalty, early_stopping"),
    ],
)  # fmt: skip
def test_beams_have_a_width_and_no_use_for_sampling(
    client: TestClient, engine: FakeEngine, fields: dict[str, Any], width: int, ignored: str | None
) -> None:
    engine.script = [Delta(index, "x", (1,), "stop") for index in range(fields.get("n", 1))]
    reply = client.post(PATH, json={"prompt": "a", **fields})
    assert reply.status_code == 200
    request = engine.asked[0][1]
    assert request.width == width
    assert request.is_beam_search == (fields.get("num_beams") != 1)
    assert reply.headers.get("X-Ignored-Parameters") == ignored


def test_sampling_defaults_are_not_for_beams(
    serve: Callable[..., TestClient], engine: FakeEngine
) -> None:
    defaults = {"repetition_penalty": 1.3, "presence_penalty": 1.0}
    client = serve(override_generation_config=defaults)
    assert client.post(PATH, json={"prompt": "a", "num_beams": 2}).status_code == 200
    assert engine.asked[0][1].repetition_penalty == 1.0
    assert (
        client.post(
            PATH, json={"prompt": "a", "num_beams": 2, "repetition_penalty": 1.2}
        ).status_code
        == 200
    )
    assert engine.asked[1][1].repetition_penalty == 1.2


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", None]
)
def test_a_body_is_json_whatever_it_is_called(client: TestClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert (
        client.post(PATH, content='{"prompt": "你好"}'.encode(), headers=headers).status_code == 200
    )


@pytest.mark.parametrize(
    ("size", "side", "kept"),
    [
        (3, None, slice(-3, None)),
        (3, "right", slice(3)),
        (-1, "left", slice(-19, None)),
        (19, "left", slice(-19, None)),
        (-1, "right", slice(19)),
    ],
)
def test_a_prompt_is_cut_to_so_many_tokens(
    serve: Callable[..., TestClient], engine: FakeEngine, size: int, side: str | None, kept: slice
) -> None:
    engine.max_model_len = 20
    ids = [*range(300, 340)]
    fields = {"truncate_prompt_tokens": size, **({} if side is None else {"truncation_side": side})}
    reply = serve().post(PATH, json={"prompt": [ids, ids[:2]], **fields})
    assert reply.status_code == 200
    assert [prompt.ids for prompt, *_ in engine.asked] == [ids[kept], ids[:2]]
    assert reply.json()["usage"]["prompt_tokens"] == len(ids[kept]) + 2


def test_a_long_text_is_cut_where_it_would_be_refused(
    client: TestClient, engine: FakeEngine, demo_encoder: SentencePieceEncoder
) -> None:
    long = "杭州" * 100_000
    assert client.post(PATH, json={"prompt": long}).status_code == 400
    assert (
        client.post(
            PATH, json={"prompt": long, "truncate_prompt_tokens": 100, "raw": True}
        ).status_code
        == 200
    )
    assert demo_encoder.decode(engine.asked[0][0].ids) == "杭州" * 100
    talk = {"messages": long, "truncate_prompt_tokens": -1}
    assert client.post("/v1/chat/completions", json=talk).status_code == 200
    assert len(engine.asked[1][0].ids) == engine.max_model_len - 1
    endless = client.post(PATH, json={"prompt": "杭州" * 600_000, "truncate_prompt_tokens": 5})
    assert endless.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", SCRIPTS)
def test_token_ids_are_returned_beside_the_text(
    client: TestClient, engine: FakeEngine, name: str, stream: bool
) -> None:
    """Those of the prompt once for each choice; those of the reply whole, also where they come without text."""
    engine.script = [*SCRIPTS[name]]
    n = 2 if name == "two choices" else 1
    body = {"prompt": [[300, 301], "你好"], "n": n, "return_token_ids": True, "stream": stream}
    reply = client.post(PATH, json=body)
    assert reply.status_code == 200
    choices = (
        [event["choices"][0] for event in events(reply.text)] if stream else reply.json()["choices"]
    )
    for index in range(2 * n):
        own = [choice for choice in choices if choice["index"] == index]
        wanted = [
            token_id
            for delta in SCRIPTS[name]
            if isinstance(delta, Delta) and delta.index == index % n
            for token_id in delta.token_ids
        ]
        assert [token_id for choice in own for token_id in choice["token_ids"]] == wanted
        told = [choice["prompt_token_ids"] for choice in own if "prompt_token_ids" in choice]
        assert told == [engine.asked[index // n][0].ids]
        assert own[0]["prompt_token_ids"] == told[0]


@pytest.mark.parametrize("stream", [False, True])
def test_no_token_ids_are_told_unasked(client: TestClient, stream: bool) -> None:
    text = client.post(PATH, json={"prompt": "a", "stream": stream}).text
    assert "token_ids" not in text
    text = client.post("/v1/chat/completions", json={"messages": "a", "stream": stream}).text
    assert "token_ids" not in text


def test_top_p_0_takes_the_likeliest_token(client: TestClient, engine: FakeEngine) -> None:
    reply = client.post(
        PATH, json={"prompt": "a", "top_p": 0, "temperature": 1.5, "seed": 5, "top_k": 3}
    )
    assert engine.asked[0][1].is_greedy
    assert reply.headers["X-Ignored-Parameters"] == "temperature, top_k, seed"
    reply = client.post(PATH, json={"prompt": "a", "top_p": 0})
    assert "X-Ignored-Parameters" not in reply.headers


def test_the_servers_own_top_p_may_be_0(
    serve: Callable[..., TestClient], engine: FakeEngine
) -> None:
    client = serve(override_generation_config={"top_p": 0})
    client.post(PATH, json={"prompt": "a"})
    client.post(PATH, json={"prompt": "a", "top_p": 0.5})
    assert [request.is_greedy for _, request, _ in engine.asked] == [True, False]
