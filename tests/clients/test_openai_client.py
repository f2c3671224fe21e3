"""OpenAI's official client, in its newest version, in the tests' own process."""

from typing import cast

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionStreamOptionsParam

from tests.support.questions import CAPITAL, COMPARISON, MODEL, STORIES
from tests.support.server_process import Server

pytestmark = pytest.mark.engine

MESSAGES = cast(list[ChatCompletionMessageParam], STORIES)


def test_the_official_client_reads_a_stream_that_equals_the_plain_reply(openai: OpenAI) -> None:
    create = openai.chat.completions.create
    plain = create(model=MODEL, messages=MESSAGES, temperature=0)
    options: ChatCompletionStreamOptionsParam = {"include_usage": True}
    chunks = list(
        create(model=MODEL, messages=MESSAGES, temperature=0, stream=True, stream_options=options)
    )
    assert chunks[-1].usage == plain.usage
    joined = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert joined == plain.choices[0].message.content
    assert len(chunks) > 20
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == ["stop"]


def test_the_official_client_streams_completions(openai: OpenAI) -> None:
    create = openai.completions.create
    plain = create(model=MODEL, prompt=COMPARISON, temperature=0, max_tokens=90).choices[0]
    chunks = list(create(model=MODEL, prompt=COMPARISON, temperature=0, max_tokens=90, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == plain.text
    assert chunks[-1].choices[0].finish_reason == plain.finish_reason


def test_the_official_client_helps_with_streams(openai: OpenAI) -> None:
    with openai.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content


async def async_answer(url: str) -> str:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        reply = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": CAPITAL}]
        )
        return reply.choices[0].message.content or ""


def test_the_official_async_client(server: Server) -> None:
    import asyncio

    assert "北京" in asyncio.run(async_answer(server.url))


def test_the_official_client_raises_the_right_errors(openai: OpenAI) -> None:
    with pytest.raises(NotFoundError) as unknown:
        openai.completions.create(model="gpt-4", prompt="a")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(BadRequestError) as long:
        openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "龘" * 2000}]
        )
    assert long.value.code == "context_length_exceeded"
    assert [model.id for model in openai.models.list()] == [MODEL]
