/** The fields of a request that say how to generate, built from `/openapi.json`: types, ranges and defaults are its. */
import { element, fill, iconButton, textButton } from "./dom.js";
import { addWords, onLanguage, t } from "./words.js";

/** Each field: its name in Chinese and English, its explanation in both. Seven are shown, the others folded. */
const FIELDS = {
  temperature: ["温度", "Temperature", "越低越稳，越高越多样；0 只选最可能的。", "Lower: steadier; higher: more varied; 0: the likeliest."],
  top_p: ["核采样", "Nucleus", "只从概率加起来够这个数的前几个词元里选：越低越稳。", "From the likeliest that add up to this: lower is steadier."],
  top_k: ["候选个数", "Candidates", "只从最可能的这么多个词元里选；0 为不限。", "Samples from this many of the likeliest; 0: from all."],
  repetition_penalty: ["重复惩罚", "Repetition penalty", "大于 1：提示词和回答里有过的更难再出现。", "Above 1: prompt and answer recur less."],
  max_tokens: ["最长", "Longest answer", "最多生成的词元数；上下文放不下时更短。", "Tokens at most; fewer where there is no room."],
  n: ["回答个数", "Answers", "一次要几个回答，并排比较。", "How many answers to get, side by side."],
  num_beams: ["束宽", "Beams", "大于 1：束搜索，同时保留几条写法，选得分最高的。", "Above 1: beam search; it keeps this many texts."],
  min_p: ["最低概率", "Min p", "概率不到最可能者这个比例的词元不选；0 为不限。", "Leaves out tokens below this share of the likeliest; 0: none."],
  presence_penalty: ["出现惩罚", "Presence penalty", "回答里出现过的词元减这么多分；0 为不用。", "Taken off tokens the answer has; 0: off."],
  frequency_penalty: ["频率惩罚", "Frequency penalty", "回答里每出现一次就减这么多分；0 为不用。", "Taken off for each occurrence; 0: off."],
  do_sample: ["采样", "Sampling", "关闭等于温度 0。", "Off: the same as temperature 0."],
  seed: ["随机种子", "Seed", "种子和请求都相同，回答就相同。", "Equal requests with equal seeds get equal answers."],
  stop: ["停止文字", "Stop texts", "每行一段（换行写作 \\n）；出现就停，不含在回答里。", "One a line (\\n: a line break); left out."],
  stop_token_ids: ["停止编号", "Stop ids", "遇到这些词元编号就停，用逗号分开；不含在回答里。", "Token ids that end it, with commas; left out."],
  include_stop_str_in_output: ["保留停止文字", "Keep stop text", "停止文字也留在回答里。", "The answer keeps what stopped it."],
  ignore_eos: ["不理会结束", "Ignore the end", "模型想结束时仍继续写，直到最长。", "Goes on after the model's end of text."],
  min_tokens: ["最短", "Shortest answer", "至少生成的词元数。", "Tokens to generate at least."],
  max_completion_tokens: ["最长（别名）", "Longest (alias)", "同最长；都设时取较小者。", "Another name; of two, the smaller counts."],
  best_of: ["多中选优", "Best of", "多生成几个，返回最可能的；或作束宽；0 为不用。", "Makes so many for the likeliest; or beams; 0: off."],
  use_beam_search: ["束搜索", "Beam search", "按束宽、多中选优或回答个数做束搜索。", "As wide as beams, best of or answers."],
  length_penalty: ["长度惩罚", "Length penalty", "束搜索：大于 0 偏长，小于 0 偏短。", "Beams: above 0 favours longer, below 0 shorter."],
  early_stopping: ["提早结束", "Early stopping", "束搜索：true 够数就停，never 到再无更好。", "Beams: true: enough; never: none better."],
  logit_bias: ["词元偏置", "Logit bias", "每行“编号: 分数”，-100 到 100。", "“id: bias” on each line, -100 to 100."],
  bad_words: ["禁用词", "Bad words", "每行一个，回答里不会出现。", "One a line; the answer will not have them."],
  allowed_token_ids: ["只许编号", "Allowed ids", "只能生成这些词元。", "The only token ids that may be generated."],
  truncate_prompt_tokens: ["截短提示词", "Cut the prompt", "只留最后这么多个词元；-1 为放得下为止。", "Its last tokens kept; -1: what fits."],
  truncation_side: ["截哪一头", "Cut at", "截短时去掉的一头。", "The end of the prompt that is left out."],
  skip_special_tokens: ["隐去控制词元", "Hide control tokens", "回答里不显示 </s> 等。", "Leaves </s> and the like out."],
  spaces_between_special_tokens: ["控制词元间空格", "Space control tokens", "显示时用空格隔开。", "Where they are shown."],
  return_token_ids: ["返回编号", "Return ids", "同时返回词元编号。", "Also returns the token ids."],
};
const SHOWN = 7;
/** Where a slider is finer than the range that a field may have. */
const SLIDERS = { top_k: [0, 100], repetition_penalty: [0.8, 1.6], max_tokens: [1, 2048], n: [1, 8] };
const lines = (text) => text.split("\n").filter((line) => line !== "");
const isEqual = (one, other) => JSON.stringify(one) === JSON.stringify(other);
/** How lists and maps are written as text, and read. */
const TEXTS = {
  string: [(list) => [list].flat().map((text) => String(text).replaceAll("\n", "\\n")).join("\n"),
    (text) => lines(text).map((line) => line.replaceAll("\\n", "\n"))],
  integer: [(list) => [list].flat().join(", "), (text) => text.split(/[\s,，]+/).filter(Boolean).map(Number)],
  object: [(map) => Object.entries(map).map((pair) => pair.join(": ")).join("\n"), (text) => (
    Object.fromEntries(lines(text).map((line) => line.split(/[:：]/)).map(([id, bias]) => [id.trim(), Number(bias)])))],
  schema: [(schema) => JSON.stringify(schema, null, 2), JSON.parse],
};

