"""Request fields of other servers that change an answer and cannot be honoured here.

Ignoring one of them would give another answer than was asked for, so it is a 400 that names what there is instead. A
value that changes nothing is ignored, as a field that nobody knows is. The fields are those of vLLM 0.32
(`vllm/entrypoints/openai`), llama.cpp's server (`tools/server/README.md`), SGLang, TGI and transformers'
`GenerationConfig`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from errors import bad_request


class Foreign(NamedTuple):
    """A field of another server."""

    instead: str = ""
    """What to use here."""
    neutral: tuple[Any, ...] = ()
    """Values that change nothing."""


STRUCTURED, STOP = Foreign("'structured_outputs'"), Foreign("'stop'")
OFF, ONE = Foreign(neutral=(0, False)), Foreign(neutral=(1,))

FOREIGN_FIELDS = {
    # vLLM's
    "prompt_logprobs": Foreign("'echo' with 'logprobs' on /v1/completions"),
    "prompt_embeds": Foreign("'prompt'"),
    "chat_template": Foreign("the server's --prompt-template"),
    "documents": Foreign("'messages'", neutral=([],)),
    "logprob_token_ids": Foreign("'logprobs'"),
    "return_tokens_as_token_ids": Foreign("'return_token_ids'", neutral=(False,)),
    "logits_processors": Foreign("'logit_bias'", neutral=([],)),
    "repetition_detection": Foreign("'repetition_penalty'"),
    "watermarking": OFF,
    # llama.cpp's
    "grammar": STRUCTURED,
    "json_schema": Foreign("'response_format'"),
    "n_predict": Foreign("'max_tokens'"),
    "repeat_penalty": Foreign("'repetition_penalty'"),
    "n_probs": Foreign("'logprobs'", neutral=(0,)),
    "samplers": Foreign("'top_k', 'top_p' and 'min_p'"),
    "lora": Foreign("'model'", neutral=([],)),
    "mirostat": OFF,
    "dynatemp_range": OFF,
    "xtc_probability": OFF,
    "dry_multiplier": OFF,
    "t_max_predict_ms": Foreign("'max_tokens'", neutral=(0, -1)),
    "top_n_sigma": Foreign("'min_p'", neutral=(0, -1)),
    "typical_p": ONE,
    "tfs_z": ONE,
    # SGLang's and TGI's
    "regex": STRUCTURED,
    "ebnf": STRUCTURED,
    "stop_regex": STOP,
    "custom_logit_processor": Foreign("'logit_bias'"),
    "lora_path": Foreign("'model'"),
    "truncate": Foreign("'truncate_prompt_tokens'"),
    "watermark": OFF,
    # transformers'
    "max_new_tokens": Foreign("'max_tokens'"),
    "min_new_tokens": Foreign("'min_tokens'", neutral=(0,)),
    "max_length": Foreign("'max_tokens'"),
    "min_length": Foreign("'min_tokens'", neutral=(0,)),
    "num_return_sequences": Foreign("'n'", neutral=(1,)),
    "stop_strings": STOP,
    "bad_words_ids": Foreign("'bad_words'"),
    "no_repeat_ngram_size": Foreign("'repetition_penalty'", neutral=(0,)),
    "num_beam_groups": ONE,
    "diversity_penalty": OFF,
    "penalty_alpha": OFF,
}

CHAT_FIELDS = {
    "echo": Foreign("'echo' on /v1/completions", neutral=(False,)),
    "raw": Foreign("'raw' on /v1/completions", neutral=(False,)),
    "add_generation_prompt": Foreign(
        "a final message of the role assistant, which is continued", neutral=(True,)
    ),
    "add_special_tokens": Foreign(neutral=(False,)),
}
COMPLETION_FIELDS = {"add_special_tokens": Foreign("token ids as 'prompt'", neutral=(True,))}


def check_foreign_fields(sent: Mapping[str, Any], foreign: Mapping[str, Foreign]) -> None:
    """Raise APIError (400) for the first field of `sent` that is one of `foreign` and changes the answer."""
    for name in sent.keys() & foreign.keys():
        if sent[name] not in foreign[name].neutral:
            hint = f": use {foreign[name].instead}" if foreign[name].instead else ""
            raise bad_request(f"'{name}' is not supported{hint}.", name)
