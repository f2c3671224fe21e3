/** A request as JSON, as a curl command and as Python for OpenAI's client: each does the same, as copied. */
import { debounce, element, fill, textButton } from "./dom.js";
import { hasKey, request, serverURL } from "./server.js";
import { addWords, errorText, onLanguage, t } from "./words.js";

/** Arguments that OpenAI's Python client has for both endpoints or must have; others go into its `extra_body`. */
const ARGUMENTS = ["model", "messages", "prompt", "stream", "stream_options", "frequency_penalty", "logit_bias",
  "max_tokens", "n", "presence_penalty", "seed", "stop", "temperature", "top_p"];
const FORMS = { JSON: (_url, _path, body) => JSON.stringify(body, null, 2), curl: toCurl, Python: toPython };

/**
 * Makes the body of a streamed request.
 * @param {{role: string, content: string}[] | string} messages a conversation, or the raw text of a completion
 * @param {object} values the fields that the user has changed
 * @param {string | undefined} model a served model's name
 * @returns {object} the body of `v1/chat/completions`, or of `v1/completions` for a text
 */
export function toBody(messages, values, model) {
  const asked = typeof messages === "string" ? { prompt: messages, raw: true } : { messages };
  const beams = (values.num_beams > 1 || values.use_beam_search) && { include_beams: true };
  const options = { include_usage: true, ...beams };
  return { ...(model && { model }), ...asked, ...values, stream: true, stream_options: options };
}

/** The path that a body is sent to. */
export const pathOf = (body) => ("prompt" in body ? "v1/completions" : "v1/chat/completions");

/**
 * Writes a request as a command for a POSIX shell. A key is named, never written.
 * @param {string} url where the paths begin, with a slash at its end
 */
export function toCurl(url, path, body, needsKey) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const head = [`curl -N ${quoted(url + path)}`, `-H ${quoted("Content-Type: application/json")}`];
  if (needsKey) head.push('-H "Authorization: Bearer $VLLM_API_KEY"');
  return [...head, `-d ${quoted(JSON.stringify(body, null, 2))}`].join(" \\\n  ");
}

/** Writes a request as a program for OpenAI's Python client, which prints the answer as it comes. */
export function toPython(url, path, body, needsKey) {
  const isChat = path === "v1/chat/completions";
  const fields = Object.entries(body).filter(([name]) => ARGUMENTS.includes(name));
  const extra = Object.entries(body).filter(([name]) => !ARGUMENTS.includes(name));
  if (extra.length) fields.push(["extra_body", Object.fromEntries(extra)]);
  const text = isChat ? "choice.delta.content" : "choice.text";
  const isMany = body.n > 1;
  return `${needsKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${url}v1", api_key=${needsKey ? 'os.environ["VLLM_API_KEY"]' : '"none"'})
stream = client.${isChat ? "chat.completions" : "completions"}.create(
${fields.map(([name, value]) => `    ${name}=${toLiteral(value)},\n`).join("")})
${isMany ? `texts = [""] * ${body.n}\n` : ""}for chunk in stream:
    for choice in chunk.choices:
        ${isMany ? `texts[choice.index] += ${text} or ""` : `print(${text} or "", end="", flush=True)`}
print(${isMany ? '"\\n\\n".join(texts)' : ""})
`;
}

const PYTHON = { true: "True", false: "False", null: "None", ",": ", ", ":": ": ", "},": "},\n        " };

/** Writes a JSON value as Python: the strings of JSON are Python's too, and only what is outside them differs. */
function toLiteral(value) {
  return JSON.stringify(value).replace(/"(?:[^"\\]|\\.)*"|true|false|null|\},|[,:]/g, (part) => PYTHON[part] ?? part);
}

/**
 * Makes the panel that shows a request in three forms.
 * @returns {{node: Element, show: (message: object | null) => void}} `show` takes an answer, to show what it was asked
 *   with, or null for the request that would be sent next, which is then kept up to date
 */
export function createRequest(app) {
  const node = element("section", { class: "panel request" });
  let [shown, form] = [null, "curl"];
  const draw = () => {
    const messages = app.messages();
    if (messages.at(-1)?.role !== "user") messages.push({ role: "user", content: t("request.example") });
    const asked = app.conversation.mode === "completion" ? app.draft : messages;
    const body = shown?.request ?? toBody(asked, app.parameters, app.model?.id);
    const code = FORMS[form](serverURL(""), pathOf(body), body, hasKey());
    const tabs = Object.keys(FORMS).map((name) => (
      textButton(name, () => { form = name; draw(); }, { class: "", "aria-pressed": name === form })));
    fill(node, element("p", { class: "panel-note", text: t(shown ? "request.of_answer" : "request.next") }),
      element("div", { class: "segments" }, tabs),
      element("pre", { class: "request-code", tabIndex: 0 }, element("code", { text: code })),
      element("div", { class: "panel-actions" }, textButton(t("message.copy"), () => app.copy(code)),
        "messages" in body && textButton(t("request.open"), () => openRaw(app, body))));
  };
  const follow = debounce(() => !shown && node.offsetParent && draw(), 200);
  for (const name of ["conversation", "draft", "model", "parameters"]) app.on(name, follow);
  onLanguage(draw);
  return { node, show: (message) => { shown = message; draw(); } };
}

/** Opens the exact prompt of a conversation as raw text; the token that begins a text comes of itself. */
async function openRaw(app, { model, messages }) {
  const reply = await request("tokenize", { body: { model, messages } }).catch((error) => app.say(errorText(error)));
  if (reply) app.openCompletion(reply.prompt.replace(/^<s>/, ""));
}

addWords("request", {
  open: ["在续写里打开", "Open as a completion"], example: ["你好", "Hello"],
  of_answer: ["得到这个回答的请求：", "The request that gave this answer:"],
  next: ["下一个请求：只含你改过的参数，复制即可运行。", "The next request: only what you changed; it runs as copied."],
});
