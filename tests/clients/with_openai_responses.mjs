// The official Node client's `responses`, in the ways it has of sending one request.
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { City } from "./city.mjs";
import { collect, connect } from "./with_openai.mjs";

export async function respond(url, body) {
  const { responses } = connect(url);
  const runner = responses.stream(body);
  const events = await collect(runner);
  const plain = await responses.create(body);
  return {
    plain,
    text: plain.output_text,
    events: await collect(await responses.create({ ...body, stream: true })),
    runner: events.map(({ type }) => type),
    final: await runner.finalResponse(),
  };
}

export async function parse(url, body) {
  const { responses } = connect(url);
  const request = { ...body, text: { format: zodTextFormat(City, "City") } };
  const runner = responses.stream(request);
  const events = await collect(runner);
  const plain = await responses.parse(request);
  return {
    plain: plain.output_parsed,
    text: plain.output_text,
    streamed: (await runner.finalResponse()).output_parsed,
    events: events.map(({ type }) => type),
  };
}

// A call of the tool `City`, whose arguments are the schema's fields, and the answer to what it returned.
export async function call(url, body) {
  const { responses } = connect(url);
  const asked = { ...body, tools: [zodResponsesFunction({ name: "City", parameters: City })] };
  const runner = responses.stream(asked);
  const events = await collect(runner);
  const plain = await responses.create(asked);
  const result = { type: "function_call_output", call_id: plain.output.at(-1).call_id, output: "ok" };
  const input = [...body.input, ...plain.output, result];
  return {
    plain,
    parsed: await responses.parse(asked),
    events: events.map(({ type }) => type),
    final: await runner.finalResponse(),
    answer: (await responses.create({ ...asked, input, tool_choice: "auto" })).output_text,
  };
}

export async function fail(url, body) {
  const raised = [];
  for (const stream of [false, true])
    await connect(url).responses.create({ ...body, stream }).catch((error) =>
      raised.push([error.constructor.name, error.status, error.param, error.code]),
    );
  return { raised };
}
