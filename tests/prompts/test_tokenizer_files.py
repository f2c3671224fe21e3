"""What encodes for a model, by its files; tokenizers that are broken or do not fit it."""

import json
from pathlib import Path
from types import EllipsisType
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2

from engine.grammar import GrammarCompiler
from prompts.encoder import Encoder, SentencePieceEncoder, load_encoder
from settings import Settings, StartError
from template_choice import load_prompt_template
from tests.support.model_directory import change, convert_tokenizer, copy_of_demo_model
from tests.support.paths import ALPACA_2_TOKENIZER


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return copy_of_demo_model(tmp_path / "chinese-alpaca-2")


def encoder_of(model: Path, mode: str = "auto") -> Encoder:
    return load_encoder(Settings(model=str(model), tokenizer_mode=mode))


@pytest.fixture
def converted(model: Path) -> Path:
    return convert_tokenizer(model)


LABELS = ["LLaMATokenizer", "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "PreTrainedTokenizerFast",
          "TokenizersBackend", "GPT2Tokenizer", None, ...]  # fmt: skip


@pytest.mark.parametrize("label", LABELS, ids=str)
def test_sentencepiece_encodes_for_llama_whatever_its_tokenizer_is_called(
    converted: Path, demo_encoder: SentencePieceEncoder, label: str | EllipsisType | None
) -> None:
    change(converted / "tokenizer_config.json", tokenizer_class=label)
    encoder = encoder_of(converted)
    assert encoder.description == "SentencePiece on tokenizer.model"
    assert encoder.encode(["杭州  西湖"]) == demo_encoder.encode(["杭州  西湖"])


@pytest.mark.parametrize(
    ("model_type", "label", "is_sentencepiece"),
    [
        ("mistral", "LlamaTokenizer", True),
        ("mixtral", "LlamaTokenizerFast", True),
        ("internlm", ..., True),
        ("mistral", "PreTrainedTokenizerFast", False),
        ("qwen2", "TokenizersBackend", False),
    ],
)
def test_other_models_are_encoded_as_their_label_says(
    converted: Path, model_type: str, label: str | EllipsisType, is_sentencepiece: bool
) -> None:
    change(converted / "config.json", model_type=model_type)
    change(converted / "tokenizer_config.json", tokenizer_class=label)
    assert encoder_of(converted).description.startswith(
        "SentencePiece" if is_sentencepiece else "transformers' "
    )


TIKTOKEN = b"IQ== 0\nIg== 1\nIw== 2\n" * 1000


@pytest.mark.parametrize("content", [TIKTOKEN, b"<html>", b"\x80\x04"])
def test_a_tokenizer_model_of_another_kind_leaves_encoding_to_transformers(
    converted: Path, content: bytes
) -> None:
    (converted / "tokenizer.model").write_bytes(content)
    assert encoder_of(converted).description.startswith("transformers' ")
    with pytest.raises(StartError, match="SentencePiece"):
        encoder_of(converted, "slow")
    (converted / "tokenizer.json").unlink()
    with pytest.raises(StartError, match="SentencePiece"):
        encoder_of(converted)


@pytest.mark.parametrize("part", [0.001, 0.3, 0.5, 0.9, 0.97])
def test_a_sentencepiece_model_that_is_cut_is_not_passed_over(converted: Path, part: float) -> None:
    whole = (converted / "tokenizer.model").read_bytes()
    (converted / "tokenizer.model").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(StartError, match=r"tokenizer\.model is not a"):
        encoder_of(converted)


