// LangChain.js: an agent whose model asks chat completions, or `/v1/responses`; a tool in the first of two turns.
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { createAgent } from "langchain";
import { called, description, getWeather, parameters, question, secondQuestion } from "./weather.mjs";

export async function turns(url, { model, ...settings }) {
  const agent = createAgent({
    model: new ChatOpenAI({
      model,
      apiKey: "none",
      configuration: { baseURL: `${url}/v1` },
      temperature: 0,
      maxRetries: 0,
      ...settings,
    }),
    tools: [tool(getWeather, { name: "get_weather", description, schema: parameters })],
    systemPrompt: "你是一个乐于助人的助手。",
  });
  const first = await agent.invoke({ messages: [{ role: "user", content: question }] });
  const second = await agent.invoke({
    messages: [...first.messages, { role: "user", content: secondQuestion }],
  });
  const pieces = [];
  const stream = await agent.stream({ messages: [{ role: "user", content: question }] }, { streamMode: "messages" });
  for await (const [message] of stream) if (message.type === "ai") pieces.push(message.text);
  return {
    called,
    types: first.messages.map(({ type }) => type),
    answers: [first, second].map(({ messages }) => messages.at(-1).text),
    pieces,
  };
}
