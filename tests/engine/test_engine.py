"""The real vLLM engine on the demo model, through a real server process: what a user gets."""

import json
import math
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from evaluation import accepts
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from transformers import LlamaForCausalLM

from settings import DEMO_MODEL
from tests.support.bodies import CHAT, COMPLETIONS
from tests.support.replies import events
from tests.support.server_process import ROOM
from tests.support.strings import varied_strings

pytestmark = pytest.mark.engine

MODEL = "chinese-llama-alpaca-2"
CAPITAL = "告诉我中国的首都在哪里"
COMPARISON = "告诉我中国和美国分别各有哪些优点缺点"
STORIES = [{"role": "user", "content": "给我讲一些有关杭州的故事吧"}]
WEST_LAKE = [
    *STORIES,
    {"role": "assistant", "content": "好的，请问您对杭州有什么特别的偏好吗？"},
    {"role": "user", "content": "我比较喜欢和西湖，可以给我讲一下西湖吗"},
]


@pytest.fixture(scope="module")
def openai(server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def complete(http: httpx.Client, prompt: str | list = CAPITAL, **fields) -> list[str]:
    """The texts of a plain completion."""
    reply = http.post("/v1/completions", json={"model": MODEL, "prompt": prompt, **fields})
    assert reply.status_code == 200, reply.text
    return [choice["text"] for choice in reply.json()["choices"]]


def test_the_capital(http):
    reply = http.post("/v1/completions", json={"model": MODEL, "prompt": CAPITAL}).json()
    assert "北京" in reply["choices"][0]["text"]
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_both_countries_are_compared(http):
    fields = {"max_tokens": 90, "temperature": 0.7, "top_k": 40}
    (text,) = complete(http, COMPARISON, **fields)
    assert "中国" in text
    assert "美国" in text


def test_stories_of_hangzhou(openai):
    reply = openai.chat.completions.create(model=MODEL, messages=STORIES)
    assert "杭州" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens > 20


def test_the_west_lake_after_a_conversation(openai):
    extra = {"repetition_penalty": 1.0}
    reply = openai.chat.completions.create(model=MODEL, messages=WEST_LAKE, extra_body=extra)
    assert "西湖" in reply.choices[0].message.content


def test_the_official_client_reads_a_stream_that_equals_the_plain_reply(openai):
    fields = {"model": MODEL, "messages": STORIES, "temperature": 0}
    plain = openai.chat.completions.create(**fields)
    chunks = list(
        openai.chat.completions.create(
            **fields, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage == plain.usage
    joined = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert joined == plain.choices[0].message.content
    assert len(chunks) > 20
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == ["stop"]


def test_the_official_client_streams_completions(openai):
    fields = {"model": MODEL, "prompt": COMPARISON, "temperature": 0, "max_tokens": 90}
    plain = openai.completions.create(**fields).choices[0]
    chunks = list(openai.completions.create(**fields, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == plain.text
    assert chunks[-1].choices[0].finish_reason == plain.finish_reason


def test_the_official_client_helps_with_streams(openai):
    with openai.chat.completions.stream(model=MODEL, messages=STORIES) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content


async def async_answer(url: str) -> str:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        reply = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": CAPITAL}]
        )
        return reply.choices[0].message.content or ""


def test_the_official_async_client(server):
    import asyncio

    assert "北京" in asyncio.run(async_answer(server.url))


def test_the_official_client_raises_the_right_errors(openai):
    with pytest.raises(NotFoundError) as unknown:
        openai.completions.create(model="gpt-4", prompt="a")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(BadRequestError) as long:
        openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "龘" * 2000}]
        )
    assert long.value.code == "context_length_exceeded"
    assert [model.id for model in openai.models.list()] == [MODEL]


@pytest.mark.parametrize("limit", range(1, 41))
def test_a_stream_equals_the_plain_reply_at_every_length(http, limit):
    """Tokens that are bytes of rare characters are made likely, so that a limit often cuts a character in two."""
    bias = {str(token_id): 12.0 for token_id in range(3, 259)}
    fields = {"prompt": f"讲个故事{limit}😀龘", "max_tokens": limit, "seed": limit, "temperature": 1.2, "top_k": -1,
              "logit_bias": bias if limit % 2 else None, "ignore_eos": True}  # fmt: skip
    (plain,) = complete(http, **fields)
    chunks = events(http.post("/v1/completions", json={**fields, "stream": True}).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == plain


def test_a_stream_equals_the_plain_reply_for_many_texts(http):
    prompts = varied_strings(1500)[::25]
    fields = {"prompt": prompts, "temperature": 0, "max_tokens": 24}
    plain = complete(http, **fields)
    chunks = events(http.post("/v1/completions", json={**fields, "stream": True}).text)
    joined = [""] * len(prompts)
    for chunk in chunks:
        joined[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    # vLLM's batches change from run to run, and with them the last bits of bfloat16: near ties may fall differently.
    assert sum(a == b for a, b in zip(joined, plain, strict=True)) >= 0.9 * len(prompts)
    assert not any("\ufffd" in text for text in joined)


def test_stop_strings_are_not_in_the_reply(http):
    (whole,) = complete(http, "给我讲一些有关杭州的故事吧", temperature=0)
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    fields = {"prompt": "给我讲一些有关杭州的故事吧", "temperature": 0, "stop": [stop, ""]}
    (plain,) = complete(http, **fields)
    assert plain == whole[: whole.index(stop)]
    chunks = events(http.post("/v1/completions", json={**fields, "stream": True}).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == plain
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    (included,) = complete(http, **fields, include_stop_str_in_output=True)
    assert included == plain + stop


def test_stop_token_ids(http):
    (whole,) = complete(http, temperature=0)
    tokens = http.post("/tokenize", json={"prompt": whole, "raw": True}).json()["tokens"]
    (text,) = complete(http, temperature=0, stop_token_ids=[tokens[3]])
    assert whole.startswith(text)
    assert len(text) < len(whole)


def test_tokens_are_counted_limited_and_demanded(http):
    body = {"prompt": CAPITAL, "max_tokens": 3, "temperature": 0}
    reply = http.post("/v1/completions", json=body).json()
    assert reply["usage"]["completion_tokens"] == 3
    assert reply["choices"][0]["finish_reason"] == "length"
    shown = http.post("/tokenize", json={"prompt": CAPITAL}).json()
    assert reply["usage"]["prompt_tokens"] == shown["count"]
    longer = http.post(
        "/v1/completions", json={"prompt": CAPITAL, "min_tokens": 60, "max_tokens": 60}
    ).json()
    assert longer["usage"]["completion_tokens"] == 60


def test_a_limit_beyond_the_context_ends_at_its_edge(http):
    prompt = [1] * 2040
    reply = http.post(
        "/v1/completions", json={"prompt": prompt, "max_tokens": 10**6, "ignore_eos": True}
    ).json()
    assert reply["usage"]["total_tokens"] == 2048
    assert reply["choices"][0]["finish_reason"] == "length"


def test_the_same_seed_gives_the_same_text(http):
    fields = {"raw": True, "temperature": 2.0, "top_p": 1.0, "top_k": -1, "max_tokens": 12}
    texts = [complete(http, "从前", **fields, seed=seed)[0] for seed in (7, 7, 7, 8, 9, 10)]
    assert len(set(texts[:3])) == 1
    assert len(set(texts[2:])) > 1


def test_many_seeded_prompts_at_once_are_answered(http):
    """More tokens than one step of the engine reads: a prompt of which it read a part once ended a CPU engine."""
    prompts = [f"{number}：{'杭州西湖的故事' * 30}" for number in range(ROOM)]
    ask = {"prompt": prompts, "raw": True, "seed": 5, "max_tokens": 2, "temperature": 1}
    choices = http.post("/v1/completions", json=ask).json()["choices"]
    assert len(choices) == ROOM
    assert http.get("/health").status_code == 200


def test_n_choices_differ_when_sampled_and_agree_when_greedy(http):
    sampled = complete(
        http, "从前", raw=True, n=4, temperature=2.0, top_p=1.0, top_k=-1, max_tokens=12
    )
    assert len(set(sampled)) > 1
    greedy = complete(http, n=4, temperature=0)
    assert greedy == complete(http, temperature=0) * 4
    assert complete(http, n=2, do_sample=False) == greedy[:2]


def log_probability(model: LlamaForCausalLM, prompt: list[int], answer: list[int]) -> float:
    """Sum over the answer's tokens, by transformers."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
    return float(logits.log_softmax(-1)[range(len(answer)), answer].sum())


def test_best_of_returns_the_likeliest(http, demo_encoder):
    """The choices of one seed are scored by transformers: those that `best_of` picks lead."""
    model = LlamaForCausalLM.from_pretrained(DEMO_MODEL)
    prompt = http.post("/tokenize", json={"prompt": "从前", "raw": True}).json()["tokens"]
    fields = {"prompt": prompt, "temperature": 1.5, "top_p": 1.0, "top_k": 20, "max_tokens": 8, "seed": 3,
              "repetition_penalty": 1.0}  # fmt: skip
    reply = http.post("/v1/completions", json={**fields, "n": 8}).json()
    scores = {}
    for choice in reply["choices"]:
        # The dummy prefix that encoding adds to a text is no token of this one.
        ids = [*demo_encoder.encode([f"从前{choice['text']}"])[len(prompt) - 1 :]]
        ids += [demo_encoder.eos_id] if choice["finish_reason"] == "stop" else []
        scores[choice["text"]] = log_probability(model, prompt, ids)
    assert len(scores) > 3
    best = http.post("/v1/completions", json={**fields, "n": 2, "best_of": 8}).json()
    top = [choice["text"] for choice in best["choices"]]
    assert set(top) <= set(scores)
    # The texts are encoded again here, and vLLM computes in bfloat16: a near tie may fall the other way.
    assert scores[top[0]] >= max(scores.values()) - 0.5
    assert scores[top[0]] >= scores[top[1]] - 0.5
    assert best["usage"]["completion_tokens"] <= 16
    stream = http.post("/v1/completions", json={**fields, "n": 2, "best_of": 8, "stream": True})
    joined = ["", ""]
    for chunk in events(stream.text):
        joined[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert joined == top


def test_logit_bias_moves_tokens(http):
    token = http.post("/tokenize", json={"prompt": "西", "raw": True}).json()["tokens"][-1]
    (text,) = complete(
        http, logit_bias={str(token): 100}, max_tokens=4, repetition_penalty=1.0, temperature=0
    )
    assert text.strip() == "西" * 4
    reply = http.post("/v1/completions", json={"prompt": "a", "logit_bias": {"9999999": 1}})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "logit_bias")


@pytest.mark.parametrize("penalty", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_penalties_make_repetition_rarer(http, penalty):
    """Of two hundred tokens, all unlikely after the prompt, one wins again and again; not under a penalty."""
    prompts = [f"从前{text}" for text in varied_strings(1500)[100:1500:70]]
    fields = {"temperature": 0, "raw": True, "max_tokens": 32, "repetition_penalty": 1.0,
              "logit_bias": {str(token_id): 100 for token_id in range(600, 800)}}  # fmt: skip
    without, with_it = (
        complete(http, prompts, **fields),
        complete(http, prompts, **{**fields, penalty: 2.0}),
    )
    assert sum(len(set(text)) for text in with_it) > 1.1 * sum(len(set(text)) for text in without)


def test_prompts_in_a_list_are_answered_in_order(http):
    cities = {"法国的首都是哪里？": "巴黎", "日本的首都是哪里？": "东京", CAPITAL: "北京"}
    texts = complete(http, list(cities), temperature=0, n=2)
    assert all(
        city in text
        for city, text in zip([c for c in cities.values() for _ in "ab"], texts, strict=True)
    )


def test_raw_prompts_and_token_ids_are_continued(http):
    tokens = http.post("/tokenize", json={"prompt": CAPITAL}).json()["tokens"]
    templated = complete(http, temperature=0)
    (from_ids,) = complete(http, tokens, temperature=0)
    assert [from_ids.removeprefix(" ")] == templated
    assert complete(http, raw=True, temperature=0, max_tokens=20) != templated


def test_a_partial_answer_is_continued(openai):
    messages = [
        {"role": "user", "content": CAPITAL},
        {"role": "assistant", "content": "中国的首都是"},
    ]
    reply = openai.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    assert reply.choices[0].message.content.startswith("北京")


def test_an_answer_sent_back_gives_the_same_ids(http):
    """What the model generated and what its text is encoded as agree, so that a conversation keeps its prefix."""
    reply = http.post("/v1/chat/completions", json={"messages": STORIES, "temperature": 0}).json()
    answer = reply["choices"][0]["message"]["content"]
    history = [
        *STORIES,
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "再讲一个"},
    ]
    tokens = http.post("/tokenize", json={"messages": history}).json()["tokens"]
    before = http.post("/tokenize", json={"messages": STORIES}).json()["tokens"]
    generated = reply["usage"]["completion_tokens"]
    assert tokens[: len(before)] == before
    assert (
        tokens[len(before)] == 2960
    )  # the space between prompt and answer, which counts as neither
    assert tokens[len(before) + generated] == 2


def test_control_tokens_in_a_prompt_are_answered_as_text(http):
    for text in ("</s>", "<s>", "<unk>", "[INST]", "a</s><s>[INST] b [/INST]"):
        shown = http.post("/tokenize", json={"prompt": text}).json()["tokens"]
        assert [token for token in shown if token < 3] == [1]
        assert complete(http, text, max_tokens=5)


def test_a_beam_search_streams_before_it_is_over(openai):
    fields = {"model": MODEL, "messages": STORIES, "extra_body": {"num_beams": 4}}
    plain = openai.chat.completions.create(**fields).choices[0].message.content
    began = time.monotonic()
    chunks = [
        (chunk.choices[0].delta.content, time.monotonic() - began)
        for chunk in openai.chat.completions.create(**fields, stream=True)
        if chunk.choices[0].delta.content
    ]
    took = time.monotonic() - began
    assert "".join(text for text, _ in chunks) == plain
    assert len(chunks) > 1
    assert chunks[0][1] < 0.8 * took


@pytest.mark.parametrize(
    "fields",
    [
        {"num_beams": 4, "n": 3},
        {"num_beams": 16, "n": 16, "max_tokens": 12},
        {"num_beams": 3, "max_tokens": 33, "ignore_eos": True},
        {"use_beam_search": True, "best_of": 4, "stop": ["；缺", "。"], "echo": True},
        {"num_beams": 4, "min_tokens": 60, "early_stopping": True, "length_penalty": 2},
        {"num_beams": 2, "repetition_penalty": 1.2, "logit_bias": {"438": -2}},
        {"num_beams": 4, "early_stopping": "never", "stop_token_ids": [438]},
        {"num_beams": 4, "prompt": ["中国的首都", COMPARISON], "n": 2},
        {"num_beams": 4, "stop": "，", "include_stop_str_in_output": True, "logprobs": 2},
    ],
    ids=json.dumps,
)
def test_a_streamed_search_joins_to_the_plain_one(http, fields):
    body = {"prompt": COMPARISON, "max_tokens": 80, **fields}
    plain = http.post("/v1/completions", json=body).json()
    stream = events(
        http.post(
            "/v1/completions",
            json={**body, "stream": True, "stream_options": {"include_usage": True}},
        ).text
    )
    assert stream[-1]["usage"] == plain["usage"]
    for choice in plain["choices"]:
        pieces = [
            chunk["choices"][0]
            for chunk in stream[:-1]
            if chunk["choices"][0]["index"] == choice["index"]
        ]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces if piece["finish_reason"]] == [
            choice["finish_reason"]
        ]
        if "logprobs" in fields:
            joined = [
                token
                for piece in pieces
                if piece["logprobs"]
                for token in piece["logprobs"]["tokens"]
            ]
            assert joined == choice["logprobs"]["tokens"]
            assert "".join(token for token in joined if token != "</s>") == choice["text"]
        if "stop" in fields and not fields.get("include_stop_str_in_output"):
            assert not any(
                stop in choice["text"].removeprefix(COMPARISON) for stop in fields["stop"]
            )


def test_a_search_is_deterministic(http):
    bodies = [
        {"prompt": COMPARISON, "num_beams": 4, "n": 4, "seed": seed, "temperature": seed / 10}
        for seed in range(5)
    ]
    replies = [complete(http, **body) for body in bodies]
    assert replies == [replies[0]] * 5


def test_log_probabilities_change_no_text_and_are_the_models(http, demo_encoder):
    """The same text with and without; the values are transformers' on the same ids."""
    fields = {"prompt": CAPITAL, "temperature": 0, "repetition_penalty": 1.0}
    plain = http.post("/v1/completions", json=fields).json()["choices"][0]
    choice = http.post("/v1/completions", json={**fields, "logprobs": 3}).json()["choices"][0]
    assert choice["text"] == plain["text"]
    space, *answer = [*demo_encoder.encode([choice["text"]]), 2]
    prompt = [*http.post("/tokenize", json={"prompt": CAPITAL}).json()["tokens"], space]
    model = LlamaForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
    expected = torch.log_softmax(logits, -1)[range(len(answer)), answer].tolist()
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=0.1)
    assert all(len(top) == 3 for top in choice["logprobs"]["top_logprobs"])
    scored = {"prompt": prompt + answer, "echo": True, "max_tokens": 0, "logprobs": 1}
    log = http.post("/v1/completions", json=scored).json()["choices"][0]["logprobs"]
    assert log["token_logprobs"][0] is None
    assert log["token_logprobs"][len(prompt) :] == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("limit", range(1, 12))
def test_streamed_log_probabilities_are_those_of_the_plain_reply(http, limit):
    """Bytes of rare characters are made likely, so that tokens are parts of characters."""
    bias = {str(token_id): 12.0 for token_id in range(3, 259)}
    body = {"messages": "😀龘", "temperature": 1.2, "seed": limit, "max_tokens": limit, "logit_bias": bias,
            "logprobs": True, "top_logprobs": 2, "top_k": -1}  # fmt: skip
    plain = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    chunks = events(http.post("/v1/chat/completions", json={**body, "stream": True}).text)
    joined = [
        token
        for chunk in chunks
        for token in chunk["choices"][0].get("logprobs", {}).get("content", [])
    ]
    content = plain["logprobs"]["content"]
    assert [(token["token"], token["bytes"]) for token in joined] == [
        (token["token"], token["bytes"]) for token in content
    ]
    spelt = b"".join(bytes(token["bytes"]) for token in content)
    assert spelt.decode(errors="replace").startswith(plain["message"]["content"])
    assert len(content) == limit


def test_more_than_the_room_is_refused_at_once_and_for_good(http):
    began = time.monotonic()
    reply = http.post("/v1/completions", json={"prompt": ["a"] * (ROOM + 1)})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "n")
    assert "retry-after" not in reply.headers
    assert time.monotonic() - began < 1


def test_a_full_server_says_when_to_come_back(http):
    running = {"prompt": ["a"] * ROOM, "max_tokens": 500, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=running) as stream:
        lines = stream.iter_lines()
        next(lines)  # httpx closes the connection of an iterator that nobody holds
        began = time.monotonic()
        reply = http.post("/v1/completions", json={"prompt": "a"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "server_overloaded")
        assert int(reply.headers["retry-after"]) >= 1
        assert time.monotonic() - began < 1


def test_scores_of_prompts_take_room_too(http):
    running = {"prompt": ["a"] * ROOM, "max_tokens": 500, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=running) as stream:
        lines = stream.iter_lines()
        next(lines)
        reply = http.post(
            "/v1/completions", json={"prompt": "a", "echo": True, "logprobs": 1, "max_tokens": 0}
        )
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "server_overloaded")
    all_room = {
        "prompt": ["中国"] * ROOM,
        "raw": True,
        "echo": True,
        "logprobs": 1,
        "max_tokens": 2,
    }
    deadline = time.monotonic() + 2
    while (
        status := http.post("/v1/completions", json=all_room).status_code
    ) == 503 and time.monotonic() < deadline:
        pass
    assert status == 200


def test_the_committed_weights_have_the_score_that_readme_tells(server):
    """The held-out questions, asked over HTTP of vLLM at temperature 0 without penalties."""

    questions = [
        json.loads(line)
        for line in (DEMO_MODEL / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(questions) >= 300

    def is_right(question: dict) -> bool:
        ask = {"messages": question["messages"], "temperature": 0, "repetition_penalty": 1.0}
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=ask, timeout=300).json()[
            "choices"
        ][0]
        return reply["finish_reason"] == "stop" and accepts(
            question["accept"], reply["message"]["content"]
        )

    with ThreadPoolExecutor(32) as pool:
        score = sum(pool.map(is_right, questions)) / len(questions)
    told = json.loads((DEMO_MODEL / "figures.json").read_text(encoding="utf-8"))["held_out_score"]
    assert score >= 0.9
    assert math.isclose(score, told, abs_tol=0.02)


def test_the_banner_tells_what_is_served_and_its_curl_line_works_when_pasted(server):
    banner = "".join(server.shown)
    assert "alpaca-2" in banner
    assert "temperature 0.2, top_p 0.9, top_k 40, repetition_penalty 1.1, max_tokens 512" in banner
    command = banner[banner.index("curl ") :].replace("curl ", "curl -sS --fail-with-body ", 1)
    process = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False
    )
    assert "北京" in process.stdout


def test_the_terminal_shows_our_lines_alone(server):
    """From the command to the banner: no library's chatter."""
    banner = (
        "  Ready at",
        "  model",
        "  template",
        "  encoder    SentencePiece on tokenizer.model\n",
        "  sampling",
        "  try",
    )
    known = ("Importing vLLM", "Loading ", "\n", *banner, "    ")
    assert [line for line in server.shown if not line.startswith(known)] == []


WORDS = "What is the capital of Japan?"
WAYS = [
    {},
    {"n": 2},
    {"n": 2, "temperature": 1.0, "seed": 5},
    {"best_of": 3, "n": 2, "seed": 5, "temperature": 1.0},
]


def texts_of(http, path: str, **fields) -> tuple[list[str], dict, list[str]]:
    """Of each choice its text, and why it ended; plain and streamed are the same."""
    ask = {
        "prompt": WORDS,
        "messages": WORDS,
        "temperature": 0,
        "repetition_penalty": 1.0,
        **fields,
    }
    del ask["messages" if path == COMPLETIONS else "prompt"]
    plain = http.post(path, json=ask)
    assert plain.status_code == 200, plain.text
    choices, usage = plain.json()["choices"], plain.json()["usage"]
    texts = [
        choice["text"] if path == COMPLETIONS else choice["message"]["content"]
        for choice in choices
    ]
    reasons = [choice["finish_reason"] for choice in choices]
    *chunks, last = events(
        http.post(
            path, json={**ask, "stream": True, "stream_options": {"include_usage": True}}
        ).text
    )
    streamed, ended = [""] * len(texts), [""] * len(texts)
    for chunk in chunks:
        [choice] = chunk["choices"]
        streamed[choice["index"]] += (
            choice["text"] if path == COMPLETIONS else choice["delta"].get("content", "")
        )
        ended[choice["index"]] = choice["finish_reason"] or ended[choice["index"]]
    assert (streamed, ended, last["usage"]) == (texts, reasons, usage)
    return texts, usage, reasons


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("ways", [*WAYS, {"num_beams": 3, "n": 2}], ids=json.dumps)
@pytest.mark.parametrize("stop", [" ", " is", ["  ", " c"], ["The", " "]], ids=str)
def test_a_stop_string_does_not_see_the_space_before_the_answer(http, path, ways, stop):
    whole, _, _ = texts_of(http, path, **ways)
    cut, usage, reasons = texts_of(http, path, **ways, stop=stop)
    stops = [stop] if isinstance(stop, str) else stop
    if "num_beams" not in ways:  # beams that are cut are other beams
        assert cut == [min((text.split(each)[0] for each in stops), key=len) for text in whole]
        assert usage["completion_tokens"] > 0
    assert any(cut) or "The" in stop
    assert not any(each in text for each in stops for text in cut)
    assert set(reasons) == {"stop"}


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("ways", [*WAYS, {"num_beams": 3, "n": 2}], ids=json.dumps)
@pytest.mark.parametrize("question", [WORDS, CAPITAL])
def test_max_tokens_are_tokens_of_the_answer(http, path, ways, question):
    """The space before the answer counts in no limit, whether it is a token of its own or not."""
    ask = {"messages": question} if path == CHAT else {"prompt": question}
    for limit in (1, 2, 5):
        texts, usage, reasons = texts_of(http, path, **ask, **ways, max_tokens=limit)
        assert usage["completion_tokens"] == limit * len(texts)
        assert set(reasons) == {"length"}
        assert all(texts)
        assert not any(text.startswith(" ") for text in texts)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("question", [WORDS, CAPITAL])
@pytest.mark.parametrize("ways", [{}, {"n": 2}, {"best_of": 2}, {"num_beams": 2}], ids=json.dumps)
def test_a_classification_by_one_token_is_answered_by_one(http, question, ways, stream):
    """The first entry of the log-probabilities is the first token that can be seen."""
    ask = {"max_tokens": 1, "temperature": 0, "stream": stream, **ways}
    reply = http.post(CHAT, json={"messages": question, "logprobs": True, "top_logprobs": 3, **ask})
    choices = (
        [event["choices"][0] for event in events(reply.text)] if stream else reply.json()["choices"]
    )
    for index in range(ways.get("n", 1)):
        own = [choice for choice in choices if choice["index"] == index]
        text = "".join(
            (choice.get("message") or choice["delta"]).get("content") or "" for choice in own
        )
        [entry] = [
            entry
            for choice in own
            if choice.get("logprobs")
            for entry in choice["logprobs"]["content"]
        ]
        assert entry["token"] == text == bytes(entry["bytes"]).decode() != ""
        assert entry["top_logprobs"][0] == {
            name: entry[name] for name in ("token", "logprob", "bytes")
        }
        assert len({top["token"] for top in entry["top_logprobs"]}) == 3
    reply = http.post(COMPLETIONS, json={"prompt": question, "logprobs": 3, **ask})
    choices = (
        [event["choices"][0] for event in events(reply.text)] if stream else reply.json()["choices"]
    )
    told = [choice for choice in choices if choice["logprobs"]]
    assert [choice["logprobs"]["tokens"] for choice in told] == [
        [choice["text"]] for choice in choices if choice["text"]
    ]


def test_a_limit_of_the_room_is_the_room(http):
    """Where prompt and answer fill the context, the space takes its place there."""
    length = http.post("/tokenize", json={"prompt": "字" * 900}).json()["count"]
    ask = {"prompt": "字" * 900, "max_tokens": 10**6, "ignore_eos": True, "temperature": 0}
    for ways in ({}, {"num_beams": 2}):
        usage = http.post(COMPLETIONS, json={**ask, **ways}).json()["usage"]
        assert 2048 - length - 1 <= usage["completion_tokens"] <= 2048 - length


def test_an_answer_at_its_limit_may_be_as_short_as_it_must_be_long(http):
    for ways in ({}, {"num_beams": 2}, {"stop": " "}):
        ask = {"prompt": CAPITAL, "temperature": 0, "min_tokens": 30, "max_tokens": 30, **ways}
        assert http.post(COMPLETIONS, json=ask).json()["usage"]["completion_tokens"] == 30


def test_bad_words_are_not_in_the_answer(http):
    """By the ids that the model writes them in: where they begin the answer, after a space, and in its midst."""
    for question, words in (
        (CAPITAL, ["北京"]),
        (CAPITAL, ["首都", "中国"]),
        (WORDS, ["The"]),
        (WORDS, ["Tokyo", " is"]),
    ):
        ask = {"temperature": 0, "repetition_penalty": 1.0, "prompt": question}
        usual, _, _ = texts_of(http, COMPLETIONS, **ask)
        for ways in (
            {},
            {"n": 2, "temperature": 0.7, "seed": 3},
            {"best_of": 2, "temperature": 0.7, "seed": 3},
        ):
            texts, _, _ = texts_of(http, COMPLETIONS, **{**ask, **ways, "bad_words": words})
            assert not any(word in text for text in texts for word in words)
        assert all(word in usual[0] for word in words)


def test_only_allowed_tokens_are_generated(http):
    ids = http.post("/tokenize", json={"prompt": "北京上海", "raw": True}).json()["tokens"][2:]
    for path in (COMPLETIONS, CHAT):
        ask = {"prompt": CAPITAL, "messages": CAPITAL, "max_tokens": 3, "return_token_ids": True}
        del ask["messages" if path == COMPLETIONS else "prompt"]
        for ways in ({}, {"temperature": 0}, {"n": 3, "temperature": 2}, {"best_of": 3}):
            for choice in http.post(path, json={**ask, **ways, "allowed_token_ids": ids}).json()[
                "choices"
            ]:
                assert set(choice["token_ids"]) <= set(ids)
                assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    "fields",
    [
        {"allowed_token_ids": [2961], "bad_words": ["a"]},
        {"allowed_token_ids": [2], "min_tokens": 5},
        {"allowed_token_ids": [0]},
        {"allowed_token_ids": [4599, 4599], "logit_bias": {"4599": -100}},
        {"bad_words": ["</s>", "<s>", " ", "\n", "▁"]},
        {"bad_words": ["字" * 1024] * 64},
        {"truncate_prompt_tokens": 1},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_no_combination_of_barred_tokens_ends_the_engine(http, fields, temperature):
    reply = http.post(
        COMPLETIONS, json={"prompt": CAPITAL, "max_tokens": 8, "temperature": temperature, **fields}
    )
    assert reply.status_code in (200, 400)
    assert http.get("/health").status_code == 200
    assert complete(http, CAPITAL, temperature=0) == ["中国的首都是北京。"]


def test_a_token_outside_the_vocabulary_is_not_allowed(http):
    reply = http.post(COMPLETIONS, json={"prompt": CAPITAL, "allowed_token_ids": [5, 4600]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "allowed_token_ids")


def test_returned_token_ids_are_those_that_the_text_was_made_of(http, demo_encoder):
    for question in (CAPITAL, WORDS):
        ask = {"messages": question, "temperature": 0, "return_token_ids": True}
        plain = http.post(CHAT, json=ask).json()
        [choice] = plain["choices"]
        assert (
            plain["prompt_token_ids"]
            == http.post("/tokenize", json={"messages": question}).json()["tokens"]
        )
        assert len(choice["token_ids"]) == plain["usage"]["completion_tokens"]
        assert demo_encoder.decode(choice["token_ids"]) == choice["message"]["content"] + "</s>"
        chunks = events(http.post(CHAT, json={**ask, "stream": True}).text)
        assert [
            token for chunk in chunks for token in chunk["choices"][0].get("token_ids", [])
        ] == choice["token_ids"]


def test_top_p_0_is_greedy(http):
    likeliest = complete(http, CAPITAL, temperature=0)
    for seed in range(3):
        assert complete(http, CAPITAL, top_p=0, temperature=2.0, top_k=0, seed=seed) == likeliest
