/** Where one asks: the composer of a chat, the editor of a raw text, and the one answer that runs. */

import { addMessage, editText, path, setParts, textOf, toMessages } from "./conversation.js";
import { $, element, fill, onKeys, textButton } from "./dom.js";
import { pathOf, toBody } from "./request.js";
import { stream } from "./server.js";
import { createChoices, errorView, figures } from "./thread.js";
import { t } from "./words.js";

const SAVE_MS = 2000, MOST_RETRIES = 5;

/**
 * Makes what asks the server. `answer(message)` fills an assistant's message, from the end of what it already says, and
 * returns a promise of its end; `stop()` ends the running one and keeps what has come. While an answer runs, `app.run`
 * is `{message, conversation}`, and `app.emit("answer", message)` tells once a frame that it has grown.
 */
export function createAsking(app) {
  const stop = () => app.run?.controller.abort();
  const answer = async (message) => {
    stop();
    const { conversation } = app;
    const controller = new AbortController();
    const run = { message, conversation, controller, before: message.content, choices: [], beams: [] };
    for (const name of ["error", "choices", "usage", "timing", "finish", "ignored"]) delete message[name];
    app.run = run;
    app.emit("run", message);
    app.save(conversation);
    const saving = setInterval(() => app.save(conversation), SAVE_MS);
    try {
      await app.whenLoaded(controller.signal);
      await receive(app, run);
    } catch (error) {
      if (error.name === "AbortError") message.finish = "stopped";
      else message.error = toFailure(app, message, error);
    }
    clearInterval(saving);
    settle(run);
    if (app.run === run) app.run = null;
    app.emit("run", message);
    await app.save(conversation);
  };
  return { answer, stop };
}

/** Asks for the answer of a run and takes what comes of it; a frame is painted at most once. */
async function receive(app, run) {
  const { message, conversation, controller: { signal } } = run;
  const isRaw = conversation.mode === "completion";
  const said = isRaw ? textOf(path(conversation, message.id)) : toMessages(conversation, message.id);
  let frame = 0;
  message.request = toBody(said, app.parameters, app.model?.id);
  run.began = performance.now();
  const onHeaders = (headers) => {
    const ignored = headers.get("X-Ignored-Parameters");
    if (ignored) message.ignored = decodeURIComponent(ignored);
  };
  const onEvent = (event) => {
    take(run, event);
    frame ||= requestAnimationFrame(() => { frame = 0; app.emit("answer", message); });
  };
  await stream(pathOf(message.request), message.request, { signal, onHeaders, onEvent });
}

/** Takes an event: texts of choices, beams that are searched, the usage. */
function take(run, event) {
  const { message, choices, before } = run;
  for (const { index, delta, text = delta?.content, finish_reason: finish } of event.choices) {
    while (choices.length <= index) choices.push({ text: before, finish: null });
    choices[index].text += text ?? "";
    choices[index].finish ??= finish;
  }
  run.beams = event.beams?.map(({ text, score, finish_reason: finish }) => ({ text: before + text, score, finish }))
    ?? run.beams;
  message.usage = event.usage ?? message.usage;
  const shown = run.beams.length ? run.beams : choices;
  message.content = shown[0]?.text ?? before;
  if (shown.length > 1) message.choices = shown;
  if (message.content !== before) run.first ??= performance.now();
}

/** Settles an answer that has ended: its final texts, with their scores and the finished beams that lost. */
function settle({ message, choices, beams, began, first }) {
  if (first) message.timing = { first: first - began, total: performance.now() - began };
  if (!choices.length || choices.some(({ finish }) => !finish)) return;
  const final = choices.map((each) => ({ ...each, score: beams.find(({ text }) => text === each.text)?.score }));
  const lost = beams.filter(({ text, finish }) => finish && choices.every((each) => each.text !== text));
  Object.assign(message, { content: final[0].text, finish: final[0].finish, choices: [...final, ...lost] });
  if (message.choices.length < 2) delete message.choices;
}

/** What a message keeps of a failure; where that says when to ask again, the page does so, some times in a row. */
function toFailure(app, asked, { message, status, code, param, requestId, retryAfter }) {
  const count = (app.retries.get(asked)?.count ?? 0) + 1;
  if (status !== 503 || !retryAfter || count > MOST_RETRIES) app.retries.delete(asked);
  else app.retries.set(asked, { count, at: Date.now() + retryAfter * 1000 });
  return { message, status, code, param, requestId };
}

/**
 * Makes the composer: Enter asks, Shift+Enter breaks the line, ↑ in an empty one edits the last question. `text` is
 * what stands in it; `show()` draws it for whether an answer runs.
 */
export function createComposer(app) {
  const [area, send] = [$("question"), $("send")];
  const write = (text) => {
    area.value = text;
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
    app.emit("draft");
  };
  const ask = () => {
    const text = area.value;
    if (app.run || !text.trim()) return;
    write("");
    app.ask(text);
  };
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (app.run) app.stop();
    else (app.conversation.mode === "completion" ? app.goOn : ask)();
  });
  area.addEventListener("input", () => write(area.value));
  onKeys(area, { enter: ask, "control+enter": ask, arrowup: () => (area.value ? false : app.editLast()) });
  const show = () => {
    const label = t(app.run ? "composer.stop" : "composer.send");
    Object.assign(send, { title: label, ariaLabel: label, className: app.run ? "is-stop" : "" });
    send.querySelector("use").setAttribute("href", app.run ? "#icon-stop" : "#icon-up");
  };
  return { show, get text() { return area.value; } };
}

/**
 * Makes the editor of a raw text, over a mirror that shows who has written what. `goOn()` lets the model write on at
 * the end, and a button takes its last text back; `show()` draws the conversation.
 */
export function createRawEditor(app) {
  const [area, undo] = [$("raw-text"), $("raw-undo")];
  const before = new Map();
  const columns = createChoices(app);
  $("raw-choices").append(columns.node);
  const show = () => {
    const parts = app.conversation.mode === "completion" ? path(app.conversation) : [];
    const last = parts.at(-1);
    const isRunning = app.run?.conversation === app.conversation;
    if (area.value !== textOf(parts)) area.value = textOf(parts);
    area.readOnly = isRunning;
    undo.disabled = isRunning || !before.get(app.conversation.id)?.length;
    const spans = parts.map(({ role, content }) => element("span", { class: `by-${role}`, text: content }));
    fill($("raw-mirror"), spans, "\u200b");
    columns.update(last, isRunning);
    const request = last?.request && textButton(t("message.request"), () => app.showRequest(last), { class: "link" });
    fill($("raw-figures"), last?.error && !isRunning ? errorView(app, last) : last && figures(last), " ", request);
  };
  const goOn = () => {
    const { conversation } = app;
    if (app.run) return;
    before.set(conversation.id, [...before.get(conversation.id) ?? [], structuredClone(path(conversation))]);
    app.answer(addMessage(conversation, conversation.leaf, "assistant", ""));
  };
  undo.addEventListener("click", () => {
    app.change((conversation) => setParts(conversation, before.get(conversation.id).pop()));
    area.focus();
  });
  area.addEventListener("input", () => {
    editText(app.conversation, area.value);
    app.saveSoon();
    show();
    app.emit("draft");
  });
  onKeys(area, { "control+enter": goOn });
  return { show, goOn, get text() { return area.value; } };
}
