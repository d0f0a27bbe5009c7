// The way to the gateway: requests, streams of events, and what goes wrong with them.

/** Longest event of a stream. */
const LONGEST_EVENT = 8 << 20;

/** Kept in memory only. */
let token = "";

/** Told when the gateway wants to know who asks, and when it was told. */
export const door = new EventTarget();

export function giveToken(text) {
  token = text.trim();
  door.dispatchEvent(new Event("open"));
}

/** What went wrong: a message for people, the reason that stays, what to do. */
export class Failure extends Error {
  constructor(message, reason, advice = "", about = {}) {
    super(message);
    Object.assign(this, { reason, advice, about });
  }
}

const ADVICE = {
  Unauthenticated: "Enter a token at the top of the page, then send it again.",
  Denied: "Ask the gateway's operator to let you in.",
  Precondition: "Reload the page and begin a new conversation.",
  Unavailable: "The tab Pools shows who cannot be reached. Try again when it is back.",
  Deadline: "Ask for fewer tokens, or try again when less is going on.",
  Internal: "That is a fault of the system: its log says more.",
};

const ADVICE_BY_REASON = {
  TOO_MANY_IMAGES: "Begin a new conversation.",
  PROMPT_TOO_LONG: "Begin a new conversation, or ask for fewer tokens.",
  MESSAGE_TOO_LARGE: "Use smaller or fewer pictures.",
};

/** The failure that an error in OpenAI's form is; `wait`: seconds after which it is worth while to come back. */
function failureOf(error, status, wait) {
  const kind = error.details?.kind;
  const later = wait ? `Try again in ${wait} s.` : "Try again in a moment.";
  const advice = kind === "Exhausted" ? later : (ADVICE_BY_REASON[error.code] ?? ADVICE[kind] ?? "");
  const failure = new Failure(error.message ?? "it failed", error.code ?? `HTTP ${status}`, advice, error.details?.metadata ?? {});
  if (kind === "Unauthenticated") door.dispatchEvent(new CustomEvent("closed", { detail: failure }));
  return failure;
}

const unreachable = () =>
  new Failure(
    `the gateway does not answer at ${location.origin}`,
    "GATEWAY_UNREACHABLE",
    "Start it again (tessera up), then send your question again.",
  );

const brokenOff = () =>
  new Failure(
    "the connection to the gateway was lost in mid-answer",
    "CONNECTION_LOST",
    "Ask again once the gateway is back.",
  );

/** Asks the gateway. Throws a `Failure`, or an `AbortError` where the caller stopped it. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  let error;
  try {
    error = JSON.parse(text).error;
  } catch {
    // Not of the gateway's own making: a proxy, or a route that is switched off.
  }
  if (error) throw failureOf(error, response.status, response.headers.get("retry-after"));
  const advice = response.status === 404 ? "The gateway's settings leave it out (http.api)." : "";
  throw new Failure(text.trim().slice(0, 300) || response.statusText, `HTTP ${response.status}`, advice);
}

export const read = async (path, options) => (await ask(path, options)).json();

// A seed has 64 bits, and a number of JavaScript 53: where the browser tells how it was written, that is kept.
const exact = (name, value, context) => (name === "seed" && context?.source ? context.source : value);

/** The events of a stream, until it says that it is done. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : brokenOff();
    }
    if (part.done) throw brokenOff();
    rest += part.value;
    const whole = rest.split("\n\n");
    rest = whole.pop();
    if (rest.length > LONGEST_EVENT) throw brokenOff();
    for (const event of whole) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const value = JSON.parse(data, exact);
      if (value.error) throw failureOf(value.error, response.status);
      yield value;
    }
  }
}
