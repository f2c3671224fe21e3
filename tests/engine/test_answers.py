"""What vLLM adds to a choice, as the client sees it: the template's lead is no part of it, in no count and no place."""

import random
from typing import Any

import pytest

from generation import CallFormat, Delta, Prompt
from prompt_template import PromptTemplate
from prompts.calls import Message
from prompts.encoder import SentencePieceEncoder
from prompts.layouts import ALPACA_2, JSON_LINES
from settings import DEMO_MODEL
from tests.support.paths import ALPACA_2_TOKENIZER

pytestmark = pytest.mark.engine

EOS = 2
TEXTS = [
    "北京。",
    "The capital is Tokyo.",
    " 两格",
    "",
    "a b  c",
    "龘😀 好",
    "你好 世界",
    "I",
    "  ",
]
STOPS = [
    [],
    [" "],
    ["  "],
    [" b"],
    ["。"],
    [" ", "京"],
    ["T"],
    ["The"],
    [" The"],
    ["格"],
    [" 格", "好"],
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO_MODEL)


@pytest.fixture(scope="module")
def template(demo_encoder: SentencePieceEncoder) -> PromptTemplate:
    return PromptTemplate(ALPACA_2, demo_encoder)


def vllm_outputs(
    tokenizer: Any, prompt: Prompt, params: Any, token_ids: list[int], at_once: int
) -> list[Any]:
    """What vLLM would make of these tokens: `at_once` of them in each output, until they or its limit end it."""
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import CompletionOutput
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    request = EngineCoreRequest("", prompt.ids, None, params, None, 0.0, None, None, None)
    detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
    outputs, reason = [], None
    while reason is None:
        text, logprobs = "", FlatLogprobs()
        ids: list[int] = []
        while len(ids) < at_once and reason is None:
            token_id = token_ids[len(detokenizer.output_token_ids)]
            reason = "stop" if token_id == EOS else None
            stop = detokenizer.update([token_id], token_id == EOS)
            if (
                reason is None
                and stop is None
                and len(detokenizer.output_token_ids) >= params.max_tokens
            ):
                reason = "length"
            reason = "stop" if stop is not None else reason
            ids.append(token_id)
            logprobs.append_fast([token_id], [-1.0], iter((1,)), (None,))
            text += detokenizer.get_next_output_text(reason is not None, delta=True)
        outputs.append(CompletionOutput(0, text, ids, -1.0, logprobs, finish_reason=reason))
    return outputs


def answered(
    tokenizer: Any,
    prompt: Prompt,
    token_ids: list[int],
    limit: int,
    at_once: int = 1,
    call_format: CallFormat | None = None,
    **fields: Any,
) -> Delta:
    """All that the client gets of a choice whose tokens are these."""
    from vllm.sampling_params import SamplingParams

    from engine.answers import Answer, SelfStoppingAnswer, can_stop_wrongly, joined, without_stops

    params = SamplingParams(max_tokens=limit + bool(prompt.lead_ids), **fields)
    kind = (
        SelfStoppingAnswer if can_stop_wrongly(prompt, params, call_format is not None) else Answer
    )
    answer = kind(tokenizer, prompt, params, limit, alternatives=0)
    answer.call_format = call_format
    sent = without_stops(params) if kind is SelfStoppingAnswer else params
    deltas = []
    for output in vllm_outputs(tokenizer, prompt, sent, token_ids, at_once):
        if not answer.is_over:
            deltas.append(answer.to_delta(output, 0))
    return joined(deltas)


def expected(
    encoder: SentencePieceEncoder,
    token_ids: list[int],
    limit: int,
    stops: list[str],
    min_tokens: int = 0,
) -> tuple[str, int, str]:
    """The same, token by token: the text as its spellings joined, how many tokens it has, and why it ended."""
    ids = token_ids[1:] if token_ids[0] in encoder.ids_spelt_as(" ") else token_ids
    has_lead_token = len(ids) < len(token_ids)
    for count in range(1, limit + 1):
        spelt = b"".join(
            encoder.token_bytes(token_id) for token_id in ids[:count] if token_id != EOS
        )
        text = spelt.decode(errors="ignore")
        text = text if has_lead_token else text.removeprefix(" ")
        found = [text.index(stop) for stop in stops if stop in text]
        if ids[count - 1] == EOS:
            return text, count, "stop"
        if found and count >= min_tokens:
            return text[: min(found)], count, "stop"
    return text, limit, "length"


