/** Requests to the server that the page came from: JSON, streams of events, the key, and errors. */

const BASE = new URL("..", import.meta.url);
const KEY = "alpaca-page.key";
const listeners = new Set();

/** A failure: the server's own error, or status 0 where there was no reply or a stream broke off. */
export class ServerError extends Error {
  /** `retryAfter` is in seconds; `code`, `param` and `requestId` are null where the server names none. */
  constructor(message, { status = 0, code = null, param = null, requestId = null, retryAfter = null }) {
    super(message);
    Object.assign(this, { status, code, param, requestId, retryAfter });
  }
}

/** The absolute URL of a path such as "v1/models", also behind a proxy that adds a prefix. */
export const serverURL = (path) => new URL(path, BASE).href;

/** Keeps the key for this tab, or for this browser if `remember`. */
export function setKey(key, remember) {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  (remember ? localStorage : sessionStorage).setItem(KEY, key);
}

const getKey = () => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY);

/** Whether requests carry a key. */
export const hasKey = () => getKey() !== null;

/** Calls `f(ServerError)` for each request that fails, before whoever made it is told. */
export const onFailure = (f) => listeners.add(f);

/** Sends a request, with `body` as JSON by POST, and returns the reply's JSON, or null. */
export const request = (path, { body } = {}) => (
  send(path, { body }, async (response) => JSON.parse(await response.text() || "null")));

/**
 * Sends `body` by POST and calls `onEvent(object)` for each event of the stream, after `onHeaders(headers)`. The
 * promise ends with the stream; it fails with ServerError for an event that is an error, or if the stream breaks off.
 */
export async function stream(path, body, { signal, onEvent, onHeaders }) {
  await send(path, { body, signal }, async (response) => {
    const requestId = response.headers.get("X-Request-Id");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    onHeaders(response.headers);
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) throw new ServerError("The stream broke off.", { code: "stream_broken", requestId });
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events.filter((each) => each.startsWith("data: "))) { // others keep the connection alive
        const data = event.slice("data: ".length);
        if (data === "[DONE]") return;
        const { error, ...found } = JSON.parse(data);
        if (error) throw new ServerError(error.message, { ...error, status: 500, requestId });
        onEvent(found);
      }
    }
  });
}

/** Sends a request and gives its response to `take`; whatever the page did not abort itself fails as a ServerError. */
async function send(path, { body, signal }, take) {
  const headers = { "Content-Type": "application/json" };
  if (hasKey()) headers.Authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(getKey()))}`;
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  try {
    const response = await fetch(serverURL(path), { ...options, headers, signal, cache: "no-store" });
    if (!response.ok) throw await toError(response);
    return await take(response);
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    const error = failure instanceof ServerError ? failure : new ServerError(failure.message, { code: "unreachable" });
    listeners.forEach((f) => f(error));
    throw error;
  }
}

async function toError(response) {
  const { status, statusText, headers } = response;
  const { error } = await response.json().catch(() => ({}));
  const retryAfter = Number(headers.get("Retry-After")) || null;
  const found = { ...error, status, requestId: headers.get("X-Request-Id"), retryAfter };
  return new ServerError(error?.message ?? `${status} ${statusText}`, found);
}
