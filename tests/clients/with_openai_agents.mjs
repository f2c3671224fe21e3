// @openai/agents with its default model class, which asks `/v1/responses`: a tool in the first of two turns.
import { Agent, Runner, setDefaultOpenAIClient, tool } from "@openai/agents";
import { called, description, getWeather, parameters, question, secondQuestion } from "./weather.mjs";
import { collect, connect } from "./with_openai.mjs";

export async function turns(url, { model, tool_choice }) {
  setDefaultOpenAIClient(connect(url));
  const agent = new Agent({
    name: "助手",
    instructions: "你是一个乐于助人的助手。",
    model,
    modelSettings: { temperature: 0, toolChoice: tool_choice },
    tools: [tool({ name: "get_weather", description, parameters, execute: getWeather })],
  });
  const runner = new Runner();
  const first = await runner.run(agent, question);
  const second = await runner.run(agent, [...first.history, { role: "user", content: secondQuestion }]);
  const streamed = await runner.run(agent, question, { stream: true });
  const events = await collect(streamed);
  await streamed.completed;
  return {
    called,
    answers: [first.finalOutput, second.finalOutput],
    items: first.newItems.map(({ type }) => type),
    deltas: events
      .filter(({ type, data }) => type === "raw_model_stream_event" && data.type === "output_text_delta")
      .map(({ data }) => data.delta),
    streamed: streamed.finalOutput,
    streamed_items: streamed.newItems.map(({ type }) => type),
    tokens: first.state.usage.outputTokens,
  };
}
