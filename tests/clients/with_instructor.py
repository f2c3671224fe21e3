"""instructor: objects by a named tool, by JSON mode and by a JSON schema; whole and in parts."""

from typing import Any

import instructor
import openai
from city import CLOSING, AnyObject, City


def structured(url: str, mode: str, **body: Any) -> dict:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    completions = instructor.from_openai(client, mode=instructor.Mode[mode]).chat.completions
    asked = {**body, "response_model": City, "max_retries": 0}
    if mode == "JSON":
        asked |= {"response_model": AnyObject, "logit_bias": CLOSING}
    return {
        "plain": completions.create(**asked),
        "streamed": list(completions.create_partial(**asked))[-1],
    }
