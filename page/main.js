/** The start of the page: the app that its parts share, and how they are wired to each other and to the reader. */

import { createAsking, createComposer, createRawEditor } from "./composer.js";
import { addMessage, editText, newConversation, path, textOf, toMessages } from "./conversation.js";
import { $, copyText, debounce, element, fill, iconButton, onKeys, textButton } from "./dom.js";
import { createParameters } from "./parameters.js";
import { countTokens, createPrompt } from "./prompt.js";
import { createRequest } from "./request.js";
import { hasKey, onFailure, request, setKey } from "./server.js";
import { fromFile, openStorage, toFile, toMarkdown } from "./storage.js";
import { createThread, openEditor } from "./thread.js";
import { errorText, language, onLanguage, setLanguage, t } from "./words.js";

const SHOWN = "alpaca-page.shown", THEME = "alpaca-page.theme";
const PANELS = ["parameters", "prompt", "request"];
const LONGEST_WAIT_SECONDS = 15, NOTICE_MS = 6000, SAVE_SOON_MS = 400;
const WORDS = { word: "textContent", placeholder: "placeholder", label: "ariaLabel", title: "title" };
const wide = matchMedia("(min-width: 900px)");
const dark = matchMedia("(prefers-color-scheme: dark)");
const listeners = {};
const conversations = new Map();
const [removed, unsaved] = [new WeakSet(), new Set()];
let [parameters, isConnecting] = [null, false];

showTheme();
translate();
const storage = await openStorage();
const saveAll = () => { unsaved.forEach((each) => app.save(each)); unsaved.clear(); };
const saveLater = debounce(saveAll, SAVE_SOON_MS);
const hideNotice = debounce(() => fill($("notice")), NOTICE_MS);

/** What the parts of the page share: the conversation, what is asked, and what each may ask of the others. */
const app = {
  model: null,
  conversation: newConversation(),
  run: null,
  isLoading: true,
  retries: new WeakMap(),
  get draft() { return app.conversation.mode === "completion" ? raw.text : composer.text; },
  get parameters() { return app.conversation.params; },
  messages() {
    const isTyped = app.conversation.mode === "chat" && composer.text.trim();
    return [...toMessages(app.conversation), ...(isTyped ? [{ role: "user", content: composer.text }] : [])];
  },
  on: (name, f) => (listeners[name] ??= []).push(f),
  emit: (name, value) => listeners[name]?.forEach((f) => f(value)),
  /** Asks a question at the end of the shown branch, or again what stands there. */
  ask(text) {
    const { conversation } = app;
    const last = conversation.messages[conversation.leaf];
    const above = last?.role === "assistant" && !last.content ? last.parent : conversation.leaf;
    const question = text === undefined ? above : addMessage(conversation, above, "user", text).id;
    thread.follow();
    return app.answer(addMessage(conversation, question, "assistant", ""));
  },
  /** Asks for another answer, beside this one. */
  regenerate: (message) => app.answer(addMessage(app.conversation, message.parent, "assistant", "")),
  /** Makes a sibling of a message with this text, and goes on from it: an answer is continued, a question asked. */
  branch(id, content, { goOn = true } = {}) {
    const { parent, role } = app.conversation.messages[id];
    const sibling = addMessage(app.conversation, parent, role, content);
    if (!goOn) return app.change(() => {});
    return role === "user" ? app.ask() : app.answer(sibling);
  },
  /** Changes the conversation by `f`, saves and shows it; with a text, a notice offers to take the change back. */
  change(f, text, conversation = app.conversation) {
    const { messages, leaf } = text ? structuredClone(conversation) : {};
    f(conversation);
    app.save(conversation);
    app.emit("conversation");
    const putBack = () => Object.assign(conversation, { messages: { ...messages, ...conversation.messages }, leaf });
    if (text) app.say(text, () => app.change(putBack, "", conversation));
  },
  async save(conversation = app.conversation) {
    if (removed.has(conversation) || (!conversation.leaf && !conversations.has(conversation.id))) return;
    conversation.changed = Date.now();
    conversations.set(conversation.id, conversation);
    drawList();
    await storage.put(conversation).catch(() => app.say(t("storage.failed")));
  },
  saveSoon() { unsaved.add(app.conversation); saveLater(); },
  /** Waits while the model loads, until `signal` ends that. */
  whenLoaded: (signal) => app.isLoading && new Promise((resolve, reject) => {
    app.on("model", resolve);
    signal.addEventListener("abort", () => reject(signal.reason));
  }),
  showField: (name) => { showPanel("parameters"); parameters?.focusField(name); },
  showRequest(message) { requests.show(message); showPanel("request"); },
  openCompletion(text) { startNew("completion"); app.change((conversation) => editText(conversation, text)); },
  editLast: () => thread.edit(path(app.conversation).findLast(({ role }) => role === "user")),
  copy: (text) => copyText(text).then(() => app.say(t("message.copied")), (error) => app.say(error.message)),
  /** Says something for a while, with a button that takes it back by `undo`. */
  say(text, undo) {
    const button = undo && textButton(t("bar.undo"), () => { fill($("notice")); undo(); }, { class: "link" });
    (document.querySelector("dialog[open]") ?? document.body).append(fill($("notice"), text, button));
    hideNotice();
  },
};
Object.assign(app, createAsking(app));
const thread = createThread(app);
const composer = createComposer(app);
const raw = createRawEditor(app);
app.goOn = raw.goOn;
const prompt = createPrompt(app);
const requests = createRequest(app);
$("panel-prompt").append(prompt.node);
$("panel-request").append(requests.node);