/**
 * Makes the panel of parameters.
 * @param {object} app
 * @param {object} schema the server's `/openapi.json`
 * @param {(values: object) => void} onChange
 * @returns {{node: Element, values: () => object, set: (values: object) => void, focusField: (name: string) => void}}
 *   `values()` has only what differs from the server's defaults
 */
export function createParameters(app, schema, onChange) {
  const known = schema.components.schemas.ChatCompletionRequest.properties;
  const names = Object.keys(FIELDS).filter((name) => name in known);
  const node = element("form", { class: "panel parameters", on: { submit: (event) => event.preventDefault() } });
  let values = {};
  const change = (name, value) => {
    if (value === undefined || isEqual(value, known[name].default)) delete values[name];
    else values[name] = value;
    onChange({ ...values });
  };
  const reset = (name) => { change(name); draw(); node.querySelector(`#field-${name}`).focus(); };
  const draw = () => {
    const isOpen = node.querySelector("details")?.open;
    const rows = names.map((name) => toField(name, known[name], values[name], change, reset));
    const rest = element("details", { open: isOpen },
      element("summary", { text: t("parameters.rest", { count: rows.length - SHOWN }) }), rows.splice(SHOWN));
    fill(node, rows, toFormat(values, change), rest);
  };
  const focusField = (name) => {
    const row = node.querySelector(`[data-field~="${CSS.escape(name.split(/[.[]/)[0])}"]`);
    if (!row) return;
    row.closest("details")?.setAttribute("open", "");
    row.scrollIntoView({ block: "center" });
    row.querySelector("input, select, textarea, .segments button").focus();
  };
  draw();
  onLanguage(draw);
  return { node, values: () => ({ ...values }), set: (given) => { values = { ...given }; draw(); }, focusField };
}

/** Makes the row of a field: what it is called, a dot and a reset if it was changed, an editor, an explanation. */
function toField(name, field, value, onChange, onReset) {
  const row = element("div", { class: "field", data: { field: name } });
  const picture = element("div", { class: "picture" });
  const show = (current) => {
    row.classList.toggle("is-changed", current !== undefined && !isEqual(current, field.default));
    if (name in STAYS) fill(picture, ...toPicture(name, current ?? field.default));
  };
  const label = element("label", { class: "field-label", htmlFor: `field-${name}` },
    t(`parameters.${name}`), element("code", { text: name }));
  const reset = iconButton("reset", t("parameters.reset", { name }), () => onReset(name));
  show(value);
  return fill(row, element("div", { class: "field-head" }, label, reset),
    toEditor(name, field, value ?? field.default, (current) => { show(current); onChange(name, current); }), picture,
    element("p", { class: "field-hint", id: `hint-${name}`, text: t(`parameters.${name}_hint`) }));
}

/** Makes what edits a value of a type: of several that a field may have, the list, else the first. */
function toEditor(name, field, value, onChange) {
  const type = field.anyOf?.find((each) => each.type === "array") ?? field.anyOf?.[0] ?? field;
  const named = { id: `field-${name}`, "aria-describedby": `hint-${name}` };
  if (type.enum) {
    const options = type.enum.map((each) => element("option", { text: String(each), selected: each === value }));
    const change = ({ target }) => onChange(type.enum[target.selectedIndex]);
    return element("select", { ...named, class: "editor", on: { input: change } }, options);
  }
  if (type.type === "boolean") {
    const change = ({ target }) => onChange(target.checked);
    return element("input", { ...named, type: "checkbox", checked: value, on: { input: change } });
  }
  const kind = type.items?.type ?? type.type;
  if (type.items || kind === "object") return toTextEditor(kind, value, { ...named, rows: 2 }, onChange);
  return toNumberEditor(name, type, value, named, onChange);
}

