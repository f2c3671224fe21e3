"""Parameters whose grammar vLLM need not check: to the engine they are as any others."""

from types import SimpleNamespace

import msgspec
import pytest
from transformers import AutoTokenizer
from vllm.config import StructuredOutputsConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output import backend_guidance

from engine.checked_params import SHORT_GRAMMAR, CheckedParams
from settings import DEMO_MODEL

GRAMMAR = 'start: "北京" | "上海"'
CONFIG = StructuredOutputsConfig(backend="guidance")
MODEL = SimpleNamespace(is_diffusion=False)
TOKENIZER = AutoTokenizer.from_pretrained(DEMO_MODEL)


def params(kind: type[SamplingParams]) -> SamplingParams:
    return kind(max_tokens=7, structured_outputs=StructuredOutputsParams(grammar=GRAMMAR))


def test_vllm_does_not_compile_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def check(asked: SamplingParams, tokenizer: object) -> None:
        checked.append(asked.structured_outputs.grammar)

    monkeypatch.setattr(backend_guidance, "validate_guidance_grammar", check)
    for kind in (SamplingParams, CheckedParams):
        params(kind)._validate_structured_outputs(MODEL, CONFIG, TOKENIZER)
    assert checked == [GRAMMAR, SHORT_GRAMMAR]


def test_the_engine_gets_the_same_bytes() -> None:
    plain, light = params(SamplingParams), params(CheckedParams)
    for each in (plain, light):
        each._validate_structured_outputs(MODEL, CONFIG, TOKENIZER)
    assert light.structured_outputs == plain.structured_outputs
    assert light.structured_outputs._backend == "guidance"
    sent = msgspec.msgpack.encode(light)
    assert sent == msgspec.msgpack.encode(plain)
    assert type(msgspec.msgpack.decode(sent, type=SamplingParams)) is SamplingParams


def test_all_else_is_checked_by_vllm() -> None:
    for model, tokenizer in ((SimpleNamespace(is_diffusion=True), TOKENIZER), (MODEL, object())):
        with pytest.raises(VLLMValidationError, match="support"):
            params(CheckedParams)._validate_structured_outputs(model, CONFIG, tokenizer)
