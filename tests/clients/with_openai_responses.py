"""The official Python client's `responses`, in the ways it has of sending one request; for its majors 2 and 3."""

from typing import Any

import openai
from city import City
from with_openai import checked, connect


def respond(url: str, **body: Any) -> dict:
    responses = connect(url).responses
    with responses.stream(**body) as stream:
        events = [checked(event) for event in stream]
        final = stream.get_final_response()
    plain = checked(responses.create(**body))
    return {
        "plain": plain,
        "text": plain.output_text,
        "events": [checked(event) for event in responses.create(**body, stream=True)],
        "runner": [event.type for event in events],
        "final": final,
    }


async def respond_async(url: str, **body: Any) -> dict:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        async with client.responses.stream(**body) as stream:
            final = await stream.get_final_response()
        return {
            "plain": checked(await client.responses.create(**body)),
            "events": [
                checked(event) async for event in await client.responses.create(**body, stream=True)
            ],
            "final": final,
        }


def parse(url: str, **body: Any) -> dict:
    responses = connect(url).responses
    with responses.stream(**body, text_format=City) as stream:
        events = [event.type for event in stream]
        streamed = stream.get_final_response()
    plain = responses.parse(**body, text_format=City)
    return {
        "plain": plain.output_parsed,
        "text": plain.output_text,
        "streamed": streamed.output_parsed,
        "events": events,
    }


def call(url: str, input: list, **body: Any) -> dict:  # noqa: A002 - the API's own name
    """A call of the tool `City`, whose arguments are the class's fields, and the answer to what it returned."""
    responses = connect(url).responses
    tool = openai.pydantic_function_tool(City)["function"]
    asked = {**body, "input": input, "tools": [{"type": "function", **tool}]}
    with responses.stream(**asked) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_response()
    plain = checked(responses.create(**asked))
    result = {"type": "function_call_output", "call_id": plain.output[-1].call_id, "output": "ok"}
    return {
        "plain": plain,
        "parsed": responses.parse(**asked),
        "events": events,
        "final": final,
        "answer": checked(
            responses.create(
                **{**asked, "input": [*input, *plain.output, result], "tool_choice": "auto"}
            )
        ).output_text,
    }


def fail(url: str, **body: Any) -> dict:
    """What is raised, plain and streamed."""
    raised = []
    for stream in (False, True):
        try:
            connect(url).responses.create(**body, stream=stream)
        except openai.APIStatusError as error:
            raised.append([type(error).__name__, error.status_code, error.param, error.code])
    return {"raised": raised}
