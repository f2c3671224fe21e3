"""What transformers' own beam search finds: in a made-up model, and in a real one."""

import math
from collections.abc import Sequence

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.modeling_outputs import CausalLMOutput

from engine.beam_search import BeamSearchConfig
from tests.support.scripted_model import ScriptedModel

BOS = 7


class ScriptedConfig(PreTrainedConfig):  # type: ignore[misc]
    model_type = "scripted"


class ScriptedForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The made-up model as transformers wants one: logits for the last token of each row."""

    config_class = ScriptedConfig
    main_input_name = "input_ids"
    _supports_cache_class = False

    def __init__(self, config: ScriptedConfig, model: ScriptedModel, prompt_length: int) -> None:
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.model, self.prompt_length = model, prompt_length

    def forward(self, input_ids: torch.Tensor, **_: object) -> CausalLMOutput:
        rows = [self.model.logprobs(tuple(row[self.prompt_length :])) for row in input_ids.tolist()]
        return CausalLMOutput(logits=torch.tensor(rows)[:, None, :])


class EndsWith(StoppingCriteria):  # type: ignore[misc]
    """What a stop string is to transformers: any token may end a text."""

    def __init__(self, endings: set[int]) -> None:
        self.endings = torch.tensor(sorted(endings))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.isin(input_ids[:, -1], self.endings)


def scripted_beams(
    model: ScriptedModel, config: BeamSearchConfig, endings: set[int] | None = None
) -> list[tuple[list[int], float]]:
    prompt = sorted(config.prompt_ids) or [BOS]
    hub = ScriptedForCausalLM(ScriptedConfig(vocab_size=model.vocabulary), model, len(prompt))
    criteria = StoppingCriteriaList([EndsWith(endings)] if endings else [])
    return beams(hub, prompt, config, criteria, use_cache=False)


def beams(
    model: GenerationMixin,
    prompt: Sequence[int],
    config: BeamSearchConfig,
    criteria: StoppingCriteriaList | None = None,
    **options: bool,
) -> list[tuple[list[int], float]]:
    """Token ids and scores, the best first."""
    generation_config = GenerationConfig(
        num_beams=config.num_beams,
        num_return_sequences=config.n,
        do_sample=False,
        max_new_tokens=config.max_tokens,
        min_new_tokens=config.min_tokens or None,
        length_penalty=config.length_penalty,
        early_stopping=config.early_stopping,
        eos_token_id=sorted(config.stop_token_ids) or None,
        pad_token_id=0,
        repetition_penalty=config.repetition_penalty,
        sequence_bias=[[[token], bias] for token, bias in config.logit_bias.items()] or None,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    found = model.generate(
        torch.tensor([list(prompt)]),
        generation_config=generation_config,
        stopping_criteria=criteria,
    )
    ends = frozenset(token_id for one in criteria or () for token_id in one.endings.tolist())
    # One beam is greedy search there, which has no such scores.
    scores = found.sequences_scores.tolist() if config.num_beams > 1 else [math.nan]
    return [
        (_cut(row[len(prompt) :], config.stop_token_ids | ends), score)
        for row, score in zip(found.sequences.tolist(), scores, strict=True)
    ]


def _cut(tokens: list[int], stops: frozenset[int]) -> list[int]:
    """Without the padding after the first token that ends the text."""
    ends = [at for at, token in enumerate(tokens) if token in stops]
    return tokens[: ends[0] + 1] if ends else tokens
