// The Vercel AI SDK, which checks each reply and chunk against schemas of its own.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { readFailures, readObject } from "./ai_sdk.mjs";
import { City } from "./city.mjs";

const lookUp = { description: "Looks a city up.", inputSchema: City };
const tools = { City: tool(lookUp) };
const runningTools = { City: tool({ ...lookUp, execute: ({ name }) => name }) };

// `fields` are sent as they are, beside what the SDK sends of its own accord.
function request(url, { model, endpoint = "chatModel", fields = {}, withTools, ...settings }) {
  const provider = createOpenAICompatible({
    name: "demo",
    baseURL: `${url}/v1`,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
  return {
    model: provider[endpoint](model),
    maxRetries: 0,
    temperature: 0,
    providerOptions: { demo: fields },
    ...(withTools ? { tools } : {}),
    ...settings,
  };
}

export async function text(url, settings) {
  const { text, finishReason, usage, toolCalls } = await generateText(request(url, settings));
  const errors = [];
  const stream = streamText({ ...request(url, settings), onError: ({ error }) => errors.push(String(error)) });
  let joined = "";
  for await (const piece of stream.textStream) joined += piece;
  return {
    plain: { text, finishReason, usage: usage.raw, calls: toolCalls.map(({ input }) => input) },
    streamed: {
      text: joined,
      finishReason: await stream.finishReason,
      usage: (await stream.usage).raw,
      calls: (await stream.toolCalls).map(({ input }) => input),
    },
    errors,
  };
}

export const object = (url, settings) => readObject(request(url, settings));

// A forced call that the SDK runs itself, and the answer to what it returned.
export async function steps(url, settings) {
  const { steps } = await generateText({
    ...request(url, settings),
    tools: runningTools,
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "auto" }),
  });
  return steps.map(({ text, finishReason, toolResults }) => [text, finishReason, toolResults.map(({ output }) => output)]);
}

export const fail = (url, settings) => readFailures(request(url, settings));
