"""Sampling parameters whose grammar need not be checked again, in place of vLLM's.

vLLM compiles each grammar in the event loop to check it (vLLM 0.32, `validate_guidance_grammar`): some 10 ms for a
large one, in which no stream moves. Here it has been compiled before, in a thread.
"""

from dataclasses import replace
from typing import Any

from vllm.sampling_params import SamplingParams

SHORT_GRAMMAR = 'start: "a"'
"""What vLLM checks in place of the grammar."""


class CheckedParams(SamplingParams):  # type: ignore[misc]
    """SamplingParams with a grammar that `GrammarCompiler` has compiled."""

    def _validate_structured_outputs(self, *arguments: Any) -> None:
        """Let vLLM check all but the grammar, and note its backend; a vLLM without this method checks all."""
        params: Any = self
        checked = params.structured_outputs
        params.structured_outputs = replace(checked, grammar=SHORT_GRAMMAR)
        super()._validate_structured_outputs(*arguments)
        checked._backend = params.structured_outputs._backend
        params.structured_outputs = checked
