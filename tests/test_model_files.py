"""What a model's files say, and starts that end because of them."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ALPACA_2_TOKENIZER, ROOT
from sentencepiece import sentencepiece_model_pb2

from engine.grammar import GrammarCompiler
from model_files import check_model_files, trained_length
from prompt_template import load_prompt_template
from prompts.encoder import Encoder, load_encoder
from settings import DEMO_MODEL, Settings, StartError

LINEAR = {"type": "linear", "factor": 4.0}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model, weights and all."""
    copy = tmp_path / "chinese-alpaca-2"
    copy.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.model",
                 "tokenizer_config.json", "special_tokens_map.json"):  # fmt: skip
        shutil.copy(DEMO_MODEL / name, copy)
    return copy


def change(file: Path, **changes: Any) -> None:
    """Other values in a JSON file, `...` for none."""
    found = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(
        json.dumps({key: value for key, value in found.items() if value is not ...}),
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("length", "scaling", "trained"),
    [
        (16384, LINEAR, 16384),  # Chinese-LLaMA-2-16K, Chinese-Alpaca-2-16K
        (16384, {"rope_type": "linear", "factor": 4}, 16384),
        (8192, {"type": "linear", "factor": 4.0}, 8192),  # of LLaMA
        (32768, {"type": "linear", "factor": 8.0}, 32768),  # LLaMA-2-7B-32K
        (65536, {"type": "linear", "factor": 8.0}, 65536),  # of LLaMA-3
        (16384, {**LINEAR, "original_max_position_embeddings": 4096}, 16384),
        (12288, {"type": "linear", "factor": 2.0, "original_max_position_embeddings": 6144}, 12288),
        (4096, LINEAR, None),  # vicuna-7b-v1.5-16k: vLLM counts 16384
        (2048, LINEAR, None),  # superhot-8k: vLLM counts 8192
        (4096, {**LINEAR, "original_max_position_embeddings": 4096}, None),
        (12288, {"type": "linear", "factor": 2.0}, None),
        (16384, {"type": "linear", "factor": 1.0}, None),
        (16384, {"type": "linear", "factor": None}, None),
        (16384, {"type": "linear"}, None),
        (16384, {"type": "dynamic", "factor": 4.0}, None),
        (
            131072,
            {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            None,
        ),
        (
            65536,
            {
                "factor": 16.0,
                "finetuned": True,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
            None,
        ),
        (2048, {"rope_theta": 10000.0, "rope_type": "default"}, None),
        (4096, None, None),
        (None, LINEAR, None),
    ],
)
def test_a_linear_scaling_is_counted_once(length, scaling, trained):
    for key in ("rope_scaling", "rope_parameters"):
        assert trained_length({"max_position_embeddings": length, key: scaling}) == trained
    assert (
        trained_length(
            {"max_position_embeddings": length, "rope_scaling": None, "rope_parameters": scaling}
        )
        == trained
    )


@pytest.mark.engine
@pytest.mark.parametrize(
    ("others", "length"),
    [
        ([], 16384),
        (["--max-model-len", "65536"], 65536),
        (["--max-model-len=512"], 512),
        (["--hf-overrides", '{"rope_scaling": null, "rope_parameters": null}'], None),
        (["--hf-overrides", '{"max_position_embeddings": 4096}'], None),
    ],
)
def test_vllm_is_told_the_trained_length_unless_the_user_says_more(model, capsys, others, length):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from engine.arguments import to_engine_args

    change(
        model / "config.json",
        max_position_embeddings=16384,
        rope_scaling=LINEAR,
        rope_parameters=...,
    )
    assert to_engine_args(Settings(model=str(model)), others).max_model_len == length
    shown = capsys.readouterr().err
    assert shown.count("Context of 16384 tokens") == (not others)
    assert not others or shown == ""


def encoder_of(model: Path, mode: str = "auto") -> Encoder:
    return load_encoder(Settings(model=str(model), tokenizer_mode=mode))


@pytest.fixture
def converted(model: Path) -> Path:
    """The model with transformers' converted tokenizer beside SentencePiece's."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(model).save_pretrained(model.parent / "converted")
    shutil.copy(model.parent / "converted" / "tokenizer.json", model)
    return model


LABELS = ["LLaMATokenizer", "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "PreTrainedTokenizerFast",
          "TokenizersBackend", "GPT2Tokenizer", None, ...]  # fmt: skip


@pytest.mark.parametrize("label", LABELS, ids=str)
def test_sentencepiece_encodes_for_llama_whatever_its_tokenizer_is_called(
    converted, demo_encoder, label
):
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
    converted, model_type, label, is_sentencepiece
):
    change(converted / "config.json", model_type=model_type)
    change(converted / "tokenizer_config.json", tokenizer_class=label)
    assert encoder_of(converted).description.startswith(
        "SentencePiece" if is_sentencepiece else "transformers' "
    )


TIKTOKEN = b"IQ== 0\nIg== 1\nIw== 2\n" * 1000


@pytest.mark.parametrize("content", [TIKTOKEN, b"<html>", b"\x80\x04"])
def test_a_tokenizer_model_of_another_kind_leaves_encoding_to_transformers(converted, content):
    (converted / "tokenizer.model").write_bytes(content)
    assert encoder_of(converted).description.startswith("transformers' ")
    with pytest.raises(StartError, match="SentencePiece"):
        encoder_of(converted, "slow")
    (converted / "tokenizer.json").unlink()
    with pytest.raises(StartError, match="SentencePiece"):
        encoder_of(converted)


@pytest.mark.parametrize("part", [0.001, 0.3, 0.5, 0.9, 0.97])
def test_a_sentencepiece_model_that_is_cut_is_not_passed_over(converted, part):
    whole = (converted / "tokenizer.model").read_bytes()
    (converted / "tokenizer.model").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(StartError, match=r"tokenizer\.model is not a"):
        encoder_of(converted)


def test_a_sentencepiece_model_that_is_cut_between_two_pieces_is_not_whole(model):
    proto = sentencepiece_model_pb2.ModelProto.FromString((model / "tokenizer.model").read_bytes())
    proto.ClearField("trainer_spec")
    proto.ClearField("normalizer_spec")
    (model / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(StartError, match="not a whole SentencePiece model"):
        encoder_of(model)


@pytest.mark.parametrize("mode", ["auto", "slow"])
@pytest.mark.parametrize("added", [None, {}, ...], ids=str)
def test_no_added_tokens_are_none(model, demo_encoder, added, mode):
    change(model / "tokenizer_config.json", added_tokens_decoder=added)
    assert encoder_of(model, mode).control_ids == demo_encoder.control_ids


@pytest.mark.parametrize("added", [[], "x", 5, {"a": {"content": "<pad>", "special": True}}, {"5": {"special": True}},
                                   {"5": None}, ["<pad>"]], ids=str)  # fmt: skip
def test_added_tokens_that_are_none_end_the_start(model, added):
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
def test_a_tokenizer_with_more_pieces_than_the_model_has_rows_ends_the_start(model, mode, where):
    change(model / "config.json", **where)
    with pytest.raises(
        StartError, match=r"The tokenizer has 4,600 pieces, and the model 4,5\d\d rows"
    ):
        load_prompt_template(Settings(model=str(model), tokenizer_mode=mode))


def test_a_merged_tokenizer_on_a_model_that_is_not_ends_the_start(model):
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
def test_control_tokens_beyond_the_models_rows_hurt_nobody(model, mode, rows):
    pad(model)
    change(model / "config.json", vocab_size=rows)
    template = load_prompt_template(Settings(model=str(model), tokenizer_mode=mode))
    assert max(template.render_raw("<pad0><pad9>你好").ids) < 4600


def test_added_text_beyond_the_models_rows_ends_the_start_where_it_is_encoded(model):
    pad(model, special=False)
    with pytest.raises(StartError, match="4,610 pieces"):
        load_prompt_template(Settings(model=str(model), tokenizer_mode="hf"))
    load_prompt_template(
        Settings(model=str(model))
    )  # SentencePiece has the file's own pieces alone


@pytest.mark.parametrize("mode", ["auto", "hf"])
def test_a_template_with_a_token_beyond_the_models_rows_ends_the_start(model, mode):
    pad(model)
    (model / "own.jinja").write_text("{{ messages[0].content }}<pad3>", encoding="utf-8")
    with pytest.raises(StartError, match="has <pad3>, for which the model has no row"):
        load_prompt_template(
            Settings(
                model=str(model), tokenizer_mode=mode, prompt_template=str(model / "own.jinja")
            )
        )


@pytest.mark.parametrize("count", [0, 1, 40])
def test_grammars_are_read_with_control_tokens_beyond_the_models_rows(model, count):
    from transformers import AutoTokenizer

    pad(model, count)
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert len(tokenizer) == 4600 + count
    checker = GrammarCompiler(tokenizer, 4600).compile('start: "北京"', "", "structured_outputs")
    checker.check([*encoder_of(model).encode(["北京"])[1:], 2], has_ended=True)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 9179648\n"
JSON = ["config.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json",
        "added_tokens.json", "model.safetensors.index.json", "pytorch_model.bin.index.json"]  # fmt: skip
BROKEN = [b"", b" ", b"{", b'{"a": 1,}', b"[]", b"null", b'"text"', b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00",
          b"[" * 100_000, POINTER, b"<html>404</html>"]  # fmt: skip


def refused(model: Path, tokenizer: Path | None = None) -> str:
    """The sentence that ends a start with these files."""
    with pytest.raises(StartError) as caught:
        check_model_files(Settings(model=str(model), tokenizer=str(tokenizer or "")))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def write_weights(file: Path, shapes: dict[str, list[int]]) -> None:
    """Weights of two bytes, all zero."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        header[name] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [end, end := end + 2 * math.prod(shape)],
        }
    head = json.dumps(header).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + bytes(end))