/* The conversation that is shown. */

function open(conversation) {
  app.conversation = conversation;
  sessionStorage.setItem(SHOWN, conversation.id);
  parameters?.set(conversation.params);
  requests.show(null);
  thread.forget();
  thread.follow();
  app.emit("conversation");
  $("drawer").close();
  $(conversation.mode === "chat" ? "question" : "raw-text").focus();
}

const startNew = (mode) => open(newConversation(mode, { ...app.parameters }));

app.on("conversation", () => {
  const { title, mode, leaf, system } = app.conversation;
  const isRaw = mode === "completion";
  document.title = [title, $("model").textContent].filter(Boolean).join(" · ");
  $("raw").hidden = $("raw-tools").hidden = !isRaw;
  $("question").hidden = $("system").hidden = $("hint").hidden = isRaw;
  $("save-markdown").hidden = !leaf;
  if ($("system-text").value !== system) $("system-text").value = system;
  $("welcome").hidden = isRaw || Boolean(leaf);
  $("about").textContent = app.model && t("welcome.text", app.model);
  composer.show();
  raw.show();
  thread.show();
  drawList();
});
app.on("list", drawList);
app.on("run", ({ error }) => {
  $("announcement").textContent = error ? "" : t(app.run ? "status.began" : "status.ended"); // an error is an alert
  app.emit("conversation");
});
app.on("answer", (message) => { if (app.conversation.mode === "completion") raw.show(); thread.update(message); });

const measure = debounce(async () => {
  const counted = app.model && await countTokens(app).catch(() => null);
  $("gauge").hidden = !counted;
  $("gauge").textContent = counted && `${counted.ids.length} / ${counted.max_model_len}`;
}, 200);
["draft", "conversation", "model"].forEach((name) => app.on(name, measure));

/* The list of conversations, by day. */

function dayOf(time) {
  const days = Math.round((new Date(time).setHours(0, 0, 0, 0) - new Date().setHours(0, 0, 0, 0)) / 864e5);
  return new Intl.RelativeTimeFormat(language(), { numeric: "auto" }).format(days, "day");
}

function drawList() {
  const wanted = $("search").value.trim().toLowerCase();
  if ($("chat-list").querySelector(".editor:focus")) return; // a title is being written
  const has = ({ title, messages }) => (
    !wanted || (title + textOf(Object.values(messages))).toLowerCase().includes(wanted));
  const days = {};
  const found = [...conversations.values()].filter(has).sort((one, other) => other.changed - one.changed);
  found.forEach((each) => (days[dayOf(each.changed)] ??= []).push(toEntry(each)));
  const none = element("p", { class: "panel-note", text: t(wanted ? "chats.none_found" : "chats.none") });
  const sections = Object.entries(days).map(([day, entries]) => (
    element("section", {}, element("h2", { text: day }), element("ul", {}, entries))));
  fill($("chat-list"), sections, !found.length && none);
}

