/** Where conversations stay: in this browser's IndexedDB, the same in all its tabs, and in files for other places. */

import { path, textOf } from "./conversation.js";

const STORE = "conversations";
const FORMAT = { format: "chinese-llama-alpaca-2 conversations", version: 1 };
const CONVERSATION = { id: "", mode: "", title: "", created: 0, changed: 0, system: "", params: {}, messages: {} };
const MESSAGE = { id: "", role: "", content: "" };

/**
 * Opens the storage. Gives `all()`, `put(conversation)` and `remove(id)`, which return promises, and `onChange(f)`: `f`
 * gets the conversation that another tab has saved, or `{id, isRemoved: true}`. Where the browser has no storage, `all`
 * gives none and `put` fails.
 */
export async function openStorage() {
  const channel = new BroadcastChannel("alpaca-page");
  const opening = indexedDB.open("alpaca-page", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
  const database = await promised(opening).catch(() => null);
  const run = async (mode, f) => {
    const transaction = database.transaction(STORE, mode);
    const operation = promised(f(transaction.objectStore(STORE)));
    transaction.commit(); // at once: a page that is being left sees no callbacks any more
    return operation;
  };
  const write = (f, told) => run("readwrite", f).then(() => channel.postMessage(told));
  return {
    all: () => run("readonly", (store) => store.getAll()).catch(() => []),
    put: (conversation) => write((store) => store.put(conversation), conversation),
    remove: (id) => write((store) => store.delete(id), { id, isRemoved: true }),
    onChange: (f) => channel.addEventListener("message", ({ data }) => f(data)),
  };
}

const promised = (operation) => new Promise((resolve, reject) => {
  operation.onsuccess = () => resolve(operation.result);
  operation.onerror = () => reject(operation.error);
});

/** Writes conversations as the text of a file. */
export const toFile = (conversations) => JSON.stringify({ ...FORMAT, conversations }, null, 1);

/** Reads the conversations of such a file. Throws an Error whose message is a key of words.js if it is none. */
export async function fromFile(file) {
  const found = await new Response(file).json().catch(() => null);
  if (found?.format !== FORMAT.format || !Array.isArray(found.conversations)) throw new Error("import.no_file");
  if (found.version !== FORMAT.version) throw new Error("import.other_version");
  if (!found.conversations.every(isConversation)) throw new Error("import.damaged");
  return found.conversations;
}

function isConversation(found) {
  if (!hasShape(found, CONVERSATION) || !["chat", "completion"].includes(found.mode)) return false;
  const { leaf, messages } = found;
  const isMessage = ([id, message]) => (
    hasShape(message, MESSAGE) && message.id === id && ["user", "assistant"].includes(message.role)
    && Array.isArray(message.choices ?? []) && (message.choices ?? []).every((each) => hasShape(each, { text: "" })));
  const ends = [leaf, ...Object.keys(messages)];
  return Object.entries(messages).every(isMessage) && ends.every((id) => endsAtRoot(messages, id));
}

function hasShape(value, shape) {
  const typeOf = (each) => (each === null || Array.isArray(each) ? null : typeof each);
  return typeOf(value) === "object" && Object.keys(shape).every((name) => typeOf(value[name]) === typeof shape[name]);
}

/** Whether the way up from a message ends: a file could name a message as its own ancestor, or an unknown parent. */
function endsAtRoot(messages, id) {
  const seen = new Set();
  let at = id;
  for (; Object.hasOwn(messages, at) && !seen.has(at); at = messages[at].parent) seen.add(at);
  return at === null;
}

/** Writes the shown branch of a conversation as Markdown; `names` are those of its speakers by role. */
export function toMarkdown(conversation, names) {
  const said = path(conversation).filter(({ content }) => content);
  if (conversation.mode === "completion") return textOf(said);
  const system = conversation.system ? [`> ${conversation.system.replaceAll("\n", "\n> ")}`] : [];
  const parts = said.map(({ role, content }) => `## ${names[role]}\n\n${content}`);
  return `${[`# ${conversation.title}`, ...system, ...parts].join("\n\n")}\n`;
}