def test_a_sentencepiece_model_that_is_cut_between_two_pieces_is_not_whole(model: Path) -> None:
    proto = sentencepiece_model_pb2.ModelProto.FromString((model / "tokenizer.model").read_bytes())
    proto.ClearField("trainer_spec")
    proto.ClearField("normalizer_spec")
    (model / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(StartError, match="not a whole SentencePiece model"):
        encoder_of(model)


@pytest.mark.parametrize("mode", ["auto", "slow"])
@pytest.mark.parametrize("added", [None, {}, ...], ids=str)
def test_no_added_tokens_are_none(
    model: Path,
    demo_encoder: SentencePieceEncoder,
    added: dict[str, Any] | EllipsisType | None,
    mode: str,
) -> None:
    change(model / "tokenizer_config.json", added_tokens_decoder=added)
    assert encoder_of(model, mode).control_ids == demo_encoder.control_ids


@pytest.mark.parametrize("added", [[], "x", 5, {"a": {"content": "<pad>", "special": True}}, {"5": {"special": True}},
                                   {"5": None}, ["<pad>"]], ids=str)  # fmt: skip
def test_added_tokens_that_are_none_end_the_start(
    model: Path, added: dict[str, Any] | int | list[str] | str
) -> None:
    change(model / "tokenizer_config.json", added_tokens_decoder=added)
    if added:
        with pytest.raises(StartError, match="added_tokens_decoder"):
            encoder_of(model)
    else:
        encoder_of(model)


def pad(model: Path, count: int = 10, special: bool = True) -> None:
    """Add tokens to the tokenizer, beyond the model's rows."""
    rows = json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    begun = {"0": "<unk>", "1": "<s>", "2": "</s>"}
    added = {**begun, **{str(rows + number): f"<pad{number}>" for number in range(count)}}
    tokens = {
        at: {"content": text, "special": special or at in begun} for at, text in added.items()
    }
    change(model / "tokenizer_config.json", added_tokens_decoder=tokens)


@pytest.mark.parametrize("mode", ["auto", "slow", "hf"])
@pytest.mark.parametrize(
    "where", [{"vocab_size": 4599}, {"vocab_size": ..., "text_config": {"vocab_size": 4500}}]
)
def test_a_tokenizer_with_more_pieces_than_the_model_has_rows_ends_the_start(
    model: Path, mode: str, where: dict[str, Any]
) -> None:
    change(model / "config.json", **where)
    with pytest.raises(
        StartError, match=r"The tokenizer has 4,600 pieces, and the model 4,5\d\d rows"
    ):
        load_prompt_template(Settings(model=str(model), tokenizer_mode=mode))


def test_a_merged_tokenizer_on_a_model_that_is_not_ends_the_start(model: Path) -> None:
    if not ALPACA_2_TOKENIZER.is_file():
        pytest.skip("the tokenizer of Chinese-Alpaca-2 is not beside the repository")
    change(model / "config.json", vocab_size=32000)
    settings = Settings(model=str(model), tokenizer=str(ALPACA_2_TOKENIZER.parent))
    with pytest.raises(
        StartError, match=r"55,296 pieces, and the model 32,000 rows \(vocab_size in config.json\)"
    ):
        load_prompt_template(settings)
    change(model / "config.json", vocab_size=55296)
    load_prompt_template(settings)


@pytest.mark.parametrize("mode", ["auto", "hf"])
@pytest.mark.parametrize("rows", [4600, 4601, ...])
def test_control_tokens_beyond_the_models_rows_hurt_nobody(
    model: Path, mode: str, rows: int | EllipsisType
) -> None:
    pad(model)
    change(model / "config.json", vocab_size=rows)
    template = load_prompt_template(Settings(model=str(model), tokenizer_mode=mode))
    assert max(template.render_raw("<pad0><pad9>你好").ids) < 4600


def test_added_text_beyond_the_models_rows_ends_the_start_where_it_is_encoded(model: Path) -> None:
    pad(model, special=False)
    with pytest.raises(StartError, match="4,610 pieces"):
        load_prompt_template(Settings(model=str(model), tokenizer_mode="hf"))
    load_prompt_template(
        Settings(model=str(model))
    )  # SentencePiece has the file's own pieces alone


@pytest.mark.parametrize("mode", ["auto", "hf"])
def test_a_template_with_a_token_beyond_the_models_rows_ends_the_start(
    model: Path, mode: str
) -> None:
    pad(model)
    (model / "own.jinja").write_text("{{ messages[0].content }}<pad3>", encoding="utf-8")
    with pytest.raises(StartError, match="has <pad3>, for which the model has no row"):
        load_prompt_template(
            Settings(
                model=str(model), tokenizer_mode=mode, prompt_template=str(model / "own.jinja")
            )
        )


@pytest.mark.parametrize("count", [0, 1, 40])
def test_grammars_are_read_with_control_tokens_beyond_the_models_rows(
    model: Path, count: int
) -> None:
    from transformers import AutoTokenizer

    pad(model, count)
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert len(tokenizer) == 4600 + count
    checker = GrammarCompiler(tokenizer, 4600).compile('start: "北京"', "", "structured_outputs")
    checker.check([*encoder_of(model).encode(["北京"])[1:], 2], has_ended=True)
