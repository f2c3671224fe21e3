"""pydantic-ai: an agent that answers in text, and agents whose answer is an object."""

from typing import Any

from city import CLOSING, AnyObject, City
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

PROMPT = "中国的首都是哪里？"


def visit(city: City) -> City:
    """Go to a city; what this returns is the agent's output."""
    return city


MODELS = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}
OUTPUTS = {
    "tool": ToolOutput(City),
    "function": visit,
    "native": NativeOutput(City),
    "prompted": PromptedOutput(AnyObject),
}


def agent(
    url: str, model: str, settings: dict | None = None, endpoint: str = "chat", **fields: Any
) -> Agent:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    settings = {"temperature": 0, **(settings or {})}
    return Agent(MODELS[endpoint](model, provider=provider), model_settings=settings, **fields)


async def text(url: str, model: str, endpoint: str) -> dict:
    asked = agent(url, model, endpoint=endpoint, system_prompt="请用中文回答。")

    @asked.tool_plain
    def people(city: str) -> int:
        """How many people live in a city."""
        return len(city)

    run = await asked.run(PROMPT)
    async with asked.run_stream(PROMPT) as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    again = await asked.run("法国呢？", message_history=run.all_messages())
    return {
        "plain": run.output,
        "pieces": pieces,
        "usages": [
            [usage.input_tokens, usage.output_tokens] for usage in (run.usage, stream.usage)
        ],
        "again": again.output,
    }


async def structured(url: str, model: str, kind: str) -> dict:
    settings = {"logit_bias": CLOSING} if kind == "prompted" else {}
    asked = agent(url, model, settings, output_type=OUTPUTS[kind])
    run = await asked.run(PROMPT)
    async with asked.run_stream(PROMPT) as stream:
        streamed = await stream.get_output()
    return {"plain": run.output, "streamed": streamed}
