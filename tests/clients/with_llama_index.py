"""llama-index-llms-openai-like, as a chat model and as a completion model."""

from typing import Any

from city import City
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

PROMPT = "中国的首都是哪里？"
MESSAGES = [
    ChatMessage(role="system", content="请用中文回答。"),
    ChatMessage(role="user", content=PROMPT),
]


def connect(url: str, **fields: Any) -> OpenAILike:
    return OpenAILike(
        api_base=f"{url}/v1", api_key="none", max_retries=0, temperature=0, max_tokens=64, **fields
    )


async def answers(url: str, **fields: Any) -> dict:
    model = connect(url, **fields)
    return {
        "complete": model.complete(PROMPT).text,
        "stream_complete": [part.delta for part in model.stream_complete(PROMPT)],
        "acomplete": (await model.acomplete(PROMPT)).text,
        "astream_complete": [part.delta async for part in await model.astream_complete(PROMPT)],
        "chat": model.chat(MESSAGES).message.content,
        "stream_chat": [part.delta for part in model.stream_chat(MESSAGES)],
        "achat": (await model.achat(MESSAGES)).message.content,
        "astream_chat": [part.delta async for part in await model.astream_chat(MESSAGES)],
        "raw": model.chat(MESSAGES).raw,
    }


def structured(url: str, **fields: Any) -> BaseModel:
    model = connect(url, **fields)
    return model.as_structured_llm(City).complete(PROMPT).raw
