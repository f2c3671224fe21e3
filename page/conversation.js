/**
 * A conversation as a tree: each edit and each other answer is a sibling, and `leaf` says which branch is shown.
 * Nothing here knows of the page or of the server.
 */
import { newId } from "./dom.js";

const TITLE_LENGTH = 24;

/** Makes an empty conversation; `mode` is "chat", or "completion" for a raw text. */
export function newConversation(mode = "chat", params = {}) {
  const now = Date.now();
  return { id: newId(), mode, title: "", created: now, changed: now, system: "", params, leaf: null, messages: {} };
}

/** The messages from the first one to `leaf`. */
export function path(conversation, leaf = conversation.leaf) {
  const found = [];
  for (let at = conversation.messages[leaf]; at; at = conversation.messages[at.parent]) found.unshift(at);
  return found;
}

/** Adds a message below `parent` (null: as a first one) and shows it. The first question becomes the title. */
export function addMessage(conversation, parent, role, content) {
  const message = { id: newId(), parent, role, content, created: Date.now() };
  conversation.messages[message.id] = message;
  conversation.leaf = message.id;
  if (!conversation.title && role === "user") conversation.title = toTitle(content);
  return message;
}

const toTitle = (question) => Array.from(question.trim().replace(/\s+/g, " ")).slice(0, TITLE_LENGTH).join("");

/** The messages below `parent` (null: the first ones), oldest first; they are siblings. */
export const childrenOf = (conversation, parent) => (
  Object.values(conversation.messages).filter((each) => each.parent === parent));

/** Shows the newest branch through a message (null: the newest of all). */
export function selectBranch(conversation, id) {
  let leaf = id;
  for (let below = [{ id }]; below.length; below = childrenOf(conversation, leaf)) leaf = below.at(-1).id;
  conversation.leaf = leaf;
}

/** Removes a message and all below it; if it was shown, a sibling is shown next, or what stands above. */
export function removeBranch(conversation, id) {
  const { messages } = conversation;
  const { parent } = messages[id];
  const below = Object.keys(messages).filter((each) => path(conversation, each).includes(messages[id]));
  below.forEach((each) => delete messages[each]);
  if (!messages[conversation.leaf]) selectBranch(conversation, parent);
}

/** The conversation up to `leaf` as the API takes it; answers without text, such as failed ones, are left out. */
export function toMessages(conversation, leaf = conversation.leaf) {
  const said = path(conversation, leaf).filter(({ role, content }) => role === "user" || content);
  const system = conversation.system ? [{ role: "system", content: conversation.system }] : [];
  return [...system, ...said.map(({ role, content }) => ({ role, content }))];
}

/** Makes one of several answers the answer; the others become its siblings. */
export function chooseAnswer(conversation, message, index) {
  const { choices } = message;
  delete message.choices;
  choices.forEach(({ text, finish }, at) => {
    if (at === index) Object.assign(message, { content: text, finish });
    else if (text) Object.assign(addMessage(conversation, message.parent, "assistant", text), { finish });
  });
  selectBranch(conversation, message.id);
}

/** The text that messages are the parts of. */
export const textOf = (messages) => messages.map(({ content }) => content).join("");

/** Writes a raw text anew: what `text` shares with the text before keeps its author, the rest is the user's. */
export function editText(conversation, text) {
  const before = path(conversation);
  const old = textOf(before);
  const limit = Math.min(old.length, text.length);
  let [start, end, offset] = [0, 0, 0];
  while (start < limit && old[start] === text[start]) start += 1;
  while (end < limit - start && old.at(-1 - end) === text.at(-1 - end)) end += 1;
  const [head, tail] = [[], []];
  for (const { role, content } of before) {
    head.push({ role, content: content.slice(0, Math.max(start - offset, 0)) });
    tail.push({ role, content: content.slice(Math.max(old.length - end - offset, 0)) });
    offset += content.length;
  }
  setParts(conversation, [...head, { role: "user", content: text.slice(start, text.length - end) }, ...tail]);
  if (conversation.title === toTitle(old)) conversation.title = toTitle(text);
}

/** Makes a raw text of parts, each the user's or the model's; neighbours of one author are joined. */
export function setParts(conversation, parts) {
  Object.assign(conversation, { messages: {}, leaf: null });
  for (const { role, content } of parts.filter((part) => part.content)) {
    const last = conversation.messages[conversation.leaf];
    if (last?.role === role) last.content += content;
    else addMessage(conversation, conversation.leaf, role, content);
  }
}
