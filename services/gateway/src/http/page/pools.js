// The tab "Pools": how each worker is, about once a second while somebody looks.

import { byId, bytes, count, el, failureCard, plural, svg } from "./dom.js";
import { Failure, read } from "./gateway.js";

const INTERVAL = 1000;
/** Reports that a curve shows. */
const CURVE = 60;

const STATES = {
  ready: "ready",
  new: "not asked yet",
  kept_out: "kept out",
  refusing: "takes no work",
  lost: "cannot be reached",
  ejected: "ejected",
};

/** What was reported of each worker before, by its address. */
let before = new Map();
let timer = null;
let looking = null;

/** Looks while this is true. */
export function watch(is_on) {
  clearTimeout(timer);
  looking?.abort();
  looking = null;
  if (is_on) look();
  else byId("live").className = "live";
}

async function look() {
  const controller = new AbortController();
  looking = controller;
  const live = byId("live");
  try {
    const now = await read("/tessera/pools", { signal: controller.signal });
    byId("pools-failure").replaceChildren();
    show(now, performance.now());
    live.className = "live on";
    live.textContent = "Live";
  } catch (error) {
    if (error.name === "AbortError") return;
    const failure = error instanceof Failure ? error : new Failure(String(error), "PAGE_FAILED", "Reload the page.");
    byId("pools-failure").replaceChildren(failureCard(failure));
    live.className = "live off";
    live.textContent = "No report";
  }
  if (looking === controller) timer = setTimeout(look, INTERVAL);
}

function show(pools, now) {
  const known = new Map();
  const section = (name, pool, columns) => {
    const workers = pool.workers.map((worker) => {
      const history = remember(before.get(worker.url), worker.load, now);
      known.set(worker.url, history);
      return row(worker, columns(worker.load, history));
    });
    return el(
      "section",
      { class: "pool", "aria-label": name, "data-pool": name.split(" ")[0].toLowerCase() },
      el("h3", {}, name, el("span", { class: "faint" }, plural(pool.workers.length, "worker"))),
      ...(workers.length ? workers : [el("p", { class: "faint" }, "Nobody is listed.")]),
      el(
        "p",
        { class: "faint counts" },
        `${plural(pool.ejections, "ejection")}, ${plural(pool.retries, "retry", "retries")}, ${plural(pool.hedges, "hedge")} since the gateway started. `,
        pool.model ? el("span", { title: pool.model }, `Runs ${pool.model.slice(0, 12)}…`) : null,
      ),
    );
  };
  byId("pools").replaceChildren(section("Vision pool", pools.vision, vision), section("Language pool", pools.language, language));
  before = known;
}

/** A report beside the ones before it: what grew, divided by the time between two. */
function remember(last, load, now) {
  const total = load?.new_tokens ?? load?.busy_ms;
  if (total === undefined) return { rates: [] };
  const seconds = last?.at === undefined ? 0 : (now - last.at) / 1000;
  const rates = last?.rates ?? [];
  // One that started anew counts from the beginning.
  const is_grown = seconds > 0 && total >= last.total;
  return { at: now, total, rates: is_grown ? [...rates, (total - last.total) / seconds].slice(-CURVE) : rates };
}

function row(worker, figures) {
  const entry = ([name, term, ...values]) => el("div", { "data-figure": name }, el("dt", {}, term), el("dd", {}, ...values));
  return el(
    "article",
    { class: `worker ${worker.state}`, "data-worker": worker.url, "data-state": worker.state },
    el(
      "header",
      {},
      el("code", {}, worker.url),
      el("span", { class: "state" }, STATES[worker.state] ?? worker.state),
      worker.version ? el("span", { class: "faint" }, `v${worker.version}`) : null,
    ),
    worker.why ? el("p", { class: "why faint" }, worker.why) : null,
    el("dl", {}, ...[["in-flight", "In flight", count(worker.in_flight)], ...figures].map(entry)),
  );
}

const unknown = () => el("span", { class: "faint" }, "not reported");

function vision(load, { rates }) {
  if (!load) return [["load", "Load", unknown()]];
  const busy = rates.length ? Math.min(rates.at(-1) / 10, 100) : 0;
  return [
    ["tiles", "Tiles in work", ...filled(load.tiles, load.most_tiles, count)],
    ["busy", "Device busy", `${Math.round(busy)} %`, curve(rates, 1000)],
    ["memory", "Features in memory", ...filled(load.memory.bytes, load.memory.most, bytes)],
    load.disk.most
      ? ["disk", "Features on disk", ...filled(load.disk.bytes, load.disk.most, bytes)]
      : ["disk", "Features on disk", el("span", { class: "faint" }, "none")],
  ];
}

function language(load, { rates }) {
  if (!load) return [["load", "Load", unknown()]];
  const used = load.total_blocks - load.free_blocks;
  return [
    ["queue", "Sequences", `${count(load.running)} running`, el("span", { class: "faint" }, `${count(load.waiting)} waiting`)],
    ["tokens", "Tokens a second", rates.length ? count(rates.at(-1)) : "0", curve(rates)],
    ["blocks", "KV blocks used", ...filled(used, load.total_blocks, count)],
    ["reuse", "Prompt reused", `${Math.round(load.prefix_hit_rate * 100)} %`, el("span", { class: "faint" }, "since its start")],
  ];
}

/** So much of so much, and a bar of it. */
function filled(part, whole, words) {
  const share = whole ? Math.min(part / whole, 1) : 0;
  const fill = el("span", {});
  fill.style.width = `${100 * share}%`;
  return [`${words(part)} `, el("span", { class: "faint" }, `of ${words(whole)}`), el("span", { class: share > 0.9 ? "fill full" : "fill" }, fill)];
}

/** The last minute, up to `top` or the highest. */
function curve(rates, top = Math.max(...rates, 1)) {
  const points = rates.map((rate, index) => `${CURVE - rates.length + index},${20 - 19 * Math.min(rate / top, 1)}`);
  const shape = { class: "curve", viewBox: `0 0 ${CURVE - 1} 21`, preserveAspectRatio: "none", "aria-hidden": "true" };
  return svg("svg", shape, svg("polyline", { points: points.join(" ") }));
}
