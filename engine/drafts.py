"""What vLLM cannot generate with drafts, the tokens that `--speculative-config` lets it propose."""

from vllm.platforms import current_platform

from errors import bad_request
from generation import Decoding

GREEDY_ONLY = (
    "With --speculative-config on a CPU vLLM decodes greedily alone: 'temperature' has to be 0."
)


def check_drafts(decoding: Decoding) -> None:
    """Raise APIError for what vLLM cannot generate with drafts (`--speculative-config`).

    On a CPU its engine dies at the first sampled request that has drafts, and without `top_k` it samples from memory
    that was never written (0.28 to 0.33); greedy ones are right.
    """
    if decoding.is_beam_search:
        return
    if current_platform.is_cpu() and not decoding.is_greedy:
        raise bad_request(GREEDY_ONLY, "temperature")
    for field in ("min_p", "logit_bias"):
        if getattr(decoding, field):
            raise bad_request(f"With --speculative-config vLLM has no '{field}'.", field)
