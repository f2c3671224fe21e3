"""smolagents' ToolCallingAgent, which forces a call at each step: of a tool, or of its own `final_answer`."""

from smolagents import OpenAIModel, ToolCallingAgent, tool
from weather import QUESTION, called, get_weather


def run(url: str, model: str) -> dict:
    agent = ToolCallingAgent(
        tools=[tool(get_weather)],
        model=OpenAIModel(model, api_base=f"{url}/v1", api_key="none", temperature=0),
        max_steps=2,
        verbosity_level=0,
    )
    # Its own system text fills the demo model's context.
    agent.prompt_templates["system_prompt"] = "你是一个会使用工具的助手。"
    result = agent.run(QUESTION, return_full_result=True)
    calls = [call["function"] for step in result.steps for call in step.get("tool_calls") or []]
    return {"called": called, "answer": result.output, "calls": calls, "state": result.state}
