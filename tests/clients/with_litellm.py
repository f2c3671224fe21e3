"""litellm's SDK: completion and responses."""

import litellm
from city import City
from weather import QUESTION, TOOL

PROMPT = "中国的首都是哪里？"


def provider(url: str, model: str) -> dict:
    return {
        "model": f"openai/{model}",
        "api_base": f"{url}/v1",
        "api_key": "none",
        "num_retries": 0,
    }


def chat(url: str, model: str) -> dict:
    asked = {
        **provider(url, model),
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
    }
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    return {
        "plain": litellm.completion(**asked),
        "streamed": litellm.stream_chunk_builder(chunks),
        "structured": litellm.completion(**asked, response_format=City).choices[0].message.content,
    }


def call(url: str, model: str, **fields: str) -> dict:
    asked = {
        **provider(url, model),
        "messages": [{"role": "user", "content": QUESTION}],
        "tools": [TOOL],
        "temperature": 0,
        **fields,
    }
    chunks = list(litellm.completion(**asked, stream=True))
    return {"plain": litellm.completion(**asked), "streamed": litellm.stream_chunk_builder(chunks)}


def respond(url: str, model: str) -> dict:
    asked = {**provider(url, model), "input": PROMPT, "temperature": 0}
    events = list(litellm.responses(**asked, stream=True))
    return {
        "plain": litellm.responses(**asked),
        "events": [getattr(event.type, "value", event.type) for event in events],
        "streamed": events[-1].response,
    }
