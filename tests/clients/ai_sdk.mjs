// What the AI SDK reads whichever of its providers is asked; `asked` are the settings of a call.
import { generateObject, generateText, streamObject, streamText } from "ai";
import { City } from "./city.mjs";

export async function readObject(asked) {
  const settings = { ...asked, schema: City };
  const stream = streamObject(settings);
  let streamed;
  for await (streamed of stream.partialObjectStream);
  return { plain: (await generateObject(settings)).object, streamed };
}

export async function readFailures(asked) {
  const raised = [];
  await generateText(asked).catch((error) => raised.push(error));
  await streamText({ ...asked, onError: ({ error }) => raised.push(error) }).consumeStream();
  return { raised: raised.map(({ name, statusCode, data }) => [name, statusCode, data?.error.param, data?.error.code]) };
}
