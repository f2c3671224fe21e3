/** The messages of a conversation: what they say, what can be done with each, and how the view scrolls with them. */

import { addMessage, childrenOf, chooseAnswer, path, removeBranch, selectBranch } from "./conversation.js";
import { $, element, fill, iconButton, onKeys, textButton } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { createProbabilities } from "./probabilities.js";
import { errorText, t } from "./words.js";

const END_PIXELS = 8;

/**
 * Makes the view of the app's conversation. `show()` shows another branch, `update(message)` what a message has gained,
 * `follow()` goes to the end and stays there, `edit(message)` opens its editor, `forget()` draws all anew at the next
 * `show()`.
 */
export function createThread(app) {
  const views = new Map();
  const { follow, stick } = createFollowing($("scroller"), $("latest"));
  const show = () => {
    const shown = app.conversation.mode === "chat" ? path(app.conversation) : [];
    const nodes = shown.map((message) => {
      if (!views.has(message.id)) views.set(message.id, newView(app));
      views.get(message.id).update(message);
      return views.get(message.id).node;
    });
    const { children } = $("thread");
    [...children].forEach((each) => nodes.includes(each) || each.remove());
    nodes.forEach((each, at) => each === children[at] || $("thread").insertBefore(each, children[at] ?? null));
    stick();
  };
  const update = (message) => { views.get(message.id)?.update(message); stick(); };
  return { show, update, follow, edit: (message) => views.get(message?.id)?.edit(), forget: () => views.clear() };
}

/** Follows the end while the reader is there; a wheel, a touch or a key towards older text lets go at once. */
function createFollowing(scroller, latest) {
  let [isFollowing, top] = [true, 0];
  const isAtEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight <= END_PIXELS;
  const stick = () => {
    if (isFollowing) scroller.scrollTop = scroller.scrollHeight;
    latest.hidden = isFollowing || isAtEnd();
  };
  const follow = () => { isFollowing = true; stick(); };
  const letGo = () => (isFollowing = false);
  const listen = (type, f) => scroller.addEventListener(type, f, { passive: true });
  listen("wheel", ({ deltaY }) => deltaY < 0 && letGo());
  listen("touchmove", letGo);
  onKeys(scroller, { pageup: letGo, arrowup: letGo, home: letGo });
  listen("scroll", () => {
    isFollowing = scroller.scrollTop > top ? isFollowing || isAtEnd() : isFollowing && isAtEnd();
    top = scroller.scrollTop;
    latest.hidden = isFollowing || isAtEnd();
  });
  latest.addEventListener("click", follow);
  new ResizeObserver(stick).observe($("thread"));
  return { follow, stick };
}

/** Makes the view of a message, which `update(message)` draws. */
function newView(app) {
  const [body, extra] = [element("div", { class: "message-body prose" }), element("div")];
  const columns = createChoices(app);
  const foot = element("footer", { class: "message-foot" });
  const node = element("article", {}, body, columns.node, extra, foot);
  let [message, chances, isEditing, wasRunning] = [null, null, false, false];
  const update = (changed) => {
    message = changed;
    const isRunning = app.run?.message === message;
    const isMany = message.choices?.length > 1;
    node.className = `message is-${message.role} ${isRunning ? "is-running" : ""} ${isMany ? "is-wide" : ""}`;
    node.ariaLabel = t(`thread.${message.role}`);
    body.hidden = isMany;
    columns.update(message, isRunning);
    if (!isEditing && !isMany) drawBody(app, body, message, isRunning);
    fill(extra, message.error && !isRunning && errorView(app, message), chances);
    if (!isRunning || !wasRunning) fill(foot, actions(app, message, { showChances, edit }), figures(message));
    wasRunning = isRunning;
  };
  const showChances = () => { chances = chances ? null : createProbabilities(app, message); update(message); };
  const edit = () => {
    const goOn = message.role === "user";
    isEditing = true;
    openEditor(body, message.content, t(goOn ? "message.ask" : "message.save"), (text) => {
      isEditing = false;
      fill(body);
      update(message);
      if (text.trim() && text !== message.content) app.branch(message.id, text, { goOn });
    });
  };
  return { node, update, edit };
}

function drawBody(app, body, { role, content }, isRunning) {
  if (role === "user") fill(body, element("div", { class: "said", text: content }));
  else if (content || !isRunning) renderMarkdown(body, content);
  else fill(body, element("p", { text: t(app.isLoading ? "error.server_loading" : "status.began") }));
}

/**
 * Opens an editor in place of what is in `node`: `saveKey` and a button named `label` close it by `close(text)`, Esc
 * and another button by `close("")`.
 */
export function openEditor(node, text, label, close, saveKey = "control+enter") {
  const rows = Math.min(16, text.split("\n").length + Math.floor(text.length / 40));
  const area = element("textarea", { class: "editor", value: text, rows, "aria-label": t("message.edit") });
  const save = () => close(area.value);
  const cancel = () => close("");
  onKeys(area, { [saveKey]: save, escape: cancel });
  fill(node, area, element("div", { class: "panel-actions" },
    textButton(label, save, { class: "button primary" }), textButton(t("message.cancel"), cancel)));
  area.focus();
}

