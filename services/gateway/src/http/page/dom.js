// Small helpers: elements, numbers as people read them. Text is always set as text.

export const byId = (id) => document.getElementById(id);

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An element of HTML. */
export const el = (tag, attributes = {}, ...children) => put(document.createElement(tag), attributes, children);

/** An element of SVG. */
export const svg = (tag, attributes = {}, ...children) =>
  put(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** A button that does something at once. */
export const button = (name, label, act, ...children) =>
  el("button", { type: "button", class: name, "aria-label": label, onclick: act }, ...children);

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (number) => grouped.format(number).replaceAll(",", "\u202f");

/** Milliseconds, with as many digits as mean something. */
export function time(ms) {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  if (ms >= 10 || ms === 0) return `${Math.round(ms)} ms`;
  return `${ms.toFixed(1)} ms`;
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; number >= 1024 && unit < units.length - 1; unit += 1) number /= 1024;
  return `${unit === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)} ${units[unit]}`;
}

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** What failed, shown as what it is: the message, the reason, and what to do. */
export function failureCard(failure, leave) {
  return el(
    "div",
    { class: "failure" },
    el("p", { class: "message" }, failure.message),
    failure.advice ? el("p", { class: "advice" }, failure.advice) : null,
    el("code", { class: "reason" }, failure.reason),
    leave ? button("leave", "Dismiss", leave, "×") : null,
  );
}