@pytest.mark.parametrize("stops", STOPS, ids=str)
@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_ends_where_the_clients_text_does(
    tokenizer: Any,
    template: PromptTemplate,
    demo_encoder: SentencePieceEncoder,
    text: str,
    stops: list[str],
) -> None:
    """At every limit, in outputs of one token, two, or all."""
    token_ids = [*demo_encoder.encode([text]), EOS]
    prompt = template.render_instruction("你好")
    for limit in range(1, len(token_ids) + 2):
        for at_once in (1, 2, 99):
            delta = answered(tokenizer, prompt, token_ids, limit, at_once, stop=stops)
            got = (delta.text, len(delta.token_ids), delta.finish_reason)
            assert got == expected(demo_encoder, token_ids, limit, stops), (limit, at_once)
            assert delta.logprobs is not None
            assert [token.token_id for token in delta.logprobs] == list(delta.token_ids)
            lead = [] if token_ids[0] in prompt.lead_ids else [" "]
            assert [delta.cut] == lead or not lead or not delta.text


def test_random_answers_end_where_the_clients_text_does(
    tokenizer: Any, template: PromptTemplate, demo_encoder: SentencePieceEncoder
) -> None:
    """Any tokens in any order, bytes that are no characters among them, with stop strings taken from the text."""
    chooser = random.Random(14)
    prompt = template.render_instruction("你好")
    for _ in range(300):
        token_ids = [
            chooser.choice((2960, 35, *[chooser.randrange(259, 4600)] * 3)) for _ in range(8)
        ]
        text, _, _ = expected(demo_encoder, [*token_ids, EOS], 99, [])
        begin = chooser.randrange(max(len(text), 1))
        stops = (
            [text[begin : begin + chooser.randint(1, 3)]]
            if text[begin:] and chooser.random() < 0.7
            else []
        )
        limit = chooser.randint(1, 10)
        delta = answered(
            tokenizer, prompt, [*token_ids, EOS], limit, chooser.choice((1, 3)), stop=stops
        )
        got = (delta.text, len(delta.token_ids), delta.finish_reason)
        assert got == expected(demo_encoder, [*token_ids, EOS], limit, stops), (
            token_ids,
            stops,
            limit,
        )


@pytest.mark.parametrize(("stop", "text"), [(" b", "a b"), ("c", "a b  c"), ("a", "a")])
def test_a_stop_string_may_stay_in_the_answer(
    tokenizer: Any,
    template: PromptTemplate,
    demo_encoder: SentencePieceEncoder,
    stop: str,
    text: str,
) -> None:
    token_ids = [*demo_encoder.encode(["a b  c d"]), EOS]
    fields: dict[str, Any] = {"stop": [stop], "include_stop_str_in_output": True}
    assert (
        answered(tokenizer, template.render_instruction("你好"), token_ids, 99, **fields).text
        == text
    )


CALL = '{"name": "now", "arguments": {"a": "一。二"}}'


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (CALL, CALL),
        (f"好\n{CALL}\n{CALL}", f"好\n{CALL}\n{CALL}"),
        (f"好。\n{CALL}", "好"),
        ('{"nam。', '{"nam'),
        (f"说{CALL}", '说{"name": "now", "arguments": {"a": "一'),
        ("好", "好"),
    ],
)
def test_a_stop_string_ends_no_call(
    tokenizer: Any,
    template: PromptTemplate,
    demo_encoder: SentencePieceEncoder,
    text: str,
    kept: str,
) -> None:
    token_ids = [*demo_encoder.encode([text]), EOS]
    prompt = template.render_instruction("你好")
    for at_once in (1, 3, 99):
        delta = answered(
            tokenizer, prompt, token_ids, 99, at_once, call_format=JSON_LINES, stop=["。"]
        )
        assert (delta.text, delta.finish_reason) == (kept, "stop")


def test_a_prompt_without_a_lead_loses_nothing(
    tokenizer: Any, template: PromptTemplate, demo_encoder: SentencePieceEncoder
) -> None:
    """Raw prompts, and answers that are continued."""
    token_ids = [*demo_encoder.encode(["北京。"]), EOS]
    for prompt in (
        template.render_raw("你好"),
        template.render_chat([Message("user", "a"), Message("assistant", "b")]),
    ):
        delta = answered(tokenizer, prompt, token_ids, 99)
        assert (delta.text, list(delta.token_ids), delta.cut) == (" 北京。", token_ids, "")
        assert len(answered(tokenizer, prompt, token_ids, 2).token_ids) == 2
        assert answered(tokenizer, prompt, token_ids, 99, stop=[" "]).text == ""


@pytest.mark.skipif(
    not ALPACA_2_TOKENIZER.is_file(), reason="the real model's tokenizer is not there"
)
def test_the_real_models_lead_is_known() -> None:
    encoder = SentencePieceEncoder(ALPACA_2_TOKENIZER)
    prompt = PromptTemplate(ALPACA_2, encoder).render_instruction("你好")
    spellings = {token_id: encoder.token_bytes(token_id) for token_id in prompt.lead_ids}
    assert spellings == {29871: b" ", 35: b" "}  # the piece, and the byte