/** Makes the columns of several answers, or of beams by rank; `update(message, isRunning)` draws them. */
export function createChoices(app) {
  const node = element("div", { class: "choices" });
  const newColumn = () => element("section", { class: "choice" },
    element("p", { class: "choice-head" }), element("div", { class: "prose" }), textButton());
  const update = (message, isRunning) => {
    const choices = message?.choices ?? [];
    while (node.children.length > choices.length) node.lastChild.remove();
    choices.forEach(({ text, score, finish }, at) => {
      const [head, body, use] = (node.children[at] ?? node.appendChild(newColumn())).children;
      const state = finish || isRunning ? t(finish ? "choice.done" : "choice.live") : "";
      head.textContent = [at + 1, typeof score === "number" && score.toFixed(3), state].filter(Boolean).join(" · ");
      renderMarkdown(body, text);
      const choose = () => app.change((conversation) => chooseAnswer(conversation, message, at));
      Object.assign(use, { textContent: t("choice.use"), disabled: isRunning, onclick: choose });
    });
  };
  return { node, update };
}

/** The line under an answer: tokens, the time to the first one, tokens per second, how it ended, ignored fields. */
export function figures({ role, usage, timing, finish, ignored }) {
  const count = usage?.completion_tokens;
  const seconds = timing && (timing.total - timing.first) / 1000;
  const facts = [
    usage && t("figures.tokens", { count }),
    timing && t("figures.first", { seconds: (timing.first / 1000).toFixed(2) }),
    count > 1 && seconds > 0.05 && t("figures.rate", { rate: ((count - 1) / seconds).toFixed(1) }),
    ["length", "stopped"].includes(finish) && t(`figures.${finish}`),
    ignored && t("figures.ignored", { fields: ignored }),
  ];
  return role === "assistant" && element("span", { class: "figures", text: facts.filter(Boolean).join(" · ") });
}

/** The buttons of a message, among them those of its siblings. */
function actions(app, message, { showChances, edit }) {
  const isAnswer = message.role === "assistant";
  const around = childrenOf(app.conversation, message.parent);
  const at = around.indexOf(message);
  const button = (name, f, image = name, disabled = false) => (
    iconButton(image, t(`message.${name}`), f, { data: { action: name }, disabled }));
  const step = (by, name) => button(name, () => {
    const { id } = around[at + by];
    app.change((conversation) => selectBranch(conversation, id));
    document.querySelector(`[data-message="${id}"] [data-action="${name}"]`)?.focus();
  }, name, !around[at + by]);
  const remove = () => {
    if (app.run?.conversation === app.conversation) app.stop();
    app.change((conversation) => removeBranch(conversation, message.id), t("bar.deleted"));
  };
  const place = element("span", { class: "place", text: `${at + 1} / ${around.length}` });
  return element("div", { class: "message-actions", data: { message: message.id } },
    around.length > 1 && [step(-1, "previous"), place, step(1, "next")],
    message.content && button("copy", () => app.copy(message.content)),
    message.content && !message.choices && button("edit", edit, "pen"),
    isAnswer && button("again", () => app.regenerate(message)),
    isAnswer && message.content && !message.choices && button("continue", () => app.answer(message)),
    isAnswer && message.content && button("chance", showChances),
    message.request && button("request", () => app.showRequest(message)),
    button("delete", remove));
}

/** Shows why there is no answer, in the reader's language where the code is known, and what can be done about it. */
export function errorView(app, message) {
  const { code, param, requestId } = message.error;
  const again = textButton(t("error.again"), () => app.answer(message));
  const field = !["messages", "prompt", "model"].includes(param) && (
    textButton(param, () => app.showField(param), { class: "link" }));
  const isChat = app.conversation.mode === "chat";
  const canDrop = isChat && code === "context_length_exceeded" && path(app.conversation, message.parent).length > 2;
  if (app.retries.has(message)) countDown(app, message, again);
  return element("div", { class: "message-error", role: "alert" },
    element("p", {}, errorText(message.error), " ", param && field),
    requestId && element("p", { class: "request-id", text: t("error.request_id", { id: requestId }) }),
    element("div", { class: "panel-actions" }, again,
      canDrop && textButton(t("error.drop"), () => askWithoutOldest(app, message))));
}

/** Asks again when the time is over that the server named; the button shows how long that is. */
function countDown(app, message, button) {
  const { at } = app.retries.get(message);
  const timer = setInterval(() => {
    const seconds = Math.max(Math.ceil((at - Date.now()) / 1000), 0);
    button.textContent = t("error.again_in", { seconds });
    if (seconds && button.isConnected) return;
    clearInterval(timer);
    button.textContent = t("error.again");
    if (button.isConnected && !app.run) app.answer(message);
  }, 250);
}

/** Makes a branch without the older half of the turns, and asks there. */
function askWithoutOldest(app, { parent }) {
  const said = path(app.conversation, parent);
  app.conversation.leaf = null;
  for (const { role, content } of said.slice(2 * Math.round(said.length / 4))) {
    addMessage(app.conversation, app.conversation.leaf, role, content);
  }
  app.ask();
}
