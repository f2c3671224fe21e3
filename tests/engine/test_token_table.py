"""The text that a table makes of tokens is SentencePiece's and vLLM's, wherever an answer is cut."""

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from settings import DEMO_MODEL
from tests.support.paths import ALPACA_2_TOKENIZER

pytestmark = pytest.mark.engine
SEQUENCES = 4000
FIRST_BYTE, FIRST_PIECE = 3, 259
"""In every vocabulary of the LLaMA family: ids of the byte 0, and of the first token that is a text."""
QUESTION = "[INST] 你好 [/INST]"
SCRIPTS = ((0x20, 0x7F), (0xA0, 0x500), (0x4E00, 0x9FFF), (0x1F300, 0x1F700))


class Tokenizer:
    """vLLM's tokenizer of a folder, SentencePiece's, and the table of the first."""

    def __init__(self, folder: Path) -> None:
        import sentencepiece
        from vllm.tokenizers.registry import get_tokenizer

        from engine.token_table import to_token_table

        if not folder.is_dir():
            pytest.skip(f"{folder} is not here")
        self.vllms = get_tokenizer(str(folder))
        self.model = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
        self.size = self.model.get_piece_size()
        table = to_token_table(self.vllms, self.size + 8)
        assert table is not None
        self.table = table
        self.prompt = [1, *self.model.encode(QUESTION)]

    def of_vllm(self, ids: list[int]) -> list[str] | None:
        """What vLLM's detokenizer adds for each token after the prompt; None: it has lost a part of the text."""
        import tokenizers
        from vllm.sampling_params import SamplingParams
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

        request = EngineCoreRequest(
            request_id="r", prompt_token_ids=self.prompt, mm_features=None, sampling_params=SamplingParams(),
            pooling_params=None, arrival_time=0.0, lora_request=None, cache_salt=None, data_parallel_rank=None,
        )  # fmt: skip
        detokenizer = FastIncrementalDetokenizer(self.vllms, request)
        first: tokenizers.decoders.DecodeStream = detokenizer.stream
        pieces = [detokenizer.decode_next(token_id) for token_id in ids]
        return pieces if detokenizer.stream is first else None

    def of_table(self, ids: list[int]) -> list[str]:
        from engine.token_table import TableText

        text = TableText(self.table)
        return [text.add([token_id]) for token_id in ids]

    def of_sentencepiece(self, ids: list[int]) -> str:
        """The text of an answer after the prompt."""
        whole, before = (self.model.decode(some) for some in (self.prompt + ids, self.prompt))
        assert whole.startswith(before)
        return str(whole.removeprefix(before))


@pytest.fixture(
    scope="module",
    params=[DEMO_MODEL, ALPACA_2_TOKENIZER.parent],
    ids=["demo model", "Chinese-Alpaca-2"],
)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(request.param)


def sequences(size: int, has_broken_bytes: bool) -> Iterator[list[int]]:
    """Random answers: tokens of the whole vocabulary, and characters that are spelt by their bytes."""
    chance = random.Random(20)
    for _ in range(SEQUENCES):
        ids: list[int] = []
        for _ in range(chance.randrange(1, 24)):
            if chance.random() < 0.5:
                ids.append(chance.randrange(FIRST_PIECE, size))
            elif has_broken_bytes:
                ids.append(FIRST_BYTE + chance.randrange(256))
            else:
                character = chr(chance.randrange(*chance.choice(SCRIPTS)))
                ids += [FIRST_BYTE + byte for byte in character.encode()]
        yield ids


def test_each_token_adds_what_it_adds_in_vllm_and_in_sentencepiece(tokenizer: Tokenizer) -> None:
    special = {*tokenizer.vllms.all_special_ids}
    for ids in sequences(tokenizer.size, has_broken_bytes=False):
        pieces = tokenizer.of_table(ids)
        assert pieces == tokenizer.of_vllm(ids)
        spoken = [token_id for token_id in ids if token_id not in special]
        held = tokenizer.of_sentencepiece(spoken).removeprefix("".join(pieces))
        assert set(held) <= {"\ufffd"}
        assert not held or tokenizer.table.texts[spoken[-1]] is None


def test_bytes_that_are_no_characters_are_what_sentencepiece_makes_of_them(
    tokenizer: Tokenizer,
) -> None:
    special = {*tokenizer.vllms.all_special_ids}
    differ = 0
    for sequence in sequences(tokenizer.size, has_broken_bytes=True):
        ids = [*(token_id for token_id in sequence if token_id not in special), FIRST_PIECE]
        pieces = tokenizer.of_table(ids)
        assert "".join(pieces) == tokenizer.of_sentencepiece(ids)
        differ += pieces != tokenizer.of_vllm(ids)
    assert differ, "vLLM's makes more of them: see the module's docstring"


def test_tokens_that_come_together_add_what_they_add_one_by_one(tokenizer: Tokenizer) -> None:
    from engine.token_table import TableText

    chance = random.Random(2)
    for ids in sequences(tokenizer.size, has_broken_bytes=True):
        text, at, pieces = TableText(tokenizer.table), 0, []
        while at < len(ids):
            count = chance.randrange(1, 5)
            pieces.append(text.add(ids[at : at + count]))
            at += count
        assert "".join(pieces) == "".join(tokenizer.of_table(ids))


def test_special_tokens_and_ids_without_a_token_add_nothing(tokenizer: Tokenizer) -> None:
    special = [*tokenizer.vllms.all_special_ids]
    nothing = [*special, *range(tokenizer.size, tokenizer.size + 8)]
    character = [FIRST_BYTE + byte for byte in "你".encode()]
    between = [part for byte in character for part in (byte, *nothing)]
    assert "".join(tokenizer.of_table([*nothing, *between, *nothing])) == "你"


@pytest.mark.parametrize(
    ("prompt", "fields", "fits"),
    [
        ([1, FIRST_PIECE], {}, True),
        ([1], {}, False),
        ([], {}, False),
        ([FIRST_PIECE, 2], {}, False),
        ([FIRST_PIECE, FIRST_BYTE + 0xE4], {}, False),
        ([1, FIRST_PIECE], {"skip_special_tokens": False}, False),
        ([1, FIRST_PIECE], {"detokenize": False}, False),
    ],
)
def test_a_table_fits_where_an_answer_follows_a_text(
    tokenizer: Tokenizer, prompt: list[int], fields: dict[str, Any], fits: bool
) -> None:
    params: Any = SimpleNamespace(**{"skip_special_tokens": True, "detokenize": True, **fields})
    assert tokenizer.table.fits(prompt, params) is fits


def test_other_tokenizers_have_no_table() -> None:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    from engine.token_table import to_token_table

    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    assert to_token_table(PreTrainedTokenizerFast(tokenizer_object=backend), 1) is None
    backend.decoder = tokenizers.decoders.ByteLevel()
    assert to_token_table(PreTrainedTokenizerFast(tokenizer_object=backend), 1) is None
    assert to_token_table(object(), 1) is None
