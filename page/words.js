/** The page's words in Chinese and English; the panels add theirs. */

const KEPT = "alpaca-page.language", LANGUAGES = ["zh", "en"];
const listeners = new Set();

/** The words of each key, such as "thread.title", in each language. */
export const words = {};

const preferred = [localStorage.getItem(KEPT), ...navigator.languages.map((name) => name.slice(0, 2).toLowerCase())];
let current = preferred.find((name) => LANGUAGES.includes(name)) ?? "en";

/** Adds words in Chinese and English: `addWords("prompt", {title: ["提示词", "Prompt"]})` adds `prompt.title`. */
export function addWords(prefix, added) {
  for (const [name, pair] of Object.entries(added)) words[`${prefix}.${name}`] = pair;
}

/** Returns the words of a key in the language shown, `{name}` in them replaced by `values.name`. */
export const t = (key, values = {}) => (
  (words[key]?.[LANGUAGES.indexOf(current)] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole));

/** Says an error in the language shown where its code is known, else as the server says it. */
export const errorText = ({ code, message }) => (`error.${code}` in words ? t(`error.${code}`) : message);

/** The language shown: "zh" or "en". */
export const language = () => current;

/** Shows another language, keeps the choice for the next visit and tells those who asked by `onLanguage`. */
export function setLanguage(name) {
  current = name;
  localStorage.setItem(KEPT, name);
  listeners.forEach((f) => f(name));
}

/** Calls `f(language)` after each change of the language. */
export const onLanguage = (f) => listeners.add(f);

const OWN = {
  bar: { gauge: ["提示词占用的上下文", "Context used by the prompt"], markdown: ["存为 Markdown", "Save as Markdown"],
    theme: ["浅色 / 深色", "Light / dark"], language: ["EN", "中"], deleted: ["已删除。", "Deleted."], close: ["关闭", "Close"],
    undo: ["撤销", "Undo"] },
  panels: { title: ["参数、提示词和请求", "Parameters, prompt and request"], prompt: ["提示词", "Prompt"],
    parameters: ["参数", "Parameters"], request: ["请求", "Request"] },
  chats: { title: ["对话", "Chats"], none: ["对话只保存在这个浏览器里。", "Chats are kept in this browser only."],
    new: ["新对话", "New chat"], completion: ["续写", "Raw completion"], search: ["搜索对话", "Search chats"],
    export: ["导出", "Export"], import: ["导入", "Import"], none_found: ["没有找到。", "Nothing found."],
    untitled: ["未命名", "Untitled"], rename: ["改名", "Rename"] },
  welcome: { title: ["想聊点什么？", "What shall we talk about?"],
    text: ["{id}，上下文 {max_model_len} 个词元。没有用 --model 指定模型时，它是自带的小演示模型：会答错。",
      "{id}, {max_model_len} tokens. Started without --model, it is a small demo: it gets things wrong."] },
  example: { fact: ["告诉我中国的首都在哪里", "What is the capital of France?"],
    compare: ["告诉我中国和美国分别各有哪些优点缺点", "告诉我中国和美国分别各有哪些优点缺点"], story: ["给我讲一些有关杭州的故事吧", "给我讲一些有关杭州的故事吧"],
    english: ["What is the capital of France?", "How do you say water in Chinese?"] },
  thread: { user: ["我", "Me"], title: ["消息", "Messages"], assistant: ["模型", "Model"], latest: ["最新", "Latest"] },
  message: { previous: ["上一个分支", "Previous branch"], next: ["下一个分支", "Next branch"], again: ["重新回答", "Answer again"],
    copy: ["复制", "Copy"], copied: ["已复制。", "Copied."], edit: ["编辑", "Edit"], continue: ["接着写", "Continue"],
    chance: ["概率", "Probabilities"], delete: ["删除", "Delete"], ask: ["保存并重问", "Save and ask"], save: ["保存", "Save"],
    cancel: ["取消", "Cancel"], request: ["请求", "Request"] },
  choice: { done: ["完成", "done"], use: ["用这个", "Use this one"], live: ["进行中", "running"] },
  figures: { first: ["首词元 {seconds} 秒", "first after {seconds} s"],
    ignored: ["没有起作用的参数：{fields}", "without effect: {fields}"], length: ["到了长度上限", "length limit reached"],
    tokens: ["{count} 词元", "{count} tokens"], rate: ["{rate} 词元/秒", "{rate} tokens/s"], stopped: ["已停止", "stopped"] },
  status: { ended: ["回答结束", "The answer has ended"], began: ["正在回答", "Answering"] },
  composer: { placeholder: ["输入问题", "Ask a question"], send: ["发送", "Send"], stop: ["停止", "Stop"],
    hint: ["Enter 发送，Shift+Enter 换行，Esc 停止", "Enter sends, Shift+Enter breaks the line, Esc stops"] },
  raw: { undo: ["撤销上一次续写", "Undo the last completion"],
    placeholder: ["写一个开头，Ctrl+Enter 从末尾续写。不加任何模板。", "Begin a text; Ctrl+Enter goes on at its end. No template."] },
  system: { title: ["系统提示词", "System prompt"] },
  key: { wrong: ["服务器不认识这个密钥。", "The server does not know this key."],
    remember: ["在这个浏览器里记住", "Remember it in this browser"],
    text: ["密钥由启动服务器的人给出（--api-key）。它只发给这台服务器。",
      "Whoever started the server has it (--api-key). It is sent to this server only."] },
  storage: { failed: ["浏览器没能保存这个对话，请导出。", "The browser could not save this chat; please export it."] },
  import: { done: ["导入了 {count} 个对话。", "Imported chats: {count}."],
    damaged: ["文件已损坏，什么也没有导入。", "The file is damaged; nothing was imported."],
    no_file: ["这不是本页导出的文件。", "This file was not exported by this page."],
    other_version: ["这个文件来自另一个版本，无法导入。", "This file is of another version and cannot be imported."] },
  error: { again_in: ["再试（{seconds} 秒）", "Try again ({seconds} s)"],
    model_not_found: ["服务器没有这个模型。", "The server does not have this model."],
    shutting_down: ["服务器正在关闭。", "The server is shutting down."],
    invalid_api_key: ["这台服务器要一个有效的密钥。", "This server wants a valid key."], drop: ["去掉最早的几轮", "Drop the oldest turns"],
    request_id: ["请求编号 {id}", "Request {id}"], again: ["再试", "Try again"],
    context_length_exceeded: ["对话太长，超出了模型的上下文。", "The chat is longer than the model's context."],
    server_loading: ["模型正在加载…加载完就发送。", "The model is loading… What you send waits for it."],
    server_overloaded: ["服务器满了，没有接受这个问题。", "The server is full and has not taken the question."],
    engine_dead: ["推理引擎已经停止，需要重启服务器。", "The engine has died; the server needs a restart."],
    request_timeout: ["这个请求超过了服务器允许的时间。", "The request took longer than the server allows."],
    unreachable: ["连不上服务器，正在重试。问题还在。", "The server cannot be reached; trying again. All is kept."],
    stream_broken: ["连接中断，回答不完整。", "The connection broke; the answer is incomplete."] },
};
Object.entries(OWN).forEach(([prefix, added]) => addWords(prefix, added));
