// The AI SDK's `openai()`, which asks `/v1/responses`.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { readFailures, readObject } from "./ai_sdk.mjs";
import { called, description, getWeather, parameters, question, secondQuestion } from "./weather.mjs";

const request = (url, { model, ...settings }) => ({
  model: createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" })(model),
  maxRetries: 0,
  temperature: 0,
  ...settings,
});

export async function text(url, settings) {
  const { text, finishReason, usage } = await generateText(request(url, settings));
  const errors = [];
  const stream = streamText({ ...request(url, settings), onError: ({ error }) => errors.push(String(error)) });
  const pieces = [];
  for await (const piece of stream.textStream) pieces.push(piece);
  return {
    plain: { text, finishReason, usage: usage.raw },
    streamed: { text: pieces.join(""), finishReason: await stream.finishReason, usage: (await stream.usage).raw },
    pieces: pieces.length,
    errors,
  };
}

export const object = (url, settings) => readObject(request(url, settings));

// Two turns, of which the second has the SDK's own messages of the first.
export async function turns(url, settings) {
  const asked = { role: "user", content: question };
  const first = await generateText({ ...request(url, settings), messages: [asked] });
  const messages = [asked, ...first.response.messages, { role: "user", content: secondQuestion }];
  return [first.text, (await generateText({ ...request(url, settings), messages })).text];
}

// A call that the SDK runs itself, and the answer to what it returned.
export async function steps(url, settings) {
  const tools = { get_weather: tool({ description, inputSchema: parameters, execute: getWeather }) };
  const asked = { ...request(url, settings), prompt: question, tools, stopWhen: stepCountIs(2) };
  const told = ({ text, finishReason, toolResults }) => [text, finishReason, toolResults.map(({ output }) => output)];
  const { steps } = await generateText(asked);
  const stream = streamText(asked);
  await stream.consumeStream();
  return { called, plain: steps.map(told), streamed: (await stream.steps).map(told) };
}

export const fail = (url, settings) => readFailures(request(url, settings));
