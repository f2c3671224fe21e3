/**
 * A model's Markdown as DOM nodes. Only marked's lexer is used: its tokens become nodes here, so no text of a model is
 * ever parsed as HTML, and only the elements that this file names can appear.
 */
import { copyText, element, fill, iconButton } from "./dom.js";
import { addWords, t } from "./words.js";

addWords("markdown", { copy: ["复制代码", "Copy code"] });

const MAX_LENGTH = 65536, MAX_DEPTH = 24, MAX_EMPHASIS = 1000, MAX_MILLISECONDS = 500;
/** Marks, text with code or escapes in it, the same marks or the last of three: one way to match, so linear. */
const MARKED = /^(([*_])\2{0,2})(?!\s|\2)((?:\\[^]|`[^`]*`|[^`\\])+?)(?<!\s\2{0,2})\1/.source;
const EMPHASIS = new RegExp(`${MARKED}(?!\\2|(?<=_)[\\p{L}\\p{N}])(?<=(?<!\\2)(?:\\1|\\2{3}))`, "u");
const MATHML = "http://www.w3.org/1998/Math/MathML";
const FORMULA = /^(?:\$\$([^]{1,4000}?)\$\$|\\\[([^]{1,4000}?)\\\])/;
const INLINE_FORMULA = /^(?:\\\(([^]{1,1000}?)\\\)|\$(?![\s$])((?:[^$\\\n]|\\.){1,500})(?<!\s)\$(?!\d))/;
const ADDRESS = /^https?:\/\/[a-z\d[][\w\-.~:/?#[\]@!$&'()*+,;=%]*[\w\-~/#=&%+]/i;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', "#39": "'" };

/** What has been rendered into each container: its text, its top-level blocks, and whether its text is too slow. */
const rendered = new WeakMap();
const libraries = new Map();

/**
 * Shows a text as Markdown. Top-level blocks whose source is unchanged since the last call keep their nodes, and with
 * them the reader's selection. A text that is very long, has taken long before, or cannot be read is shown as it is.
 * @param {Element} container whose content is replaced
 * @param {string} text Markdown, perhaps still growing
 */
export function renderMarkdown(container, text) {
  const state = rendered.get(container) ?? { blocks: [], slow: false };
  rendered.set(container, Object.assign(state, { text }));
  const lexer = library("marked", newLexer, () => renderMarkdown(container, rendered.get(container).text));
  const began = performance.now();
  let tokens = [{ type: "plain", raw: text }];
  try {
    if (lexer && !state.slow && text.length <= MAX_LENGTH) tokens = lexer(text);
  } catch {
    // It nests too deeply: plain text.
  }
  state.blocks = tokens.filter(({ type }) => type !== "space" && type !== "def").map((token, at) => {
    const before = state.blocks[at];
    const isKept = before?.raw === token.raw && before.type === token.type;
    return isKept ? before : { type: token.type, raw: token.raw, node: toNode(token, 0) };
  });
  state.blocks.forEach(({ node }, at) => {
    if (container.childNodes[at] !== node) container.insertBefore(node, container.childNodes[at] ?? null);
  });
  while (container.childNodes.length > state.blocks.length) container.lastChild.remove();
  state.slow ||= performance.now() - began > MAX_MILLISECONDS;
}

/** Returns a library once it has been loaded; until then undefined, and `onLoad` is called when it is there. */
function library(name, prepare, onLoad) {
  if (!libraries.has(name)) libraries.set(name, { loading: import(`./${name}.js`).then(prepare) });
  const found = libraries.get(name);
  if (!("value" in found)) found.loading.then((value) => { found.value = value; onLoad(); }, () => {});
  return found.value;
}

/** Makes marked's lexer, with formulas, and with rules of its own for emphasis and bare addresses beside Chinese. */
function newLexer({ Marked }) {
  const formula = (name, level, rule, start) => ({ name, level, start, tokenizer(source) {
    const found = rule.exec(source);
    if (!found || (level === "block" && !/^[ \t]*(?:\n|$)/.test(source.slice(found[0].length)))) return undefined;
    return { type: "formula", raw: found[0], text: found[1] ?? found[2], isBlock: rule === FORMULA };
  } });
  const interrupts = /^.*(?:\n.+)*?(?=\n(?:\$\$|\\\[))/;
  const extensions = [
    // Marked asks where this may interrupt a paragraph, with all that follows it.
    formula("blockFormula", "block", FORMULA, (source) => interrupts.exec(source)?.[0].length),
    formula("displayFormula", "inline", FORMULA, (source) => source.indexOf("$")),
    formula("inlineFormula", "inline", INLINE_FORMULA),
  ];
  const marked = new Marked({ gfm: true, extensions, tokenizer: { emStrong: readEmphasis, url: readAddress } });
  return (text) => marked.lexer(text);
}

/**
 * Reads `*a*`, `**a**` and `***a***`, also with `_`. CommonMark wants a space between closing marks and a letter after
 * punctuation, which leaves `**注意：**请看` unbold; here marks that touch their text are enough.
 */
function readEmphasis(source, _masked, before) {
  if (before === source[0] || (source[0] === "_" && /[\p{L}\p{N}]/u.test(before))) return undefined;
  const [raw, marks, , text] = EMPHASIS.exec(source.slice(0, MAX_EMPHASIS)) ?? [];
  if (!raw) return undefined;
  const inner = { type: marks.length === 2 ? "strong" : "em", raw, text, tokens: this.lexer.inlineTokens(text) };
  return marks.length < 3 ? inner : { type: "strong", raw, text, tokens: [inner] };
}

/** Reads a bare address: it ends before Chinese text and punctuation, and before a bracket that it has not opened. */
function readAddress(source) {
  let raw = ADDRESS.exec(source)?.[0];
  if (!raw) return undefined;
  if (!raw.includes("(")) raw = raw.split(")")[0];
  return { type: "link", raw, text: raw, href: raw, tokens: [{ type: "text", raw, text: raw }] };
}

const toNodes = (tokens, depth) => (tokens ?? []).map((token) => toNode(token, depth + 1));
const within = (tag) => (token, depth) => element(tag, {}, toNodes(token.tokens, depth));

const MAKERS = {
  paragraph: within("p"), blockquote: within("blockquote"),
  strong: within("strong"), em: within("em"), del: within("del"),
  hr: () => element("hr"), br: () => element("br"),
  heading: (token, depth) => element(`h${Math.min(token.depth + 1, 6)}`, {}, toNodes(token.tokens, depth)),
  list: (token, depth) => {
    const items = token.items.map((item) => within("li")(item, depth));
    return token.ordered ? element("ol", { start: token.start || 1 }, items) : element("ul", {}, items);
  },
  checkbox: (token) => element("span", { text: token.checked ? "☑ " : "☐ " }),
  table: toTable,
  code: toCode,
  codespan: (token) => element("code", { text: token.text }),
  escape: (token) => new Text(token.text),
  text: (token, depth) => (token.tokens ? within("span")(token, depth) : new Text(decode(token.text))),
  link: (token, depth) => toLink(token, toNodes(token.tokens, depth)),
  image: (token) => toLink(token, [token.text || token.href]),
  formula: toFormula,
  plain: (token) => element("p", { class: "markdown-plain", text: token.raw }),
};

/** Makes the node of a token; of a type that is not known here, of HTML and of what nests too deeply: its source. */
function toNode(token, depth) {
  if (depth > MAX_DEPTH || !(token.type in MAKERS || token.block)) return new Text(token.raw);
  return (MAKERS[token.type] ?? MAKERS.plain)(token, depth);
}

const decode = (text) => text.replace(/&(amp|lt|gt|quot|#39);/g, (_, name) => ENTITIES[name]);

/** Makes a link to the web or a mailbox; others are shown as their source. An image is a link: loading it may tell. */
function toLink(token, children) {
  if (!/^(https?:\/\/|mailto:)/i.test(token.href)) return new Text(token.raw);
  return element("a", { href: token.href, target: "_blank", rel: "noopener noreferrer" }, ...children);
}

function toTable(token, depth) {
  const cell = (tag) => ({ align, tokens }) => element(tag, { align }, toNodes(tokens, depth));
  const body = token.rows.map((cells) => element("tr", {}, cells.map(cell("td"))));
  const head = element("tr", {}, token.header.map(cell("th")));
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, body));
  return element("div", { class: "markdown-table", tabIndex: 0 }, table);
}

/** Makes a block of code with its language and a button to copy it; its colours come once its fence is closed. */
function toCode({ raw, text, lang }) {
  const language = (lang ?? "").split(/\s/)[0].slice(0, 32);
  const code = element("code", { text });
  const colour = () => {
    const highlight = library("highlight", (module) => module.default, colour);
    if (!highlight?.getLanguage(language)) return;
    highlight.configure({ __emitter: NodeEmitter });
    const result = highlight.highlight(text, { language, ignoreIllegals: true });
    if (!result.errorRaised) code.replaceChildren(result._emitter.root);
  };
  if (language && /\n *(`{3,}|~{3,})$/.test(raw.trimEnd().slice(-80))) colour();
  const copy = iconButton("copy", t("markdown.copy"), () => copyText(text));
  const head = element("div", { class: "markdown-code-head" }, element("span", { text: language }), copy);
  return element("div", { class: "markdown-code" }, head, element("pre", { tabIndex: 0 }, code));
}

/** What highlight.js writes to: nodes in place of HTML. It swallows errors, so every method that it calls is here. */
class NodeEmitter {
  root = document.createDocumentFragment();
  open = [this.root];
  addText(text) { this.open.at(-1).append(text); }
  startScope(name) {
    const scope = element("span", { class: `hljs-${name.split(".")[0]}` });
    this.open.at(-1).append(scope);
    this.open.push(scope);
  }
  endScope() { if (this.open.length > 1) this.open.pop(); }
  openNode = this.startScope;
  closeNode = this.endScope;
  closeAllNodes() { this.open.length = 1; }
  __addSublanguage(emitter) { this.open.at(-1).append(emitter.root); }
  finalize = this.closeAllNodes;
  toHTML() { return ""; }
}

/** Makes a formula: its source, until KaTeX has been loaded, and where KaTeX cannot read it. */
function toFormula({ raw, text, isBlock }) {
  const formula = element("span", { class: isBlock ? "formula-block" : "", text: raw });
  const limits = { throwOnError: true, strict: "ignore", trust: false, maxExpand: 500, maxSize: 20 };
  const typeset = () => {
    const katex = library("katex", () => globalThis.katex, typeset);
    try {
      const tree = katex?.__renderToDomTree(text, { ...limits, displayMode: isBlock, output: "mathml" });
      if (tree) formula.replaceChildren(...tree.children.map(toMathML));
    } catch {
      // Its source is shown.
    }
  };
  typeset();
  return formula;
}

/** Makes MathML of KaTeX's tree; a style attribute, which the page's policy forbids, is left out. */
function toMathML(tree) {
  if (tree.text !== undefined) return new Text(tree.text);
  const node = document.createElementNS(MATHML, tree.type ?? (tree.width ? "mspace" : "mrow"));
  if (tree.width) node.setAttribute("width", `${tree.width}em`);
  const kept = Object.entries(tree.attributes ?? {}).filter(([name]) => name !== "style" && name !== "href");
  kept.forEach(([name, value]) => node.setAttribute(name, value));
  node.append(...(tree.children ?? []).map(toMathML));
  return node;
}
