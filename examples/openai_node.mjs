// The server by OpenAI's client for Node.
//
// Start the server with `make serve`, and then, in another terminal:
//
//     npm install openai
//     node examples/openai_node.mjs
import OpenAI from "openai";

const model = process.env.MODEL ?? "chinese-llama-alpaca-2";
const client = new OpenAI({
  baseURL: process.env.BASE_URL ?? "http://localhost:8000/v1",
  apiKey: process.env.API_KEY ?? "none", // any text, unless the server has --api-key
});

// One question, one answer. Temperature 0 takes the likeliest token each time: the same answer every time.
console.log("== One answer");
const reply = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "中国的首都是哪里？" }],
  temperature: 0,
});
console.log(reply.choices[0].message.content);
console.log("tokens:", reply.usage.total_tokens);

// A conversation. The server remembers nothing: all that was said is sent with each question.
console.log("== A conversation, piece by piece");
const messages = [{ role: "system", content: "你是一个乐于助人的助手。" }];
for (const question of ["给我讲一些有关杭州的故事吧", "我比较喜欢西湖，可以给我讲一下西湖吗"]) {
  process.stdout.write(`问：${question}\n答：`);
  messages.push({ role: "user", content: question });
  let answer = "";
  // A stream brings the answer as it is generated, some characters at a time.
  for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
    const piece = chunk.choices[0].delta.content ?? "";
    answer += piece;
    process.stdout.write(piece);
  }
  process.stdout.write("\n");
  messages.push({ role: "assistant", content: answer });
}

// What OpenAI's own API does not have is one more field: here a beam search, of which two results are returned.
console.log("== Beam search");
const found = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "告诉我中国的首都在哪里" }],
  n: 2,
  num_beams: 4,
});
for (const choice of found.choices) console.log(choice.index + 1, choice.message.content);

// A request that cannot be answered is an error that says which field is at fault.
console.log("== An error");
try {
  await client.chat.completions.create({
    model,
    messages: [{ role: "user", content: "你好" }],
    temperature: 9,
  });
} catch (error) {
  console.log(error.param, "-", error.message);
}
