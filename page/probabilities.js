/**
 * How likely the model finds each token of a text, what it would rather have said, and "go on from this instead".
 * The server scores a prompt of ids without generating, so old and edited answers can be looked at too.
 */
import { toMessages } from "./conversation.js";
import { element, fill, onKeys, textButton } from "./dom.js";
import { request } from "./server.js";
import { addWords, errorText, t } from "./words.js";

/** The spelling of control tokens: an ordinary token never has it, since text like it is encoded in parts. */
export const CONTROL = /^<\/?(s|unk|pad)>$|^<\|[^|]*\|>$/;

/**
 * Shows the probabilities of an assistant's message. Choosing a rival of a token makes a sibling of the message: the
 * text before and that token, from which the model goes on.
 * @param {object} app whose conversation has the message
 * @param {{id: string, content: string}} message
 * @returns {Element} filled once the server has answered
 */
export function createProbabilities(app, message) {
  return whenScored(async () => {
    const messages = toMessages(app.conversation, message.id);
    const encode = async (part) => (
      (await request("tokenize", { body: { model: app.model?.id, messages: part } })).tokens);
    const [ids, before] = await Promise.all([encode(messages), encode(messages.slice(0, -1))]);
    const differs = ids.findIndex((id, at) => id !== before[at]);
    const groups = await score(app, ids, differs < 0 ? ids.length : differs);
    trimLead(groups, message.content);
    return { groups, onRival: (text) => app.branch(message.id, text, { goOn: true }) };
  });
}

/** Shows the probabilities of a prompt's tokens; a rival in a raw text is gone on from in a completion of its own. */
export function showScores(app, ids) {
  const goOn = (text) => { app.openCompletion(text.replace(/^<s>/, "")); app.goOn(); };
  const isRaw = app.conversation.mode === "completion";
  return whenScored(async () => ({ groups: await score(app, ids, 0), onRival: isRaw ? goOn : null }));
}

function whenScored(f) {
  const node = element("section", { class: "panel probabilities", "aria-label": t("probabilities.title") });
  fill(node, element("p", { class: "panel-note", text: t("probabilities.loading") }));
  f().then(({ groups, onRival }) => fill(node, toView(groups, onRival)).scrollIntoView({ block: "nearest" }))
    .catch((error) => fill(node, element("p", { class: "panel-error", role: "alert", text: errorText(error) })));
  return node;
}

/** Scores ids; returns those from `first` on, tokens that are parts of one character together, with the text before. */
async function score(app, ids, first) {
  const body = { model: app.model?.id, prompt: ids, echo: true, logprobs: 5, max_tokens: 0 };
  const { choices: [{ logprobs }] } = await request("v1/completions", { body });
  const groups = [];
  let text = "";
  for (let at = first; at < logprobs.tokens.length;) {
    let end = at + 1;
    let spelt = spell(logprobs.tokens.slice(at, end));
    while (spelt === null && end < logprobs.tokens.length) spelt = spell(logprobs.tokens.slice(at, ++end));
    const logs = logprobs.token_logprobs.slice(at, end);
    const logprob = logs.includes(null) ? null : logs.reduce((sum, value) => sum + value, 0);
    const rivals = Object.entries(logprobs.top_logprobs[at] ?? {}).sort((a, b) => b[1] - a[1]);
    groups.push({ text: spelt ?? "\ufffd", name: logprobs.tokens[at], before: text, size: end - at, logprob, rivals });
    text += spelt ?? "";
    at = end;
  }
  return groups;
}

/** Joins tokens, some of which are bytes such as `bytes:\xe4`; null if they end within a character. */
function spell(tokens) {
  const bytes = tokens.flatMap((token) => (token.startsWith("bytes:")
    ? [...token.matchAll(/\\x(..)/g)].map(([, hex]) => parseInt(hex, 16)) : [...new TextEncoder().encode(token)]));
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes));
  } catch {
    return null;
  }
}

/** Spells a token so that its spaces and line breaks can be seen. */
export const visible = (text) => text.replaceAll(" ", "▁").replaceAll("\n", "⏎").replaceAll("\t", "⇥");

/** Leaves out what a template puts before an answer, such as a space: it is no part of the message. */
function trimLead(groups, content) {
  const whole = groups.map(({ text }) => text).join("");
  let lead = whole.endsWith(content) ? whole.length - content.length : 0;
  groups.forEach((group) => (group.before = group.before.slice(lead)));
  while (groups.length && lead >= groups[0].text.length) lead -= groups.shift().text.length;
  if (lead > 0) groups[0].text = groups[0].text.slice(lead);
}

const percent = (logprob) => {
  if (logprob === null) return "–";
  const value = 100 * Math.exp(logprob);
  return `${value >= 99.95 ? "100" : value < 1 ? value.toPrecision(1) : value.toFixed(1)} %`;
};