function toEntry(conversation) {
  const title = conversation.title || t("chats.untitled");
  const isShown = conversation.id === app.conversation.id;
  const entry = element("li", {},
    textButton(title, () => open(conversation), { class: "entry", title, "aria-current": isShown }),
    iconButton("pen", t("chats.rename"), () => rename(entry, conversation)),
    iconButton("delete", t("message.delete"), () => remove(conversation)));
  return entry;
}

const rename = (entry, conversation) => openEditor(entry, conversation.title, t("message.save"), (title) => {
  fill(entry);
  if (title.trim()) app.save(Object.assign(conversation, { title: title.trim() }));
  drawList();
}, "enter");

/** Takes a conversation out of the list; what still comes of an answer that is stopped does not bring it back. */
function forget(conversation) {
  if (app.run?.conversation === conversation) app.stop();
  removed.add(conversation);
  conversations.delete(conversation.id);
  if (conversation === app.conversation) startNew("chat");
  drawList();
}

function remove(conversation) {
  forget(conversation);
  storage.remove(conversation.id).catch(() => app.say(t("storage.failed")));
  app.say(t("bar.deleted"), () => { removed.delete(conversation); app.save(conversation); });
}

/** Takes a conversation as a file or another tab has it; of one that is being answered here, only what is new in it. */
function adopt(changed) {
  const known = conversations.get(changed.id);
  const isAnswered = known && app.run?.conversation === known;
  if (isAnswered) known.messages = { ...changed.messages, ...known.messages };
  else conversations.set(changed.id, changed);
  if (!isAnswered && changed.id === app.conversation.id) app.conversation = changed;
  app.emit(app.conversation === changed ? "conversation" : "list");
}

storage.onChange((changed) => {
  const known = conversations.get(changed.id);
  if (!changed.isRemoved) adopt(changed);
  else if (known) forget(known);
});

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(URL.revokeObjectURL, NOTICE_MS, url);
}

async function importFile() {
  try {
    const found = await fromFile($("import-file").files[0]);
    const newer = found.filter(({ id, changed }) => !(conversations.get(id)?.changed >= changed));
    newer.forEach(adopt);
    await Promise.all(newer.map(storage.put));
    app.say(t("import.done", { count: newer.length }));
  } catch (error) {
    app.say(t(error.message));
  }
  $("import-file").value = "";
}

/* The sides: columns of a wide window, dialogs of a narrow one. */

function toggleSide(id) {
  $(id).hidden = wide.matches && !$(id).hidden;
  if (wide.matches) return;
  Object.assign($("drawer"), { className: id, ariaLabel: t(`${id}.title`) });
  $("drawer").append($(id));
  if (!$("drawer").open) $("drawer").showModal();
}

const showSide = (id) => $(id).clientWidth || toggleSide(id);

function showPanel(name) {
  for (const each of PANELS) {
    $(`panel-${each}`).hidden = each !== name;
    Object.assign($(`tab-${each}`), { ariaSelected: each === name, tabIndex: each === name ? 0 : -1 });
  }
  showSide("panels");
  if (name === "prompt") prompt.update();
}

/* The server: whether it is there, loads, wants a key; what it serves. */

/** Waits until the server is there and its model has loaded: asks after 1, 2, 4 … 15 s, or each second. */
async function connect() {
  if (isConnecting) return;
  isConnecting = true;
  let wait = 1;
  const check = () => request("health").then(learn).then(() => null, (error) => error);
  for (let failure = await check(); failure && failure.status !== 401; failure = await check()) {
    showFailure(failure);
    await new Promise((resolve) => { $("retry").onclick = resolve; setTimeout(resolve, wait * 1000); });
    wait = failure.status ? 1 : Math.min(wait * 2, LONGEST_WAIT_SECONDS);
  }
  isConnecting = false;
}

