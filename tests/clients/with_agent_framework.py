"""agent-framework with its default OpenAI client, which asks `/v1/responses`: two turns of a session, with a tool."""

from agent_framework import Agent
from agent_framework.openai import OpenAIChatClient
from weather import QUESTION, SECOND_QUESTION, called, get_weather


async def turns(url: str, model: str, **options: bool) -> dict:
    agent = Agent(
        OpenAIChatClient(model=model, base_url=f"{url}/v1", api_key="none"),
        instructions="你是一个乐于助人的助手。",
        tools=[get_weather],
        default_options={"temperature": 0, **options},
    )
    session = agent.create_session()
    first = await agent.run(QUESTION, session=session)
    second = await agent.run(SECOND_QUESTION, session=session)
    pieces = [update.text async for update in agent.run(QUESTION, stream=True)]
    return {
        "called": called,
        "answers": [first.text, second.text],
        "contents": [content.type for message in first.messages for content in message.contents],
        "pieces": pieces,
    }