def write_shards(
    model: Path, count: int = 3, *, index: bool = True, kind: str = "safetensors"
) -> list[Path]:
    """In place of the model's weights."""
    (model / "model.safetensors").unlink()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    shards = [model / f"{stem}-{number:05}-of-{count:05}.{kind}" for number in range(1, count + 1)]
    for number, shard in enumerate(shards):
        write_weights(shard, {"model.embed_tokens.weight": [4600, 2], f"layer{number}": [2, 2]})
    if index:
        names = {f"layer{number}": shard.name for number, shard in enumerate(shards)}
        (model / f"{stem}.{kind}.index.json").write_text(
            json.dumps({"weight_map": names}), encoding="utf-8"
        )
    return shards


def test_a_whole_model_is_not_refused(model, converted):
    check_model_files(Settings())
    check_model_files(Settings(model=str(model)))
    (model / "training_args.bin").write_bytes(b"")
    write_shards(model)
    (model / "model.safetensors").write_bytes(b"of another time, which the index does not name")
    check_model_files(Settings(model=str(model)))


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: repr(content[:20]))
@pytest.mark.parametrize("name", JSON)
def test_json_that_is_none_is_named(model, name, content):
    (model / name).write_bytes(content)
    sentence = refused(model)
    assert name in sentence
    assert ("git-lfs" in sentence) == (content == POINTER)
    assert ("byte order mark" in sentence) == content.startswith(b"\xef")
    assert ("empty" in sentence) == (content == b"")