function toView(groups, onRival) {
  const scored = groups.filter(({ logprob }) => logprob !== null);
  const count = scored.reduce((sum, { size }) => sum + size, 0);
  const total = scored.reduce((sum, { logprob }) => sum + logprob, 0);
  const perplexity = count ? Math.exp(-total / count).toFixed(2) : "–";
  return [
    element("p", { class: "scored-sum" }, element("b", { text: t("probabilities.perplexity", { perplexity }) }),
      ` · ${count} ${t("prompt.tokens")}`),
    toTokens(groups, onRival),
    element("p", { class: "panel-note" }, t("probabilities.look"), onRival && t("probabilities.how")),
  ];
}

/** Makes the tokens, and the card of one of them: a popover, which browsers without popovers show below the text. */
function toTokens(groups, onRival) {
  const card = element("div", { class: "rivals", popover: "manual", hidden: true, "aria-live": "polite" });
  let current = null;
  const place = () => {
    const { top, bottom, left } = current.getBoundingClientRect();
    const isLow = bottom + card.offsetHeight > innerHeight;
    card.style.top = `${Math.max(isLow ? top - card.offsetHeight : bottom, 8)}px`;
    card.style.left = `${Math.max(Math.min(left, innerWidth - card.offsetWidth - 16), 8)}px`;
  };
  const hide = () => { card.hidden = true; current = null; document.removeEventListener("scroll", place, true); };
  const show = (token, group) => {
    if (current === token) return;
    current = token;
    fill(card, ...toCard(group, onRival && ((rival) => { hide(); onRival(group.before + rival); })));
    card.hidden = false;
    card.togglePopover?.(true);
    document.addEventListener("scroll", place, true);
    place();
  };
  const tokens = groups.map((group) => toToken(group, show));
  tokens[0]?.setAttribute("tabindex", 0);
  const text = element("div", { class: "scored", role: "group", "aria-label": t("probabilities.title") }, tokens);
  const node = element("div", {}, text, card);
  const move = (step) => {
    const from = tokens.indexOf(document.activeElement);
    if (from < 0 || !tokens[from + step]) return false;
    Object.assign(tokens[from], { tabIndex: -1 });
    Object.assign(tokens[from + step], { tabIndex: 0 }).focus();
  };
  const close = () => {
    if (!current) return false;
    if (card.contains(document.activeElement)) current.focus();
    hide();
  };
  const [next, previous] = [() => move(1), () => move(-1)];
  onKeys(node, { arrowright: next, arrowdown: next, arrowleft: previous, arrowup: previous, escape: close });
  node.addEventListener("mouseleave", () => node.contains(document.activeElement) || hide());
  node.addEventListener("focusout", ({ relatedTarget }) => node.contains(relatedTarget) || hide());
  return node;
}

/** Makes the button of a token: the less likely, the deeper its colour; one below 10 % is underlined as well. */
function toToken(group, show) {
  const { text, logprob } = group;
  const isRare = logprob !== null && Math.exp(logprob) < 0.1;
  const shown = (text.trim() ? text : text.replaceAll(" ", "▁")).replaceAll("\n", "⏎\n");
  const token = textButton(shown, () => show(token, group), {
    class: isRare ? "scored-token is-rare" : "scored-token", tabIndex: -1, title: percent(logprob),
  });
  for (const name of ["mouseenter", "focus"]) token.addEventListener(name, () => show(token, group));
  token.style.setProperty("--doubt", `${Math.round(Math.min(-logprob / 4.6, 1) * 100)}%`);
  return token;
}

/** Lists a token and its rivals with bars; each rival that is whole text can be gone on from. */
function toCard({ text, name, size, logprob, rivals }, choose) {
  const rows = rivals.map(([rival, value]) => {
    const isText = rival && !CONTROL.test(rival) && !rival.startsWith("bytes:");
    const bar = element("i");
    bar.style.width = `${Math.max(100 * Math.exp(value), 0.5)}%`;
    const row = rival !== name && choose && isText && size === 1
      ? textButton("", () => choose(rival), { title: t("probabilities.go_on", { token: rival }) }) : element("div");
    row.className = rival === name ? "rival is-chosen" : "rival";
    const shown = isText ? `“${visible(rival)}”` : rival.replace("bytes:", "");
    return fill(row, element("span", { class: "rival-text", text: shown }),
      element("span", { class: "rival-track" }, bar), element("span", { class: "rival-share", text: percent(value) }));
  });
  const head = t("probabilities.share", { text, percent: percent(logprob) });
  return [element("p", { class: "rivals-head", text: head }), rows,
    size > 1 && element("p", { class: "panel-note", text: t("probabilities.part", { size }) })];
}

addWords("probabilities", {
  title: ["每个词元的概率", "The probability of each token"], loading: ["正在计算…", "Scoring…"],
  perplexity: ["困惑度 {perplexity}", "Perplexity {perplexity}"],
  share: ["“{text}” 的概率是 {percent}", "“{text}” has {percent}"],
  part: ["这个字由 {size} 个词元拼成，不能从中间换。", "{size} tokens spell this character: it cannot be left half-way."],
  go_on: ["换成“{token}”，从这里重新写", "Go on from “{token}” instead"],
  look: ["点一个词元看它的对手；低于 10 % 的有下划线。", "Choose a token to see its rivals; below 10 % it is underlined. "],
  how: ["再点一个对手，就从“前文 + 这个词元”另写一支。", "Choose a rival to branch: the text before + that token."],
});
