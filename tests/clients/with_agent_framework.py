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
    stream = agent.run(QUESTION, stream=True)
    pieces = [update.text async for update in stream]
    # The last piece of a text is the whole of it, in place of the others.
    streamed = (await stream.get_final_response()).text
    return {
        "called": called,
        "answers": [first.text, second.text],
        "contents": [content.type for message in first.messages for content in message.contents],
        "pieces": pieces,
        "streamed": streamed,
    }
