/** The exact prompt of the next request, token by token, as the server would send it to the model. */
import { debounce, element, fill, textButton } from "./dom.js";
import { CONTROL, showScores, visible } from "./probabilities.js";
import { request } from "./server.js";
import { addWords, errorText, onLanguage, t } from "./words.js";

const counted = { asked: "", reply: null };

/**
 * Asks for the tokens of the next prompt; equal questions in a row are asked once.
 * @returns {Promise<{ids: number[], tokens: string[], text: string, max_model_len: number}>} `tokens` are the texts of
 *   `ids`, where a part of a character is U+FFFD; `text` is that of all of them
 */
export function countTokens(app) {
  const isRaw = app.conversation.mode === "completion";
  const messages = isRaw ? [] : app.messages();
  if (!messages.some(({ role }) => role !== "system")) messages.push({ role: "user", content: "" });
  const asked = isRaw ? { prompt: app.draft, raw: true } : { messages };
  const body = { model: app.model?.id, ...asked, return_token_strs: true };
  const key = JSON.stringify(body);
  if (counted.asked !== key) {
    const reply = request("tokenize", { body }).then(({ tokens, token_strs, prompt, max_model_len }) => (
      { ids: tokens, tokens: token_strs, text: prompt, max_model_len }));
    reply.catch(() => (counted.asked = ""));
    Object.assign(counted, { asked: key, reply });
  }
  return counted.reply;
}

/**
 * Makes the panel of the prompt, which follows what is typed.
 * @returns {{node: Element, update: () => Promise<void>}}
 */
export function createPrompt(app) {
  const node = element("section", { class: "panel prompt" });
  let shown = null;
  const draw = (prompt) => {
    const { ids, max_model_len: room } = prompt;
    const scores = element("div");
    fill(node, element("p", { class: "panel-note", text: t("prompt.note") }),
      element("p", { class: "prompt-count" }, element("b", { text: ids.length }), ` / ${room} ${t("prompt.tokens")}`,
        element("progress", { max: room, value: ids.length, "aria-label": t("bar.gauge") })),
      element("div", { class: "tiles" }, toTiles(prompt)),
      element("div", { class: "panel-actions" }, textButton(t("prompt.copy"), () => app.copy(JSON.stringify(ids))),
        textButton(t("prompt.score"), () => fill(scores, showScores(app, ids)))), scores);
  };
  const update = async () => {
    const reply = countTokens(app);
    try {
      const prompt = await reply;
      if (reply !== counted.reply || shown === prompt) return;
      shown = prompt;
      draw(prompt);
    } catch (error) {
      shown = null;
      fill(node, element("p", { class: "panel-error", role: "alert", text: errorText(error) }));
    }
  };
  const follow = debounce(() => node.offsetParent && update(), 200);
  for (const name of ["draft", "conversation", "model"]) app.on(name, follow);
  onLanguage(() => { shown = null; follow(); });
  return { node, update };
}

/** Makes a tile for each token, or for the tokens of one character. */
function toTiles({ ids, tokens, text }) {
  const tiles = [];
  let offset = 0;
  for (let at = 0; at < ids.length;) {
    let [end, shown] = [at + 1, tokens[at]];
    if (shown.includes("\ufffd")) {
      while (tokens[end]?.includes("\ufffd")) end += 1;
      shown = text.slice(offset, tokens[end] ? text.indexOf(tokens[end], offset + 1) : text.length);
    }
    tiles.push(element("span", { class: CONTROL.test(tokens[at]) ? "tile tile-control" : "tile" },
      element("span", { class: "tile-text", text: visible(shown) || "▁" }),
      element("span", { class: "tile-id", text: ids.slice(at, end).join(" ") })));
    if (shown.includes("\n") && tokens[end] !== "\n") tiles.push(element("br"));
    offset += shown.length;
    at = end;
  }
  return tiles;
}

addWords("prompt", {
  note: ["发给模型的每一个词元和它的编号；彩色的是控制词元。", "Each token that the model gets, with its id. Coloured: control tokens."],
  tokens: ["词元", "tokens"], copy: ["复制编号", "Copy ids"], score: ["算每个词元的概率", "Probability of each token"],
});
