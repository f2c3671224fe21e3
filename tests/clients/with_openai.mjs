// The official Node client, in the ways it has of sending one request.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { City } from "./city.mjs";

const withUsage = { stream: true, stream_options: { include_usage: true } };

export const connect = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });

export async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

export async function chat(url, body) {
  const { completions } = connect(url).chat;
  const runner = completions.stream({ ...body, stream_options: { include_usage: true } });
  const events = [];
  for (const event of ["chunk", "content.delta", "content.done", "logprobs.content.done", "end"])
    runner.on(event, () => events.push(event));
  const { data, response } = await completions.create(body).withResponse();
  return {
    plain: await completions.create(body),
    raw: data,
    type: response.headers.get("content-type"),
    chunks: await collect(await completions.create({ ...body, ...withUsage })),
    final: await runner.finalChatCompletion(),
    events,
  };
}

// Streams that show their beams too, in events that OpenAI's API does not have.
export async function beams(url, body) {
  const { completions } = connect(url).chat;
  const asked = { ...body, stream_options: { include_usage: true, include_beams: true } };
  const runner = completions.stream(asked);
  const events = [];
  runner.on("content.delta", () => events.push("content.delta"));
  return {
    plain: await completions.create(body),
    chunks: await collect(await completions.create({ ...asked, stream: true })),
    final: await runner.finalChatCompletion(),
    events,
  };
}

export async function complete(url, body) {
  const { completions } = connect(url);
  return {
    plain: await completions.create(body),
    chunks: await collect(await completions.create({ ...body, ...withUsage })),
  };
}

export async function models(url, { model }) {
  const client = connect(url);
  return { listed: await collect(client.models.list()), one: await client.models.retrieve(model) };
}

export async function fail(url, body) {
  const raised = [];
  for (const stream of [false, true])
    await connect(url).chat.completions.create({ ...body, stream }).catch((error) =>
      raised.push([error.constructor.name, error.status, error.param, error.code]),
    );
  return { raised };
}

export async function parse(url, body) {
  const { completions } = connect(url).chat;
  const request = { ...body, response_format: zodResponseFormat(City, "City") };
  return {
    plain: await completions.parse(request),
    streamed: await completions.stream(request).finalChatCompletion(),
  };
}

// A call of the tool `City`, whose arguments are the schema's fields, and the answer to what it returned.
export async function call(url, body) {
  const { completions } = connect(url).chat;
  const asked = { ...body, tools: [zodFunction({ name: "City", parameters: City })] };
  const runner = completions.stream(asked);
  const events = [];
  const event = "tool_calls.function.arguments.done";
  runner.on(event, () => events.push(event));
  const plain = await completions.create(asked);
  const { message } = plain.choices[0];
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "ok" };
  return {
    plain,
    parsed: await completions.parse(asked),
    chunks: await collect(await completions.create({ ...asked, stream: true })),
    events,
    final: await runner.finalChatCompletion(),
    answer: await completions.create({ ...asked, messages: [...body.messages, message, result], tool_choice: "auto" }),
  };
}