def test_a_tokenizers_own_directory_is_read_too(model, tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    shutil.copy(model / "tokenizer.model", tokenizer)
    check_model_files(Settings(model=str(model), tokenizer=str(tokenizer)))
    (model / "tokenizer.model").write_bytes(POINTER)  # which nobody reads
    check_model_files(Settings(model=str(model), tokenizer=str(tokenizer)))
    (tokenizer / "tokenizer_config.json").write_bytes(b"{")
    assert "tokenizer/tokenizer_config.json" in refused(model, tokenizer)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(POINTER, "tokenizer.model is a git-lfs pointer"), (b"", "tokenizer.model is empty")],
)
def test_a_tokenizer_that_is_not_there_is_named(converted, content, reason):
    (converted / "tokenizer.model").write_bytes(content)
    assert reason in refused(converted)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (POINTER, "is a git-lfs pointer"),
        (b"", "is empty"),
        (b"\x10", "is cut off, or not"),
        (b"<html>not found</html>", "is cut off, or not"),
        (b"\x02\0\0\0\0\0\0\0[]", "is cut off, or not"),
        (b'\x09\0\0\0\0\0\0\0{"a": {}}', "is cut off, or not"),
    ],
)
def test_weights_that_are_none_are_named(model, content, reason):
    (model / "model.safetensors").write_bytes(content)
    assert f"model.safetensors {reason}" in refused(model)


@pytest.mark.parametrize("size", [4, 8, 9, 500, 5000, 9_179_647])
def test_weights_that_are_cut_are_named(model, size):
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:size])
    assert "model.safetensors is cut off" in refused(model)