/** Asks what is served, and takes the parameters and the default system text from the server's own answers. */
async function learn() {
  const sampling = request("tokenize", { body: { messages: "" } }).catch(() => null); // there may be no template
  const [models, schema, sample] = await Promise.all([request("v1/models"), request("openapi.json"), sampling]);
  [app.model] = models.data;
  $("model").textContent = app.model.id;
  $("system-text").placeholder = sample?.prompt.match(/<<SYS>>\s*([\s\S]*?)\s*<<\/SYS>>/)?.[1] ?? "";
  parameters = createParameters(app, schema, (values) => {
    app.conversation.params = values;
    app.saveSoon();
    app.emit("parameters");
  });
  parameters.set(app.conversation.params);
  fill($("panel-parameters"), parameters.node);
  showFailure(null);
  app.emit("model");
  app.emit("conversation");
}

function showFailure(failure) {
  app.isLoading = failure?.code === "server_loading";
  $("state").hidden = !failure;
  $("state").firstChild.textContent = failure && errorText(failure);
  $("retry").hidden = Boolean(failure?.status);
}

onFailure((failure) => {
  if (["unreachable", "server_loading"].includes(failure.code)) connect();
  if (failure.status !== 401 || $("key-dialog").open) return;
  app.model = null; // nothing is asked by itself until there is a key
  showFailure(failure);
  $("key-error").textContent = hasKey() ? t("key.wrong") : "";
  $("key-dialog").showModal();
});

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key").value.trim(), $("remember-key").checked);
  $("key").value = "";
  $("key-dialog").close();
  connect();
});

/* Words, colours, keys. */

function translate() {
  document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";
  for (const [name, property] of Object.entries(WORDS)) {
    for (const node of document.querySelectorAll(`[data-${name}]`)) node[property] = t(node.dataset[name]);
  }
}

function showTheme() {
  document.documentElement.dataset.theme = localStorage.getItem(THEME) ?? (dark.matches ? "dark" : "light");
}

onKeys(document, {
  escape: () => (app.run && !$("drawer").open ? app.stop() : false),
  "control+shift+o": () => startNew("chat"),
  "control+k"() { showSide("chats"); $("search").focus(); },
});

const clicks = {
  "new-chat": () => startNew("chat"),
  "new-completion": () => startNew("completion"),
  export: () => download("conversations.json", "application/json", toFile([...conversations.values()])),
  import: () => $("import-file").click(),
  "save-markdown": () => download(`${app.conversation.title}.md`, "text/markdown", toMarkdown(app.conversation,
    { user: t("thread.user"), assistant: t("thread.assistant") })),
  "toggle-chats": () => toggleSide("chats"),
  "toggle-panels": () => toggleSide("panels"),
  drawer: ({ target }) => target === $("drawer") && $("drawer").close(),
  examples: ({ target }) => target.matches("button") && app.ask(target.textContent),
  gauge: () => showPanel("prompt"),
  language: () => setLanguage(language() === "zh" ? "en" : "zh"),
  theme() {
    localStorage.setItem(THEME, document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    showTheme();
  },
};
Object.entries(clicks).forEach(([id, f]) => $(id).addEventListener("click", f));
PANELS.forEach((name, at) => {
  const goTo = (next) => { showPanel(PANELS[next % PANELS.length]); $(`tab-${PANELS[next % PANELS.length]}`).focus(); };
  $(`tab-${name}`).addEventListener("click", () => { requests.show(null); showPanel(name); });
  onKeys($(`tab-${name}`), { arrowright: () => goTo(at + 1), arrowleft: () => goTo(at + PANELS.length - 1) });
});
$("search").addEventListener("input", drawList);
$("import-file").addEventListener("change", importFile);
$("drawer").addEventListener("close", () => { document.body.prepend($("chats")); $("drawer").before($("panels")); });
$("system-text").addEventListener("input", () => {
  app.conversation.system = $("system-text").value;
  app.saveSoon(); app.emit("draft");
});
onLanguage(() => { translate(); open(app.conversation); });
dark.addEventListener("change", showTheme);
wide.addEventListener("change", () => $("drawer").close());
const saveNow = () => { if (app.run) unsaved.add(app.run.conversation); saveAll(); };
["beforeunload", "pagehide"].forEach((leaving) => addEventListener(leaving, saveNow)); // pagehide may be too late

$("panels").hidden = !matchMedia("(min-width: 1200px)").matches;
(await storage.all()).forEach((each) => conversations.set(each.id, each));
open(conversations.get(sessionStorage.getItem(SHOWN)) ?? newConversation());
connect();
