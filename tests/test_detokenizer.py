"""vLLM's detokenizer on the demo model's tokenizer: no delta ever carries half a character."""

import pytest
from strings import varied_strings

from encoder import SentencePieceEncoder
from settings import DEMO_MODEL

pytestmark = pytest.mark.engine
# SentencePiece's own sign for a space is a space to it.
RARE = [text for text in varied_strings(1500) if not text.isascii() and "▁" not in text][:400]


@pytest.fixture(scope="module")
def deltas(demo_encoder: SentencePieceEncoder):
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


def test_rare_characters_and_emoji_arrive_whole_at_every_length(deltas, demo_encoder):
    for text in RARE:
        ids = demo_encoder.encode([text])
        for limit in range(1, min(40, len(ids)) + 1):
            joined = "".join(deltas(ids[:limit]))
            assert "\ufffd" not in joined
            assert text.startswith(joined.removeprefix(" "))
        if len(ids) <= 40:
            assert joined == f" {text}"
