// The official Node client against the server at argv[2]: prints what it read as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const body = JSON.parse(process.argv[3]);

const began = performance.now();
const deltas = [];
const runner = client.chat.completions.stream({ ...body, stream: true });
runner.on("content", (delta) => deltas.push({ text: delta, at: performance.now() - began }));
const final = await runner.finalChatCompletion();
const seconds = performance.now() - began;

let joined = "";
for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
  if ((chunk.choices[0]?.index ?? 0) === 0) joined += chunk.choices[0]?.delta?.content ?? "";
}
const plain = await client.chat.completions.create(body);

console.log(JSON.stringify({ deltas, seconds, joined, final, plain }));
