"""langchain-openai: its chat model and its completion model."""

from typing import Any

from city import CLOSING, City
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI, OpenAI

PROMPTS = ["中国的首都是哪里？", "法国的首都是哪里？"]


def chat_model(url: str, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, temperature=0, **fields)


def completion_model(url: str, **fields: Any) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, temperature=0, **fields)


def added_up(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return chunks[0] + chunks[1:]


async def chat(url: str, **fields: Any) -> dict:
    model = chat_model(url, stream_usage=True, **fields)
    return {
        "invoke": model.invoke(PROMPTS[0]),
        "stream": added_up(list(model.stream(PROMPTS[0]))),
        "ainvoke": await model.ainvoke(PROMPTS[0]),
        "astream": added_up([chunk async for chunk in model.astream(PROMPTS[0])]),
        "batch": model.batch(PROMPTS),
    }


async def complete(url: str, **fields: Any) -> dict:
    model = completion_model(url, **fields)
    return {
        "invoke": model.invoke(PROMPTS[0]),
        "stream": "".join(model.stream(PROMPTS[0])),
        "ainvoke": await model.ainvoke(PROMPTS[0]),
        "astream": "".join([piece async for piece in model.astream(PROMPTS[0])]),
        "batch": model.batch(PROMPTS),
    }


def choices(url: str, **fields: Any) -> dict:
    """Two choices for each of two prompts, which the completion model sends in one request."""
    models = {
        "chat": chat_model(url, n=2, **fields),
        "complete": completion_model(url, n=2, best_of=2, **fields),
    }
    read = {}
    for name, model in models.items():
        result = model.generate_prompt([model._convert_input(prompt) for prompt in PROMPTS])
        read[name] = [[choice.text for choice in choices] for choices in result.generations]
    return read


def overflow(url: str, prompt: str, **fields: Any) -> dict:
    """Whether what is raised for a prompt that is too long says so by its type, as what shortens histories asks."""
    model = chat_model(url, **fields)
    raised = {}
    for name, ask in {
        "invoke": model.invoke,
        "stream": lambda prompt: list(model.stream(prompt)),
    }.items():
        try:
            ask(prompt)
        except Exception as error:  # noqa: BLE001 - its type is what is asked
            raised[name] = isinstance(error, ContextOverflowError)
    return raised


def structured(url: str, method: str, **fields: Any) -> dict:
    model = chat_model(url, **fields).with_structured_output(City, method=method, include_raw=True)
    return model.invoke(PROMPTS[0])


def any_object(url: str, **fields: Any) -> dict:
    return (
        chat_model(url, logit_bias=CLOSING, **fields)
        .with_structured_output(method="json_mode")
        .invoke(PROMPTS[0])
    )


def call(url: str, tool_choice: str, **fields: Any) -> dict:
    """`any` is sent as `required`, a name as that function."""
    model = chat_model(url, **fields).bind_tools([City], tool_choice=tool_choice)
    return {"invoke": model.invoke(PROMPTS[0]), "stream": added_up(list(model.stream(PROMPTS[0])))}


def respond(url: str, **fields: Any) -> dict:
    """By `/v1/responses`: text, a second turn, structured output, a forced call."""
    model = chat_model(url, use_responses_api=True, **fields)
    first = model.invoke(PROMPTS[0])
    return {
        "invoke": first,
        "stream": added_up(list(model.stream(PROMPTS[0]))).text,
        "again": model.invoke([("user", PROMPTS[0]), first, ("user", "法国呢？")]).text,
        "structured": model.with_structured_output(City).invoke(PROMPTS[0]),
        "call": model.bind_tools([City], tool_choice="any").invoke(PROMPTS[0]).tool_calls,
    }
