"""A stream's texts are those of the plain reply, wherever characters are cut."""

from typing import Any

import httpx
import pytest

from tests.support.questions import complete
from tests.support.replies import events
from tests.support.strings import varied_strings

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("limit", range(1, 41))
def test_a_stream_equals_the_plain_reply_at_every_length(http: httpx.Client, limit: int) -> None:
    """Tokens that are bytes of rare characters are made likely, so that a limit often cuts a character in two."""
    bias = {str(token_id): 12.0 for token_id in range(3, 259)}
    fields: dict[str, Any] = {"prompt": f"讲个故事{limit}😀龘", "max_tokens": limit, "seed": limit,
                              "temperature": 1.2, "top_k": -1, "ignore_eos": True,
                              "logit_bias": bias if limit % 2 else None}  # fmt: skip
    (plain,) = complete(http, **fields)
    chunks = events(http.post("/v1/completions", json={**fields, "stream": True}).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == plain


def test_a_stream_equals_the_plain_reply_for_many_texts(http: httpx.Client) -> None:
    prompts = varied_strings(1500)[::25]
    fields: dict[str, Any] = {"prompt": prompts, "temperature": 0, "max_tokens": 24}
    plain = complete(http, **fields)
    chunks = events(http.post("/v1/completions", json={**fields, "stream": True}).text)
    joined = [""] * len(prompts)
    for chunk in chunks:
        joined[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    # vLLM's batches change from run to run, and with them the last bits of bfloat16: near ties may fall differently.
    assert sum(a == b for a, b in zip(joined, plain, strict=True)) >= 0.9 * len(prompts)
    # The model itself may write bytes that are no text; a stream has none besides.
    assert not any("\ufffd" in a and "\ufffd" not in b for a, b in zip(joined, plain, strict=True))
