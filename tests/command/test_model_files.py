"""What a model's files say, and starts that end because of them."""

import json
import math
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from model_files import check_model_files, trained_length
from settings import Settings, StartError
from tests.support.model_directory import change, convert_tokenizer, copy_of_demo_model
from tests.support.server_process import run_command

LINEAR = {"type": "linear", "factor": 4.0}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return copy_of_demo_model(tmp_path / "chinese-alpaca-2")


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
def test_a_linear_scaling_is_counted_once(
    length: int | None, scaling: dict[str, Any] | None, trained: int | None
) -> None:
    for key in ("rope_scaling", "rope_parameters"):
        assert trained_length({"max_position_embeddings": length, key: scaling}) == trained
    assert (
        trained_length(
            {"max_position_embeddings": length, "rope_scaling": None, "rope_parameters": scaling}
        )
        == trained
    )


@pytest.fixture
def converted(model: Path) -> Path:
    return convert_tokenizer(model)


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
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    end = 0
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


def test_a_whole_model_is_not_refused(model: Path, converted: Path) -> None:
    check_model_files(Settings())
    check_model_files(Settings(model=str(model)))
    (model / "training_args.bin").write_bytes(b"")
    write_shards(model)
    (model / "model.safetensors").write_bytes(b"of another time, which the index does not name")
    check_model_files(Settings(model=str(model)))


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: repr(content[:20]))
@pytest.mark.parametrize("name", JSON)
def test_json_that_is_none_is_named(model: Path, name: str, content: bytes) -> None:
    (model / name).write_bytes(content)
    sentence = refused(model)
    assert name in sentence
    assert ("git-lfs" in sentence) == (content == POINTER)
    assert ("byte order mark" in sentence) == content.startswith(b"\xef")
    assert ("empty" in sentence) == (content == b"")


def test_a_tokenizers_own_directory_is_read_too(model: Path, tmp_path: Path) -> None:
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
def test_a_tokenizer_that_is_not_there_is_named(
    converted: Path, content: bytes, reason: str
) -> None:
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
def test_weights_that_are_none_are_named(model: Path, content: bytes, reason: str) -> None:
    (model / "model.safetensors").write_bytes(content)
    assert f"model.safetensors {reason}" in refused(model)


@pytest.mark.parametrize("size", [4, 8, 9, 500, 5000, 9_179_647])
def test_weights_that_are_cut_are_named(model: Path, size: int) -> None:
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:size])
    assert "model.safetensors is cut off" in refused(model)


def test_weights_with_more_behind_them_are_named(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert "is damaged: it has 9,179,649 bytes, and not 9,179,648" in refused(model)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("lost", [[0], [2], [0, 1], [0, 1, 2]], ids=str)
def test_shards_that_are_missing_are_named(
    model: Path, kind: str, index: bool, lost: list[int]
) -> None:
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
def test_a_shard_that_is_not_whole_is_named(model: Path, kind: str, content: bytes) -> None:
    shard = write_shards(model, kind=kind)[1]
    shard.write_bytes(content)
    assert f"{shard.name} is" in refused(model)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": None}}], ids=str)
def test_an_index_without_files_is_named(model: Path, index: dict[str, Any]) -> None:
    write_shards(model)
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "index.json has no weight_map" in refused(model)


def test_a_link_to_nowhere_is_named(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to("/no/such/blob")
    assert "model.safetensors cannot be read" in refused(model)


def test_no_weights_at_all(model: Path) -> None:
    (model / "model.safetensors").unlink()
    for name in ("training_args.bin", "optimizer.pt"):
        (model / name).write_bytes(b"PK")
    assert "has no weights" in refused(model)
    check_model_files(Settings(model=str(model)), has_weights=False)


@pytest.mark.parametrize("beside", [["config.json", "tokenizer.model"], ["params.json", "tokenizer.model"],
                                    ["params.json"], []], ids=str)  # fmt: skip
def test_weights_of_llamas_own_format_are_to_be_converted(
    tmp_path: Path, beside: list[str]
) -> None:
    (tmp_path / "consolidated.00.pth").write_bytes(b"PK")
    for name in beside:
        (tmp_path / name).write_text("{}")
    assert "convert" in refused(tmp_path)


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("has_config", [True, False])
def test_an_adapter_is_to_be_merged(model: Path, weights: str, has_config: bool) -> None:
    (model / "model.safetensors").rename(model / weights)
    (model / "adapter_config.json").write_text("{}")
    if not has_config:
        (model / "config.json").unlink()
    assert "is an adapter (LoRA), not a model: serve it beside its base model" in refused(model)


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
def test_weights_of_another_vocabulary_are_refused(
    model: Path, changes: dict[str, Any], is_refused: bool
) -> None:
    change(model / "config.json", **changes)
    if is_refused:
        assert (
            "model.embed_tokens.weight of the weights has 4,600 rows, and config.json says"
            in refused(model)
        )
    else:
        check_model_files(Settings(model=str(model)))


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_head_has_a_row_for_each_token_too_unless_it_is_not_used(
    model: Path, is_tied: bool
) -> None:
    change(model / "config.json", tie_word_embeddings=is_tied)
    shapes = {"model.embed_tokens.weight": [4600, 2], "lm_head.weight": [4601, 2]}
    write_weights(model / "model.safetensors", shapes)
    if is_tied:
        check_model_files(Settings(model=str(model)))
    else:
        assert "lm_head.weight of the weights has 4,601 rows" in refused(model)


def started(*arguments: str, **environment: str) -> str:
    """What a start that ends before vLLM is imported shows; it is one line, and the status is 1."""
    process = run_command("--port", "0", *arguments, **environment)
    assert process.returncode == 1
    (line,) = process.stderr.strip().splitlines()
    return line


def test_a_start_with_such_files_ends_with_one_line(model: Path) -> None:
    (model / "model.safetensors").write_bytes(POINTER)
    assert started("--model", str(model)).startswith(
        f"error: {model}/model.safetensors is a git-lfs pointer"
    )
    # Weights of a kind that is named by --load-format are vLLM's affair; what is told next is another fault.
    arguments = ("--model", str(model), "--load_format=dummy", "--prompt-template", "none")
    assert started(*arguments).startswith("error: There is no prompt template none")


def test_a_model_of_the_hub_is_read_from_its_cache(model: Path, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--org--chinese-alpaca-2"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots").mkdir()
    change(model / "config.json", vocab_size=4000)
    model.rename(cached / "snapshots" / "abc")
    line = started("--model", "org/chinese-alpaca-2", HF_HOME=str(tmp_path))
    assert line.startswith("error: The tokenizer has 4,600 pieces, and the model 4,000 rows")


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """The URL of a hub that has no model, and the paths that it is asked for."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("modelscope", ["", "True"])
def test_a_models_name_is_asked_for_at_the_hub_that_is_named_and_not_at_modelscope(
    hub: tuple[str, list[str]], tmp_path: Path, modelscope: str
) -> None:
    url, asked = hub
    there = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    line = started("--model", "org/chinese-alpaca-2", **there, VLLM_USE_MODELSCOPE=modelscope)
    assert line.startswith("error: ")
    assert url in line
    assert "/org/chinese-alpaca-2/resolve/main/config.json" in asked
