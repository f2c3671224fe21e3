"""`python -m tools.merge`, against peft's own merge."""

import json
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from adapter_files import read_adapter
from settings import DEMO_MODEL, StartError
from tests.support.model_directory import change
from tests.support.paths import ALPACA_2_TOKENIZER, ROOT
from tools.merge import merge

BASE_ROWS, ROWS = 300, 320
LINEAR = ["q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "up_proj"]
WHOLE = ["embed_tokens", "lm_head"]
STATUS = Path("/proc/self/status")


def write_base(folder: Path, rows: int = BASE_ROWS, **options: Any) -> Path:
    """Write a model with random weights, in some shards."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **options,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="60KB")
    return folder


def write_adapter(base: Path, folder: Path, rows: int = ROWS, **options: Any) -> LlamaForCausalLM:
    """Write an adapter of a model whose embedding was grown to `rows`; returns peft's merged model."""
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(rows)
    known: dict[str, Any] = {
        "r": 8,
        "lora_alpha": 20,
        "target_modules": LINEAR,
        "modules_to_save": WHOLE,
    }
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **(known | options)))
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.requires_grad)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    merged: LlamaForCausalLM = adapted.merge_and_unload()
    return merged


def assert_equal(folder: Path, expected: LlamaForCausalLM) -> None:
    """All weights of a merged folder are those of peft's model, bit for bit."""
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weights = expected.state_dict()
    assert found.state_dict().keys() == weights.keys()
    for name, weight in found.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    ids = torch.tensor([[1, 5, 7, 9]])
    assert torch.equal(found(ids).logits, expected(ids).logits)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}},
        {"modules_to_save": None, "target_modules": ["q_proj", "v_proj"]},
    ],
    ids=["whole embedding", "rslora", "patterns", "same vocabulary"],
)
def test_the_result_is_that_of_peft_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    base = write_base(tmp_path / "base")
    rows = ROWS if options.get("modules_to_save", WHOLE) else BASE_ROWS
    expected = write_adapter(base, tmp_path / "adapter", rows, **options)
    merge(base, tmp_path / "adapter", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) == len(
        list(base.glob("model-*.safetensors"))
    )
    assert_equal(tmp_path / "out", expected)
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == rows


