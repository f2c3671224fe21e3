"""Rules between the fields of a body: what cannot be honoured, and what contradicts something else."""

from api.foreign_fields import CHAT_FIELDS, COMPLETION_FIELDS, FOREIGN_FIELDS, check_foreign_fields
from errors import bad_request
from generation import Decoding
from protocol import MAX_BEAMS, ChatCompletionRequest, CompletionRequest, Request


def check_fields(body: Request, decoding: Decoding) -> None:
    """Raise APIError (400) for fields that cannot be honoured, and for fields that contradict each other.

    `decoding` is the body's own.
    """
    if body.model_extra:
        own = COMPLETION_FIELDS if isinstance(body, CompletionRequest) else CHAT_FIELDS
        check_foreign_fields(body.model_extra, FOREIGN_FIELDS | own)
    param = "num_beams" if body.num_beams > 1 else "best_of"
    require(decoding.width >= body.n, param, f"must be at least 'n', which is {body.n}.")
    is_open = "allowed_token_ids" not in body.model_fields_set or bool(body.allowed_token_ids)
    require(is_open, "allowed_token_ids", "must allow at least one token.")
    require(all(body.bad_words), "bad_words", "cannot have an empty word.")
    if decoding.is_beam_search:
        _check_beams(body, decoding)
    has_stream = body.stream or body.stream_options is None
    require(has_stream, "stream_options", "is only allowed with 'stream': true.")
    constraint = decoding.calls or decoding.constraint
    if constraint is not None:
        _check_constraint(body, decoding, constraint.param)
    if isinstance(body, CompletionRequest):
        _check_completion(body)
    else:
        _check_chat(body)


def _check_completion(body: CompletionRequest) -> None:
    reason = "is not supported: the model continues a prompt, it does not fill it."
    require(not body.suffix, "suffix", reason)


def _check_chat(body: ChatCompletionRequest) -> None:
    has_logprobs = body.logprobs or not body.top_logprobs
    require(has_logprobs, "top_logprobs", "is only allowed with 'logprobs': true.")


def _check_beams(body: Request, decoding: Decoding) -> None:
    """What transformers' beam search has, and what log-probabilities of the likeliest tokens are enough for."""
    param = "best_of" if body.best_of == decoding.width else "n"
    require(decoding.width <= MAX_BEAMS, param, f"must be at most {MAX_BEAMS} with beam search.")
    for name in ("presence_penalty", "frequency_penalty"):
        is_unset = name not in body.model_fields_set or not getattr(body, name)
        require(is_unset, name, "is not supported with beam search; 'repetition_penalty' is.")
    is_raising = decoding.repetition_penalty < 1
    require(not is_raising, "repetition_penalty", "must be at least 1 with beam search.")
    for name in ("bad_words", "allowed_token_ids"):
        require(not getattr(body, name), name, "is not supported with beam search.")
    is_lowering = max(body.logit_bias.values(), default=0) <= 0
    require(is_lowering, "logit_bias", "must not be above 0 for any token with beam search.")


def _check_constraint(body: Request, decoding: Decoding, param: str) -> None:
    """What the reply must look like ends it: nothing can be asked to come after."""
    require(not decoding.is_beam_search, param, "is not supported with beam search.")
    require(not body.ignore_eos, param, "cannot be combined with 'ignore_eos'.")
    require(not body.min_tokens, param, "cannot be combined with 'min_tokens'.")
    # Between them they could leave no token at all.
    for name in ("bad_words", "allowed_token_ids"):
        require(not getattr(body, name), name, f"cannot be combined with '{param}'.")
    has_another = decoding.is_call and body.structured_outputs is not None
    require(not has_another, "structured_outputs", "cannot be combined with a call.")


def require(holds: bool, param: str, otherwise: str) -> None:
    """Raise APIError (400) unless `holds`; its message is the field's name and what `otherwise` says of it."""
    if not holds:
        raise bad_request(f"'{param}' {otherwise}", param)
