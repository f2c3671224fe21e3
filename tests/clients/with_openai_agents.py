"""openai-agents with its default model class, which asks `/v1/responses`: a tool in the first of two turns."""

import agents
import openai
from agents import Agent, ModelSettings, Runner, function_tool
from weather import QUESTION, SECOND_QUESTION, called, get_weather


async def turns(url: str, model: str, **settings: str) -> dict:
    agents.set_default_openai_client(
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    )
    agent = Agent(
        name="助手",
        instructions="你是一个乐于助人的助手。",
        model=model,
        model_settings=ModelSettings(temperature=0, **settings),
        tools=[function_tool(get_weather)],
    )
    first = await Runner.run(agent, QUESTION)
    history = [*first.to_input_list(), {"role": "user", "content": SECOND_QUESTION}]
    second = await Runner.run(agent, history)
    streamed = Runner.run_streamed(agent, QUESTION)
    deltas = [
        event.data.delta
        async for event in streamed.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return {
        "called": called,
        "answers": [first.final_output, second.final_output],
        "items": [item.type for item in first.new_items],
        "deltas": deltas,
        "streamed": streamed.final_output,
        "streamed_items": [item.type for item in streamed.new_items],
        "tokens": first.context_wrapper.usage.output_tokens,
    }