def test_the_layout_of_2023_is_read(tmp_path: Path) -> None:
    """Shards and adapter as pickles of PyTorch, and whole weights under the names that peft wrote then."""
    base = write_base(tmp_path / "base")
    expected = write_adapter(base, tmp_path / "adapter")
    weight_map: dict[str, str] = {}
    for file in sorted(base.glob("model-*.safetensors")):
        shard = file.name.replace("model-", "pytorch_model-").replace("safetensors", "bin")
        weights = load_file(file)
        torch.save(weights, base / shard)
        weight_map |= dict.fromkeys(weights, shard)
        file.unlink()
    (base / "model.safetensors.index.json").unlink()
    (base / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    adapter = tmp_path / "adapter"
    trained = load_file(adapter / "adapter_model.safetensors")
    old = {
        name.replace("tokens.weight", "tokens.modules_to_save.weight"): weight
        for name, weight in trained.items()
    }
    assert old.keys() != trained.keys()
    torch.save(old, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    merge(base, adapter, tmp_path / "out")
    assert_equal(tmp_path / "out", expected)


@pytest.mark.filterwarnings("ignore:.*(ensure_weight_tying|no longer tied):UserWarning")
def test_a_tied_embedding_is_untied_where_the_output_layer_was_trained(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", tie_word_embeddings=True)
    write_adapter(base, tmp_path / "adapter")
    trained = load_file(tmp_path / "adapter/adapter_model.safetensors")
    merge(base, tmp_path / "adapter", tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for module in ("model.embed_tokens", "lm_head"):
        assert torch.equal(
            merged.state_dict()[f"{module}.weight"], trained[f"base_model.model.{module}.weight"]
        )


def test_weights_keep_their_type_and_the_tokenizer_of_the_adapter_comes_along(
    tmp_path: Path,
) -> None:
    if not ALPACA_2_TOKENIZER.is_file():
        pytest.skip("needs the tokenizer of Chinese-Alpaca-2")
    base = tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(write_base(tmp_path / "float32", rows=32000))
    model.to(torch.float16).save_pretrained(base)
    write_adapter(base, tmp_path / "adapter", rows=55296)
    for file in ALPACA_2_TOKENIZER.parent.iterdir():
        shutil.copyfile(file, tmp_path / "adapter" / file.name)
    (base / "tokenizer.model").write_bytes(b"the base model's")
    folders = [str(folder) for folder in (base, tmp_path / "adapter", tmp_path / "out")]
    subprocess.run([sys.executable, "-m", "tools.merge", *folders], cwd=ROOT, check=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (merged.dtype, merged.config.vocab_size) == (torch.float16, 55296)
    tokenizer = (tmp_path / "out/tokenizer.model").read_bytes()
    assert tokenizer == ALPACA_2_TOKENIZER.read_bytes()


@pytest.mark.skipif(not STATUS.is_file(), reason="Linux alone tells a process's memory there")
def test_one_shard_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """Pages of mapped files are not counted: the system takes them back where it needs room."""
    torch.manual_seed(1)
    rows, columns, shards, each = (
        5120,
        4096,
        3,
        5,
    )  # weights of 40 MiB: the memory of such goes back
    (tmp_path / "base").mkdir()
    for shard in range(shards):
        weights = {
            f"model.layers.{shard}.x{at}.q_proj.weight": torch.zeros(
                rows, columns, dtype=torch.float16
            )
            for at in range(each)
        }
        save_file(weights, tmp_path / f"base/model-{shard + 1:05}-of-{shards:05}.safetensors")
    config = {"model_type": "llama", "vocab_size": 300}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    half = torch.float16
    factors = torch.randn(8, columns, dtype=half), torch.randn(rows, 8, dtype=half)
    updates = {
        f"base_model.model.model.layers.{shard}.x{at}.q_proj.lora_{name}.weight": value
        for shard in range(shards)
        for at in range(each)
        for name, value in zip("AB", factors, strict=True)
    }
    (tmp_path / "adapter").mkdir()
    torch.save(updates, tmp_path / "adapter/adapter_model.bin")
    told = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(told))
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        folders = (tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
        most = process.submit(memory_of_merge, *folders).result()
    shard_bytes = each * rows * columns * 2
    assert shard_bytes * 0.9 < most < shard_bytes * 2


def memory_of_merge(*folders: Path) -> int:
    """How many bytes this process takes for a merge, at most."""
    before, most = own_memory(), 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.01):
            most = max(most, own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    merge(*folders)
    ended.set()
    watcher.join()
    return most - before


def own_memory() -> int:
    """The bytes of this process that no file backs."""
    found = re.search(r"RssAnon:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return int(found[1]) * 1024


def refused(base: Path, adapter: Path, out: Path) -> str:
    with pytest.raises(StartError) as refusal:
        merge(base, adapter, out)
    assert not out.exists() or not (out / "config.json").exists()
    return str(refusal.value)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    write_base(base)
    write_adapter(base, adapter)
    other = tmp_path / "other"
    LlamaForCausalLM(
        LlamaConfig(vocab_size=BASE_ROWS, hidden_size=16, intermediate_size=64, num_hidden_layers=2,
                    num_attention_heads=4)
    ).save_pretrained(other)  # fmt: skip
    assert "is of another base model" in refused(other, adapter, out)
    assert "There is no directory" in refused(base, tmp_path / "nothing", out)
    assert "is no adapter: it has no adapter_config.json" in refused(base, base, out)
    assert "is no model: it has no config.json" in refused(adapter, adapter, out)
    shutil.copyfile(DEMO_MODEL / "tokenizer.model", adapter / "tokenizer.model")
    assert "pieces, and the merged model 320 rows" in refused(base, adapter, out)
    shutil.copyfile(DEMO_MODEL / "tokenizer.model", base / "tokenizer.model")
    large = tmp_path / "large"
    write_adapter(base, large, rows=9000)
    assert "pieces for 9,000 rows: that of the adapter is missing" in refused(base, large, out)
    change(base / "config.json", quantization_config={"quant_method": "compressed-tensors"})
    assert "is quantised: merge into the weights before" in refused(base, large, out)
    out.mkdir()
    assert "is there already" in refused(base, adapter, out)


def test_an_adapter_that_is_not_whole_or_no_lora_is_refused(tmp_path: Path) -> None:
    base, adapter = write_base(tmp_path / "base"), tmp_path / "adapter"
    write_adapter(base, adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    first = next(name for name in weights if "lora_A" in name)
    config = json.loads((adapter / "adapter_config.json").read_text())

    def refusal(**changes: Any) -> str:
        (adapter / "adapter_config.json").write_text(json.dumps(config | changes))
        with pytest.raises(StartError) as failure:
            read_adapter(adapter)
        return str(failure.value)

    assert "of the kind DoRA, not plain LoRA" in refusal(use_dora=True)
    assert "of the kind LoRA from pissa," in refusal(init_lora_weights="pissa")
    assert "of the kind LoRA with biases," in refusal(bias="lora_only")
    for wrong in ({"lora_alpha": None}, {"r": "8"}, {"rank_pattern": {"q_proj": 0}}):
        assert "is no number above 0" in refusal(**wrong)
    assert "of the kind IA3, not plain LoRA" in refusal(peft_type="IA3")
    save_file({name: value for name, value in weights.items() if name != first},
              adapter / "adapter_model.safetensors")  # fmt: skip
    assert "one factor only of the update of" in refusal()
    save_file({"base_model.model.x.lora_magnitude_vector": weights[first]},
              adapter / "adapter_model.safetensors")  # fmt: skip
    assert "which is no weight of a LoRA adapter" in refusal()
    (adapter / "adapter_model.safetensors").write_bytes(b"version https://git-lfs.github.com")
    assert "git-lfs pointer" in refusal()
    (adapter / "adapter_model.safetensors").unlink()
    assert "has no weights" in refusal()


def test_peft_reads_what_is_called_an_adapter_here(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    write_adapter(base, tmp_path / "adapter", BASE_ROWS, modules_to_save=None)
    model = AutoModelForCausalLM.from_pretrained(base)
    PeftModel.from_pretrained(model, tmp_path / "adapter")
    read = read_adapter(tmp_path / "adapter")
    assert (read.rank, len(read.factors), read.whole) == (8, 14, {})