/** Makes the editor of what is written as text; what cannot be read, such as half a schema, is not taken. */
function toTextEditor(kind, value, properties, onChange) {
  const [format, parse] = TEXTS[kind];
  const shown = { class: "editor", value: value ? format(value) : "", spellcheck: false };
  const area = element("textarea", { ...shown, ...properties });
  area.addEventListener("input", () => {
    area.setAttribute("aria-invalid", false);
    try {
      onChange(area.value.trim() ? parse(area.value) : undefined);
    } catch {
      area.setAttribute("aria-invalid", true);
    }
  });
  return area;
}

/** Makes a number's editor: a box, and a slider where the range is small. What is out of range is not taken. */
function toNumberEditor(name, { type, minimum, exclusiveMinimum, maximum, exclusiveMaximum }, value, named, onChange) {
  const step = type === "integer" ? 1 : 0.01;
  const range = { min: minimum ?? exclusiveMinimum + step, max: maximum ?? (exclusiveMaximum - 1 || "") };
  const box = element("input", { ...named, class: "editor", type: "number", ...range, step: step === 1 ? 1 : "any",
    value: value ?? "" });
  const [min, max] = SLIDERS[name] ?? [range.min, range.max];
  const slider = element("input", { type: "range", min, max, step, value, "aria-label": t(`parameters.${name}`) });
  const take = () => {
    box.setAttribute("aria-invalid", !box.validity.valid);
    if (box.validity.valid) onChange(box.value === "" ? undefined : Number(box.value));
  };
  box.addEventListener("input", () => { slider.value = box.value; take(); });
  slider.addEventListener("input", () => { box.value = slider.value; take(); });
  return element("div", { class: "field-number" }, max !== "" && max - min <= 2048 && slider, box);
}

/** The seed project's example: the probabilities of five tokens; the rest is eighteen of 0.01. */
const EXAMPLE = [0.23, 0.2, 0.18, 0.11, 0.1];
const REST = Array(18).fill(0.01);
const sum = (numbers) => numbers.reduce((one, other) => one + other, 0);
/** Whether a token of the example can still be sampled, by its place, its share and a field's value. */
const STAYS = {
  temperature: (_at, share) => share >= 0.005,
  top_p: (at, _share, value) => at === 0 || sum(EXAMPLE.slice(0, at)) < value - 1e-9,
  top_k: (at, _share, value) => value < 1 || at < value,
};

/** Makes the live picture of a field: the example's five tokens as bars, grey where they cannot be sampled. */
function toPicture(name, value) {
  const powers = [...EXAMPLE, ...REST].map((share) => (share / EXAMPLE[0]) ** (1 / Math.max(value, 0.01)));
  const shares = name === "temperature" ? EXAMPLE.map((_, at) => powers[at] / sum(powers)) : EXAMPLE;
  const kept = shares.filter((share, at) => STAYS[name](at, share, value));
  const bars = shares.map((share, at) => {
    const bar = element("i");
    bar.style.height = `calc(${Math.max(share / shares[0], 0.03)} * (100% - 1.25rem))`;
    const place = at < kept.length ? "bar" : "bar is-out";
    return element("span", { class: place }, bar, element("small", { text: share.toFixed(2) }));
  });
  const facts = { kept: kept.length, sum: sum(kept).toFixed(2), share: shares[0].toFixed(2) };
  return [element("div", { class: "bars", ariaHidden: true }, bars),
    element("p", { class: "panel-note", text: t(`parameters.${name === "temperature" ? "first" : "kept"}`, facts) })];
}

const COLUMN_TYPES = { string: { type: "string" }, number: { type: "number" }, integer: { type: "integer" },
  boolean: { type: "boolean" }, "string[]": { type: "array", items: { type: "string" } } };