def test_weights_with_more_behind_them_are_named(model):
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert "is damaged: it has 9,179,649 bytes, and not 9,179,648" in refused(model)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("lost", [[0], [2], [0, 1], [0, 1, 2]], ids=str)
def test_shards_that_are_missing_are_named(model, kind, index, lost):
    shards = write_shards(model, index=index, kind=kind)
    for number in lost:
        shards[number].unlink()
    sentence = refused(model)
    if len(lost) == 3 and not index:
        assert "has no weights" in sentence
    else:
        assert f"lacks {shards[lost[0]].name}, one of 3 files" in sentence


@pytest.mark.parametrize("content", [POINTER, b"", b"PK\x03\x04 and no end"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_shard_that_is_not_whole_is_named(model, kind, content):
    shard = write_shards(model, kind=kind)[1]
    shard.write_bytes(content)
    assert f"{shard.name} is" in refused(model)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": None}}], ids=str)
def test_an_index_without_files_is_named(model, index):
    write_shards(model)
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "index.json has no weight_map" in refused(model)


def test_a_link_to_nowhere_is_named(model):
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to("/no/such/blob")
    assert "model.safetensors cannot be read" in refused(model)


def test_no_weights_at_all(model):
    (model / "model.safetensors").unlink()
    for name in ("training_args.bin", "optimizer.pt"):
        (model / name).write_bytes(b"PK")
    assert "has no weights" in refused(model)
    check_model_files(Settings(model=str(model)), has_weights=False)


@pytest.mark.parametrize("beside", [["config.json", "tokenizer.model"], ["params.json", "tokenizer.model"],
                                    ["params.json"], []], ids=str)  # fmt: skip
def test_weights_of_llamas_own_format_are_to_be_converted(tmp_path, beside):
    (tmp_path / "consolidated.00.pth").write_bytes(b"PK")
    for name in beside:
        (tmp_path / name).write_text("{}")
    assert "convert" in refused(tmp_path)


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("has_config", [True, False])
def test_an_adapter_is_to_be_merged(model, weights, has_config):
    (model / "model.safetensors").rename(model / weights)
    (model / "adapter_config.json").write_text("{}")
    if not has_config:
        (model / "config.json").unlink()
    assert "is an adapter (LoRA), not a model: merge it" in refused(model)


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({"vocab_size": 32000}, True),
        ({"vocab_size": 4599}, True),
        ({"vocab_size": 32000, "model_type": "mistral"}, True),
        ({"vocab_size": 32000, "model_type": "of-its-own"}, False),
        ({"vocab_size": ...}, False),
    ],
)
def test_weights_of_another_vocabulary_are_refused(model, changes, is_refused):
    change(model / "config.json", **changes)
    if is_refused:
        assert (
            "model.embed_tokens.weight of the weights has 4,600 rows, and config.json says"
            in refused(model)
        )
    else:
        check_model_files(Settings(model=str(model)))


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_head_has_a_row_for_each_token_too_unless_it_is_not_used(model, is_tied):
    change(model / "config.json", tie_word_embeddings=is_tied)
    shapes = {"model.embed_tokens.weight": [4600, 2], "lm_head.weight": [4601, 2]}
    write_weights(model / "model.safetensors", shapes)
    if is_tied:
        check_model_files(Settings(model=str(model)))
    else:
        assert "lm_head.weight of the weights has 4,601 rows" in refused(model)


def started(*arguments: str, **environment: str) -> str:
    """What a start that ends before vLLM is imported shows; it is one line, and the status is 1."""
    command = [sys.executable, "openai_api_server_vllm.py", "--port", "0", *arguments]
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=variables
    )  # fmt: skip
    assert process.returncode == 1
    (line,) = process.stderr.strip().splitlines()
    return line


def test_a_start_with_such_files_ends_with_one_line(model):
    (model / "model.safetensors").write_bytes(POINTER)
    assert started("--model", str(model)).startswith(
        f"error: {model}/model.safetensors is a git-lfs pointer"
    )
    # Weights of a kind that is named by --load-format are vLLM's affair; what is told next is another fault.
    arguments = ("--model", str(model), "--load_format=dummy", "--prompt-template", "none")
    assert started(*arguments).startswith("error: There is no prompt template none")


def test_a_model_of_the_hub_is_read_from_its_cache(model, tmp_path):
    cached = tmp_path / "hub" / "models--org--chinese-alpaca-2"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots").mkdir()
    change(model / "config.json", vocab_size=4000)
    model.rename(cached / "snapshots" / "abc")
    line = started("--model", "org/chinese-alpaca-2", HF_HOME=str(tmp_path))
    assert line.startswith("error: The tokenizer has 4,600 pieces, and the model 4,000 rows")
