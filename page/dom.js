/** Nodes made without HTML text, and what browsers do differently about keys, copying and ids. */

const NAMES = { class: "className", text: "textContent" };
const SAFARI_MARGIN = 50;
let compositionEnd = -Infinity;
document.addEventListener("compositionend", (event) => (compositionEnd = event.timeStamp), true);

/** The element of index.html with that id. */
export const $ = (id) => document.getElementById(id);

/**
 * Makes an element. Properties are set as DOM properties where the element has one, else as attributes (and `type`
 * always: a textarea's can only be read); `class`, `text`, `on: {click: f}` and `data: {id: "1"}` are what they say.
 * Children are nodes or strings; null, undefined, false and empty strings are left out.
 */
export function element(tag, { data, on = {}, ...properties } = {}, ...children) {
  const node = document.createElement(tag);
  Object.assign(node.dataset, data);
  Object.entries(on).forEach(([type, f]) => node.addEventListener(type, f));
  for (const [name, value] of Object.entries(properties)) {
    const property = NAMES[name] ?? name;
    if (value === null || value === undefined) continue;
    if (property in node && name !== "type") node[property] = value;
    else node.setAttribute(name, value);
  }
  node.append(...kept(children));
  return node;
}

/** Replaces what is in a node by children as `element` takes them; gives back the node. */
export function fill(node, ...children) {
  node.replaceChildren(...kept(children));
  return node;
}

const kept = (children) => children.flat().filter((child) => ![null, undefined, false, ""].includes(child));

/** Makes an SVG that shows one of the symbols of index.html, such as "copy" for `#icon-copy`; hidden from readers. */
export function icon(name) {
  const svg = document.querySelector(".icon").cloneNode(true);
  svg.firstElementChild.setAttribute("href", `#icon-${name}`);
  return svg;
}

/** Makes a button that shows an icon and is named by `label`, also as its tooltip. */
export function iconButton(name, label, onClick, properties = {}) {
  const button = textButton("", onClick, { class: "icon-button", title: label, "aria-label": label, ...properties });
  return fill(button, icon(name));
}

/** Makes a button that shows its label. */
export const textButton = (label, onClick, properties = {}) => (
  element("button", { type: "button", class: "button", text: label, on: { click: onClick }, ...properties }));

/**
 * Whether a key belongs to an input method that composes text, so that no handler may act on it. Safari ends the
 * composition before the keydown that confirms it, therefore the margin.
 */
export const isComposing = (event) => (
  event.isComposing || event.keyCode === 229 || event.timeStamp - compositionEnd < SAFARI_MARGIN);

/**
 * Calls what `keys` has for a key pressed in a node, by names such as "enter" and "control+shift+o" (⌘ counts as
 * Control). A function that returns false has not acted: then the key does what it does elsewhere.
 */
export function onKeys(node, keys) {
  node.addEventListener("keydown", (event) => {
    const held = [(event.ctrlKey || event.metaKey) && "control", event.shiftKey && "shift"].filter(Boolean);
    const act = keys[[...held, event.key?.toLowerCase()].join("+")];
    if (isComposing(event) || !act || act() === false) return;
    event.preventDefault();
    event.stopPropagation();
  });
}

/** Copies text, by a hidden textarea where the browser has no clipboard for pages (http on a LAN). */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const focused = document.activeElement;
  const area = element("textarea", { class: "visually-hidden", value: text, readOnly: true });
  (document.querySelector("dialog:modal") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused.focus();
}

/** Makes an id of 32 hexadecimal digits; `crypto.randomUUID` is missing over plain http. */
export const newId = () => (
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join(""));

/** Makes a function that calls `f` once, `ms` milliseconds after its last call, with the arguments of that. */
export function debounce(f, ms) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(f, ms, ...values);
  };
}
