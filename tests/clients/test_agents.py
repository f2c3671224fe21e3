"""Agents against the real server: the model calls a tool, the agent runs it, and the model answers by its result."""

import pytest

from tests.support.client_programs import MODEL, Ask

CITY = "杭州"
"""Which all agents are asked about."""
pytestmark = pytest.mark.engine


@pytest.mark.parametrize("environment", ["agents", "node"])
@pytest.mark.parametrize(
    "settings",
    [pytest.param({}, id="decided"), pytest.param({"tool_choice": "required"}, id="forced")],
)
def test_an_agent_of_openais_sdk_runs_a_tool_in_two_turns(
    ask: Ask, environment: str, settings: dict[str, str]
) -> None:
    read = ask(environment, "with_openai_agents", "turns", model=MODEL, **settings)
    items = ["tool_call_item", "tool_call_output_item", "message_output_item"]
    assert read["items"] == read["streamed_items"] == items
    if not settings:
        assert read["called"][0] == read["called"][-1] == CITY
    assert len(read["called"]) > 1
    assert all(read["answers"])
    assert "".join(read["deltas"]) == read["streamed"] == read["answers"][0]
    assert read["tokens"] > 0


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
def test_a_langchain_js_agent_runs_a_tool_in_two_turns(ask: Ask, responses: bool) -> None:
    read = ask("node", "with_langchain", "turns", model=MODEL, useResponsesApi=responses)
    assert read["types"] == ["human", "ai", "tool", "ai"]
    assert read["called"][0] == read["called"][-1] == CITY
    assert all(read["answers"])
    assert "".join(read["pieces"]) == read["answers"][0]


def test_agent_framework_runs_a_tool_in_two_turns_where_it_is_told_that_nothing_is_kept(
    ask: Ask,
) -> None:
    read = ask("agents", "with_agent_framework", "turns", model=MODEL, store=False)
    assert read["contents"] == ["function_call", "function_result", "text"]
    assert read["called"][0] == read["called"][-1] == CITY
    assert all(read["answers"])
    assert read["streamed"] == read["answers"][0]
    assert len(list(filter(None, read["pieces"]))) > 3


def test_an_autogen_assistant_runs_a_tool_and_answers_by_its_result(ask: Ask) -> None:
    read = ask("agents", "with_autogen", "tool", model=MODEL)
    events = ["ToolCallRequestEvent", "ToolCallExecutionEvent"]
    assert read["types"] == ["TextMessage", *events, "TextMessage"]
    assert read["called"] == [CITY]
    assert read["answer"]


def test_autogens_speakers_take_turns(ask: Ask) -> None:
    said = ask("agents", "with_autogen", "team", model=MODEL)["said"]
    assert [source for source, _ in said] == ["user", "anna", "bert"]
    assert all(content for _, content in said)


def test_smolagents_calls_a_tool_at_each_step(ask: Ask) -> None:
    read = ask("agents", "with_smolagents", "run", model=MODEL)
    assert read["calls"]
    assert {call["name"] for call in read["calls"]} <= {"get_weather", "final_answer"}
    assert read["answer"]
