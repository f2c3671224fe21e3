"""autogen: an assistant with a tool, and a team of two speakers, whose messages bear their names."""

from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient
from weather import QUESTION, called, get_weather


def assistant(name: str, url: str, model: str, **fields: Any) -> AssistantAgent:
    info = {
        "vision": False,
        "function_calling": True,
        "json_output": True,
        "structured_output": True,
        "family": "unknown",
    }
    client = OpenAIChatCompletionClient(
        model=model, base_url=f"{url}/v1", api_key="none", temperature=0, model_info=info
    )
    return AssistantAgent(name, client, **fields)


async def tool(url: str, model: str) -> dict:
    agent = assistant("helper", url, model, tools=[get_weather], reflect_on_tool_use=True)
    result = await agent.run(task=QUESTION)
    return {
        "called": called,
        "types": [message.type for message in result.messages],
        "answer": result.messages[-1].content,
    }


async def team(url: str, model: str) -> dict:
    speakers = [assistant(name, url, model, model_client_stream=True) for name in ("anna", "bert")]
    group = RoundRobinGroupChat(speakers, termination_condition=MaxMessageTermination(3))
    result = await group.run(task="中国的首都是哪里？")
    return {"said": [[message.source, message.content] for message in result.messages]}