/** Makes the choice of what an answer is: text, any JSON, JSON by a schema (a table, or as it is written), a choice. */
function toFormat({ response_format: format, structured_outputs: outputs }, change) {
  let mode = outputs?.choice ? "choice" : { json_object: "json", json_schema: "schema" }[format?.type] ?? "text";
  let schema = format?.json_schema?.schema ?? toSchema([{ name: "name", type: "string", isRequired: true }]);
  let choice = outputs?.choice;
  let isRaw = false;
  const node = element("fieldset", { class: "field format", data: { field: "response_format structured_outputs" } });
  const send = () => {
    const bySchema = { type: "json_schema", json_schema: { name: "answer", schema } };
    change("response_format", { json: { type: "json_object" }, schema: bySchema }[mode]);
    change("structured_outputs", mode === "choice" && choice ? { choice } : undefined);
  };
  const toArea = (kind, value, rows, take) => (
    toTextEditor(kind, value, { rows, "aria-label": t(`format.${mode}`) }, (read) => { take(read); send(); }));
  const toSchemaEditor = () => {
    isRaw ||= !toRows(schema);
    const toggle = textButton(t(isRaw ? "format.table" : "format.raw"), () => { isRaw = !isRaw; draw(); },
      { class: "link", disabled: !toRows(schema) });
    const take = (read = {}) => { toggle.disabled = !toRows(read); schema = read; };
    if (isRaw) return [toArea("schema", schema, 10, take), toggle];
    return toTable(toRows(schema), toggle, (read) => { schema = read; send(); });
  };
  const editors = {
    text: () => [], json: () => [], schema: toSchemaEditor,
    choice: () => [toArea("string", choice, 4, (read) => { choice = read; })],
  };
  const draw = () => {
    const modes = Object.keys(editors).map((each) => textButton(t(`format.${each}`),
      () => { mode = each; send(); draw(); }, { class: "", "aria-pressed": each === mode }));
    node.classList.toggle("is-changed", mode !== "text");
    fill(node, element("legend", { class: "field-label", text: t("format.title") }),
      element("div", { class: "segments" }, modes), ...editors[mode](),
      element("p", { class: "field-hint", text: t(`format.${mode}_hint`) }));
  };
  draw();
  return node;
}

const toSchema = (rows) => ({
  type: "object",
  properties: Object.fromEntries(rows.map(({ name, type }) => [name, COLUMN_TYPES[type]])),
  required: rows.filter(({ isRequired }) => isRequired).map(({ name }) => name),
});

/** The rows of a schema that a table can show, else null. */
function toRows({ properties = {}, required = [], ...rest }) {
  const rows = Object.entries(properties).map(([name, kind]) => ({ name, isRequired: required.includes(name),
    type: Object.keys(COLUMN_TYPES).find((type) => isEqual(COLUMN_TYPES[type], kind)) }));
  return isEqual(rest, { type: "object" }) && rows.every(({ type }) => type) ? rows : null;
}

/** Makes the table of a schema's rows; `take(schema)` is called for each change. */
function toTable(rows, toggle, take) {
  const table = element("div", { class: "schema", on: { input: () => read() } });
  const read = () => take(toSchema([...table.children].map(({ children: [name, type, required] }) => (
    { name: name.value, type: type.value, isRequired: required.checked }))));
  const toRow = ({ name, type, isRequired }) => {
    const types = Object.keys(COLUMN_TYPES).map((text) => element("option", { text, selected: text === type }));
    const row = element("div", { class: "schema-row" },
      element("input", { class: "editor", value: name, "aria-label": t("format.name"), spellcheck: false }),
      element("select", { class: "editor", "aria-label": t("format.type") }, types),
      element("input", { type: "checkbox", checked: isRequired, "aria-label": t("format.required") }),
      iconButton("close", t("format.remove"), () => { row.remove(); read(); }));
    return row;
  };
  const add = () => {
    table.append(toRow({ name: `field_${table.children.length + 1}`, type: "string", isRequired: true }));
    read();
  };
  return [fill(table, rows.map(toRow)),
    element("div", { class: "panel-actions" }, textButton(t("format.add"), add, { class: "link" }), toggle)];
}

for (const [name, words] of Object.entries(FIELDS)) {
  addWords("parameters", { [name]: words.slice(0, 2), [`${name}_hint`]: words.slice(2) });
}
addWords("parameters", {
  rest: ["其余 {count} 个参数", "{count} more parameters"], reset: ["{name} 恢复默认", "Reset {name}"],
  kept: ["五个词元里留下前 {kept} 个，合计 {sum}", "The first {kept} of five tokens stay: {sum}"],
  first: ["最可能的一个有 {share}", "The likeliest has {share}"],
});
addWords("format", {
  title: ["输出格式", "Output"], text: ["文本", "Text"], json: ["JSON", "JSON"], schema: ["结构", "Schema"],
  choice: ["选项", "Choice"], text_hint: ["写什么都可以。", "Any text."],
  json_hint: ["回答一定是一个 JSON 对象。", "The answer is a JSON object."],
  schema_hint: ["回答一定符合这个 JSON schema；勾选的为必有。", "The answer keeps this JSON schema; ticked: required."],
  choice_hint: ["回答一定是其中一项，每行一项。", "The answer is one of these, one a line."],
  table: ["用表格写", "As a table"], raw: ["看原文", "As written"], name: ["名称", "Name"], type: ["类型", "Type"],
  required: ["必有", "Required"], remove: ["去掉这一行", "Remove this row"], add: ["加一行", "Add a row"],
});
