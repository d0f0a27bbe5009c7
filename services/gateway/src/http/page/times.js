// Where the time of an answer went, and what of it was in a cache.

import { count, el, plural, time } from "./dom.js";

/**
 * The parts of an answer's time, one after the other. The worker's prefill holds the wait for features, and that holds
 * what was left of the encoding when the sequence began: here each moment counts once.
 */
export function parts(timings) {
  const { prepare_ms, encode_ms, transfer_ms, queue_ms, prefill_ms, decode_ms, total_ms } = timings;
  const features = Math.min(transfer_ms, prefill_ms);
  const encode = Math.min(Math.max(encode_ms - queue_ms, 0), features);
  const told = prepare_ms + queue_ms + prefill_ms + decode_ms;
  return [
    ["prepare", prepare_ms, "Reading the request, and waiting for the pools."],
    ["queue", queue_ms, "Waiting to be scheduled."],
    ["encode", encode, `Waiting for an encoding, which took ${time(encode_ms)} by itself.`],
    ["transfer", features - encode, "Features on their way; the text before them is computed meanwhile."],
    ["prefill", prefill_ms - features, "Computing the rest of the prompt."],
    ["decode", decode_ms, "From the first new token to the last."],
    ["rest", Math.max(total_ms - told, 0), "Between the services; or not told, where a stop string ended the answer."],
  ];
}

/** The bar, its numbers, and what was a hit. */
export function times({ started, sample, finish }) {
  const { timings, usage } = sample;
  const shares = parts(timings).filter(([, ms]) => ms > 0);
  const whole = shares.reduce((sum, [, ms]) => sum + ms, 0);
  const spoken = shares.map(([name, ms]) => `${name} ${time(ms)}`).join(", ");
  const bar = el("div", { class: "bar", role: "img", "aria-label": `Time: ${spoken}` });
  for (const [name, ms, about] of shares) {
    const segment = el("span", { class: `part ${name}`, title: `${name}: ${time(ms)}. ${about}` });
    segment.style.flexGrow = String(ms / whole);
    bar.append(segment);
  }
  const entry = ([name, ms, about]) =>
    el("li", { title: about, "data-part": name }, el("span", { class: `key ${name}` }), name, el("b", {}, time(ms)));
  return el(
    "div",
    { class: "times" },
    bar,
    el("ul", { class: "legend" }, ...shares.map(entry), el("li", { class: "total" }, "total", el("b", {}, time(timings.total_ms)))),
    facts({ started, sample, usage, finish }),
  );
}

function facts({ started, sample, usage, finish }) {
  const images = started.images.length;
  const stored = sample.images_stored_before;
  const reused = sample.reused_tokens;
  const hit = (is_hit, name, text) => el("li", { class: is_hit ? "hit" : "miss", "data-fact": name }, text);
  const plain = (name, text, title) => el("li", { "data-fact": name, title }, text);
  const decode = sample.timings.decode_ms;
  const made = usage.completion_tokens;
  const speed = made > 1 && decode > 0 ? `, ${Math.round(((made - 1) * 1000) / decode)} a second` : "";
  return el(
    "ul",
    { class: "facts" },
    images ? hit(stored > 0, "stored", `${count(stored)} of ${plural(images, "picture")} stored before`) : null,
    reused === null || reused === undefined
      ? null
      : hit(reused > 0, "reused", `${count(reused)} of ${plural(started.prompt_tokens, "prompt token")} reused`),
    plain("first", `first token after ${time(sample.timings.first_token_ms)}`),
    plain("tokens", `${plural(made, "new token")}${speed}`),
    plain("seed", `seed ${started.seed}`, "Equal seeds give equal answers."),
    sample.continuations ? plain("continued", `continued ${plural(sample.continuations, "time")} elsewhere`) : null,
    finish === "length" ? hit(false, "finish", "cut at its limit of tokens") : null,
  );
}
