"""The official Python client, in the ways it has of sending one request; for its majors 2 and 3."""

from typing import Any, TypeVar

import openai
from city import City
from pydantic import BaseModel

Reply = TypeVar("Reply", bound=BaseModel)
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def connect(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def checked(reply: Reply) -> Reply:
    """The client takes any JSON for a reply unless it is told to check the types."""
    return type(reply).model_validate(reply.to_dict())


def chat(url: str, **body: Any) -> dict:
    completions = connect(url).chat.completions
    raw = completions.with_raw_response.create(**body)
    with completions.stream(**body, stream_options={"include_usage": True}) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    return {
        "plain": checked(completions.create(**body)),
        "raw": checked(raw.parse()),
        "type": raw.headers["content-type"],
        "chunks": [checked(chunk) for chunk in completions.create(**body, **USAGE)],
        "events": events,
        "final": final,
    }


def beams(url: str, **body: Any) -> dict:
    """Streams that show their beams too, in events that OpenAI's API does not have."""
    completions = connect(url).chat.completions
    shown = {"stream_options": {"include_usage": True, "include_beams": True}}
    with completions.stream(**body, **shown) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    return {
        "plain": checked(completions.create(**body)),
        "chunks": [checked(chunk) for chunk in completions.create(**body, **shown, stream=True)],
        "events": events,
        "final": final,
    }


async def chat_async(url: str, **body: Any) -> dict:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        completions = client.chat.completions
        async with completions.stream(**body) as stream:
            final = await stream.get_final_completion()
        return {
            "plain": checked(await completions.create(**body)),
            "chunks": [checked(chunk) async for chunk in await completions.create(**body, **USAGE)],
            "final": final,
        }


def complete(url: str, **body: Any) -> dict:
    completions = connect(url).completions
    return {
        "plain": checked(completions.create(**body)),
        "chunks": list(completions.create(**body, **USAGE)),
    }


def models(url: str, model: str) -> dict:
    client = connect(url)
    return {
        "listed": [checked(model) for model in client.models.list()],
        "one": checked(client.models.retrieve(model)),
    }


def fail(url: str, **body: Any) -> dict:
    """What is raised, plain and streamed."""
    completions = connect(url).chat.completions
    raised = []
    for stream in (False, True):
        try:
            completions.create(**body, stream=stream)
        except openai.APIStatusError as error:
            raised.append([type(error).__name__, error.status_code, error.param, error.code])
    return {"raised": raised}


def parse(url: str, **body: Any) -> dict:
    completions = connect(url).chat.completions
    with completions.stream(**body, response_format=City) as stream:
        streamed = stream.get_final_completion()
    return {"plain": completions.parse(**body, response_format=City), "streamed": streamed}


def call(url: str, messages: list, **body: Any) -> dict:
    """A call of the tool `City`, whose arguments are the class's fields, and the answer to what it returned."""
    completions = connect(url).chat.completions
    asked = {**body, "messages": messages, "tools": [openai.pydantic_function_tool(City)]}
    with completions.stream(**asked) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    plain = checked(completions.create(**asked))
    message = plain.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "ok"}
    return {
        "plain": plain,
        "parsed": completions.parse(**asked),
        "chunks": [checked(chunk) for chunk in completions.create(**asked, stream=True)],
        "events": events,
        "final": final,
        "answer": completions.create(
            **{**asked, "messages": [*messages, message, result], "tool_choice": "auto"}
        ),
    }
