"""Rules between the fields of a body: what cannot be honoured, and what contradicts something else."""

from api.decoding import (
    alternatives,
    constraining_fields,
    is_beam_search,
    repetition_penalty,
    width,
)
from api.foreign_fields import CHAT_FIELDS, COMPLETION_FIELDS, FOREIGN_FIELDS, check_foreign_fields
from api.tool_calls import allowed_names, is_call_required
from errors import bad_request
from protocol import MAX_BEAMS, CompletionRequest, Request, ToolFields

CUTTING_FIELDS = ("stop", "stop_token_ids", "include_stop_str_in_output")
"""What would leave a call broken."""


def check_fields(body: Request) -> None:
    """Raise APIError (400) for fields that cannot be honoured, and for fields that contradict each other."""
    if body.model_extra:
        own = COMPLETION_FIELDS if isinstance(body, CompletionRequest) else CHAT_FIELDS
        check_foreign_fields(body.model_extra, FOREIGN_FIELDS | own)
    param = "num_beams" if body.num_beams > 1 else "best_of"
    require(width(body) >= body.n, param, f"must be at least 'n', which is {body.n}.")
    is_open = "allowed_token_ids" not in body.model_fields_set or bool(body.allowed_token_ids)
    require(is_open, "allowed_token_ids", "must allow at least one token.")
    require(all(body.bad_words), "bad_words", "cannot have an empty word.")
    if is_beam_search(body):
        _check_beams(body)
    require(
        body.stream or body.stream_options is None,
        "stream_options",
        "is only allowed with 'stream': true.",
    )
    if constraining_fields(body):
        _check_constraint(body)
    if isinstance(body, CompletionRequest):
        require(
            not body.suffix,
            "suffix",
            "is not supported: the model continues a prompt, it does not fill it.",
        )
    else:
        require(
            body.logprobs or not body.top_logprobs,
            "top_logprobs",
            "is only allowed with 'logprobs': true.",
        )
        check_tools(body)


def check_tools(body: ToolFields) -> None:
    """Raise APIError (400) for a choice that is none of the tools."""
    offered = {tool.function.name for tool in body.tools}
    is_known = offered.issuperset(allowed_names(body.tool_choice) or ())
    has_some = bool(offered) or not is_call_required(body.tool_choice)
    require(
        is_known and has_some, "tool_choice", "asks for a function that is not among the 'tools'."
    )


def _check_beams(body: Request) -> None:
    """What transformers' beam search has, and what log-probabilities of the likeliest tokens are enough for."""
    param = "best_of" if body.best_of == width(body) else "n"
    require(width(body) <= MAX_BEAMS, param, f"must be at most {MAX_BEAMS} with beam search.")
    for name in ("presence_penalty", "frequency_penalty"):
        is_unset = name not in body.model_fields_set or not getattr(body, name)
        require(is_unset, name, "is not supported with beam search; 'repetition_penalty' is.")
    require(
        repetition_penalty(body) >= 1, "repetition_penalty", "must be at least 1 with beam search."
    )
    for name in ("bad_words", "allowed_token_ids"):
        require(not getattr(body, name), name, "is not supported with beam search.")
    is_lowering = max(body.logit_bias.values(), default=0) <= 0
    require(is_lowering, "logit_bias", "must not be above 0 for any token with beam search.")


def _check_constraint(body: Request) -> None:
    """What the reply must look like can be said once, and ends it: nothing can be asked to come after."""
    param, *others = constraining_fields(body)
    require(not others, param, f"cannot be combined with {' and '.join(map(repr, others))}.")
    require(not is_beam_search(body), param, "is not supported with beam search.")
    require(not body.ignore_eos, param, "cannot be combined with 'ignore_eos'.")
    require(not body.min_tokens, param, "cannot be combined with 'min_tokens'.")
    # Between them they could leave no token at all.
    for name in ("bad_words", "allowed_token_ids"):
        require(not getattr(body, name), name, f"cannot be combined with '{param}'.")
    if param == "tools":
        require(
            alternatives(body) is None, "logprobs", "cannot be given for the call of a function."
        )
        for name in CUTTING_FIELDS:
            require(
                not getattr(body, name), name, "cannot be combined with the call of a function."
            )


def require(holds: bool, param: str, otherwise: str) -> None:
    """Raise a 400 whose message begins with the field, unless it holds."""
    if not holds:
        raise bad_request(f"'{param}' {otherwise}", param)
