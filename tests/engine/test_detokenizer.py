"""vLLM's detokenizer on the demo model's tokenizer: no delta ever carries half a character."""

import random
from collections.abc import Callable

import pytest

from prompts.encoder import SentencePieceEncoder
from settings import DEMO_MODEL
from tests.support.strings import varied_strings

pytestmark = pytest.mark.engine
# SentencePiece's own sign for a space is a space to it.
RARE = [text for text in varied_strings(1500) if not text.isascii() and "▁" not in text][:400]


@pytest.fixture(scope="module")
def deltas(demo_encoder: SentencePieceEncoder) -> Callable[[list[int]], list[str]]:
    """What vLLM makes of generated ids, one at a time, after a prompt."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams
    from vllm.tokenizers.registry import get_tokenizer
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    tokenizer = get_tokenizer(str(DEMO_MODEL))
    prompt = demo_encoder.encode([1, "[INST] 你好 [/INST]"])

    def spoken(ids: list[int]) -> list[str]:
        params = SamplingParams(output_kind=RequestOutputKind.DELTA)
        request = EngineCoreRequest(
            request_id="r", prompt_token_ids=prompt, mm_features=None, sampling_params=params, pooling_params=None,
            arrival_time=0.0, lora_request=None, cache_salt=None, data_parallel_rank=None,
        )  # fmt: skip
        detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
        pieces = []
        for number, token_id in enumerate(ids, 1):
            detokenizer.update([token_id], False)
            pieces.append(detokenizer.get_next_output_text(number == len(ids), True))
        return pieces

    return spoken


def test_rare_characters_and_emoji_arrive_whole_at_every_length(
    deltas: Callable[[list[int]], list[str]], demo_encoder: SentencePieceEncoder
) -> None:
    for text in RARE:
        ids = demo_encoder.encode([text])
        for limit in range(1, min(40, len(ids)) + 1):
            joined = "".join(deltas(ids[:limit]))
            assert "\ufffd" not in joined
            assert text.startswith(joined.removeprefix(" "))
        if len(ids) <= 40:
            assert joined == f" {text}"


@pytest.mark.parametrize("min_tokens", [0, 3])
def test_beams_meet_stop_strings_where_vllms_detokenizer_does(
    demo_encoder: SentencePieceEncoder, min_tokens: int
) -> None:
    """Also after byte tokens, where a window that cuts a character in two would spoil the text around it."""
    from vllm.sampling_params import SamplingParams
    from vllm.tokenizers.registry import get_tokenizer
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    from engine.beam_search import Beam
    from engine.detokenizer import AnswerText
    from engine.vllm_beams import StopStrings
    from generation import Prompt, TokenLogprob

    tokenizer, chooser = get_tokenizer(str(DEMO_MODEL)), random.Random(7)
    prompt = demo_encoder.encode([1, "[INST] 你好 [/INST]"])
    hits = 0
    for text in [
        *RARE,
        "好😀😀😀\n再见。",
        "龘靐㵘𠮷\n",
        "😀😀😀😀\n\n好",
        "\n😀再见",
        "the capital 北京 is the one",
    ]:
        at = chooser.randrange(len(text) + 1)
        stops = [
            text[at : at + chooser.randint(1, 3)] or "\n",
            chooser.choice(["\n", " the", " ", "。"]),
        ]
        params = SamplingParams(stop=stops, min_tokens=min_tokens, max_tokens=500)
        request = EngineCoreRequest("", prompt, None, params, None, 0.0, None, None, None)
        detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
        hits_stop_string, beam = StopStrings(AnswerText(tokenizer, Prompt(prompt), params)), Beam()
        for token_id in demo_encoder.encode([text]):
            beam = Beam(beam, TokenLogprob(token_id, 0.0), length=beam.length + 1)
            expected = detokenizer.update([token_id], False) is not None
            assert hits_stop_string(beam) == expected, (text, stops, beam.length)
            if expected:
                hits += 1
                break
    assert hits > 100
