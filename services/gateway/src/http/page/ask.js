// The tab "Ask": pictures, questions about them, answers as they are made.

import { button, byId, bytes, count, el, failureCard, plural } from "./dom.js";
import { Failure, ask, events, read } from "./gateway.js";
import { mosaic } from "./mosaic.js";
import { Picture, takeFiles } from "./pictures.js";
import { times } from "./times.js";

/** Questions that one conversation holds. */
const MOST_TURNS = 64;

const limits = { images: 16, request_bytes: 128 << 20, max_tokens: 256 };
let model = "";
/** What was asked, with answers. */
let turns = [];
/** Pictures that go with the next question. */
let staged = [];
let selected = null;
/** Stops the answer that is being made. */
let stopping = null;

const questions = byId("question");
const pictures = () => [...turns.flatMap((turn) => turn.pictures), ...staged];

/** Learns what requests may be and which model there is; again once a token was given. */
export async function learn() {
  const about = await read("/tessera/about");
  Object.assign(limits, about);
  byId("version").textContent = `v${about.version}`;
  byId("max-tokens").placeholder = String(about.max_tokens);
  const models = await read("/v1/models");
  model = models.data[0]?.id ?? "";
  byId("model").textContent = model;
}

export function start() {
  takeFiles({
    input: byId("files"),
    buttons: [byId("choose"), byId("drop")],
    isWelcome: () => !byId("panel-ask").hidden,
    take,
  });
  const composer = byId("composer");
  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    if (stopping) stopping.abort();
    else send();
  });
  // What is wrong with a setting is said beside it.
  composer.addEventListener("invalid", () => openSettings(true), true);
  questions.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!stopping) composer.requestSubmit();
  });
  questions.addEventListener("input", fit);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stopping?.abort();
  });
  byId("new").addEventListener("click", begin);
  byId("settings-toggle").addEventListener("click", () => {
    const is_open = byId("settings").hidden;
    openSettings(is_open);
    if (is_open) byId("max-tokens").focus();
  });
  byId("settings").addEventListener("input", tellSettings);
}

/** Takes files as pictures of the next question, and shows how each is cut. */
async function take(files) {
  const shown = byId("picture-failures");
  const fail = (failure) => {
    const card = failureCard(failure, () => card.remove());
    // The last few: there may be many.
    shown.replaceChildren(...[...shown.children].slice(-2), card);
  };
  shown.replaceChildren();
  for (const file of files) {
    if (pictures().length >= limits.images) {
      const message = `a conversation holds ${plural(limits.images, "picture")}`;
      return fail(new Failure(message, "TOO_MANY_IMAGES", "Remove one, or begin a new conversation."));
    }
    const picture = new Picture(file);
    try {
      await picture.inspect(limits.request_bytes);
      staged.push(picture);
      select(picture);
    } catch (failure) {
      picture.forget();
      fail(failure);
    }
  }
  questions.focus({ preventScroll: true });
}

function select(picture) {
  selected = picture;
  const all = pictures();
  byId("drop").hidden = all.length > 0;
  const place = byId("mosaic");
  place.hidden = !picture;
  place.replaceChildren(...(picture ? [el("h3", {}, picture.name), mosaic(picture)] : []));
  byId("picture-count").textContent = all.length ? `${all.length} of ${limits.images}` : "";
  const thumbs = byId("thumbs");
  thumbs.hidden = all.length === 0;
  thumbs.replaceChildren(...all.map(thumb));
  byId("new").disabled = all.length === 0 && turns.length === 0;
}

function thumb(picture) {
  const is_staged = staged.includes(picture);
  const state = is_staged ? "goes with the next question" : "part of the conversation";
  const show = shower(picture, `; ${state}`);
  show.setAttribute("aria-pressed", String(picture === selected));
  show.append(el("span", {}, count(picture.plan.image_tokens)));
  const remove = () => {
    staged = staged.filter((other) => other !== picture);
    picture.forget();
    select(picture === selected ? (pictures().at(-1) ?? null) : selected);
    questions.focus({ preventScroll: true });
  };
  return el("li", {}, show, is_staged ? button("quiet remove", `Remove ${picture.name}`, remove, "×") : null);
}

/** A small picture that shows, when pressed, how it is cut. */
function shower(picture, state = "") {
  const show = () => {
    select(picture);
    byId("thumbs").querySelector('[aria-pressed="true"]').focus();
  };
  return button("thumb", `Show how ${picture.name} is cut${state}`, show, el("img", { src: picture.url, alt: "" }));
}

/** Begins a new conversation. */
function begin() {
  stopping?.abort();
  pictures().forEach((picture) => picture.forget());
  [turns, staged] = [[], []];
  byId("turns").replaceChildren(byId("hint") ?? hint);
  byId("picture-failures").replaceChildren();
  byId("notice").replaceChildren();
  select(null);
  questions.focus({ preventScroll: true });
}
const hint = byId("hint");

function openSettings(is_open) {
  byId("settings").hidden = !is_open;
  byId("settings-toggle").setAttribute("aria-expanded", String(is_open));
}

const setting = (id) => byId(id).value.trim();

/** The settings of the next answer, as the API calls them; the seed as it was written. Throws a `Failure`. */
function settings() {
  const [tokens, temperature, schema] = ["max-tokens", "temperature", "schema"].map(setting);
  const found = {};
  if (tokens) found.max_tokens = Number(tokens);
  if (temperature) found.temperature = Number(temperature);
  if (schema) found.response_format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema: parsed(schema) } };
  return { found, seed: setting("seed").replace(/^0+(?=.)/, "") };
}

function parsed(schema) {
  try {
    return JSON.parse(schema);
  } catch (error) {
    throw new Failure(`the schema is not JSON: ${error.message}`, "SETTING_INVALID", 'Write one such as {"type": "string"}.');
  }
}

function tellSettings() {
  const told = ["max-tokens", "temperature", "seed"].filter(setting).map((id) => `${id.replace("-", " ")} ${setting(id)}`);
  if (setting("schema")) told.push("JSON schema");
  byId("settings-told").textContent = told.join(", ");
}

async function send() {
  const text = questions.value.trim();
  const notice = byId("notice");
  notice.replaceChildren();
  try {
    if (!text) throw new Failure("there is no question", "QUESTION_EMPTY", "Write one, then send it.");
    if (turns.length >= MOST_TURNS) {
      throw new Failure(`a conversation holds ${MOST_TURNS} questions`, "CONVERSATION_FULL", "Begin a new one.");
    }
    const [size, most] = [pictures().reduce((sum, picture) => sum + picture.size(), 0), limits.request_bytes];
    if (size > most) throw new Failure(`the pictures take ${bytes(size)}, the limit is ${bytes(most)}`, "MESSAGE_TOO_LARGE", "Remove one.");
    await answer(text, settings());
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    notice.replaceChildren(failureCard(failure, () => notice.replaceChildren()));
    questions.focus({ preventScroll: true });
  }
}

/** Asks, and shows the answer as it comes. */
async function answer(text, { found, seed }) {
  const turn = { text, pictures: staged, answer: "", started: null, finish: null };
  const nodes = show(turn);
  [staged, turns] = [[], [...turns, turn]];
  questions.value = "";
  fit();
  select(selected);
  running(new AbortController());
  nodes.answer.setAttribute("aria-busy", "true");
  let failure = null;
  try {
    await followed(turn, found, seed, nodes);
    tell("The answer is complete.");
    if (!turn.answer) nodes.turn.append(el("p", { class: "stopped" }, "The answer is empty"));
  } catch (error) {
    if (error.name === "AbortError") {
      tell("Stopped.");
      nodes.turn.append(el("p", { class: "stopped" }, "Stopped"));
    } else {
      failure = error instanceof Failure ? error : new Failure(String(error.message ?? error), "PAGE_FAILED", "Reload the page.");
      nodes.turn.append(failureCard(failure));
    }
  }
  cancelAnimationFrame(nodes.frame);
  paint(turn, nodes);
  nodes.answer.removeAttribute("aria-busy");
  running(null);
  if (!turn.answer) takeBack(turn);
  toEnd();
  questions.focus({ preventScroll: true });
}

/** A question that got no answer is no part of the conversation: it can be sent again. */
function takeBack(turn) {
  if (!turns.includes(turn)) return;
  turns = turns.filter((other) => other !== turn);
  if (!questions.value) questions.value = turn.text;
  staged = [...turn.pictures, ...staged];
  fit();
  select(selected);
}

/** Asks until there is an answer: where a handle stands for nothing any more, its picture is sent once more. */
async function followed(turn, found, seed, nodes) {
  try {
    await follow(turn, found, seed, nodes);
  } catch (error) {
    const lost = pictures().filter((picture) => picture.handle && picture.handle === error.about?.key);
    if (!lost.length || turn.answer) throw error;
    for (const picture of lost) picture.handle = null;
    await followed(turn, found, seed, nodes);
  }
}

async function follow(turn, found, seed, nodes) {
  if (!model) await learn();
  const { signal } = stopping;
  const body = JSON.stringify({
    model,
    messages: await messages(),
    stream: true,
    stream_options: { include_usage: true },
    ...found,
  });
  const response = await ask("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    // A seed has more digits than a number of JavaScript.
    body: seed ? `{"seed":${seed},${body.slice(1)}` : body,
    signal,
  });
  for await (const { choices, tessera } of events(response)) {
    signal.throwIfAborted();
    const choice = choices?.[0];
    turn.finish = choice?.finish_reason ?? turn.finish;
    if (tessera?.images) {
      turn.started = tessera;
      const sent = turns.flatMap((each) => each.pictures);
      tessera.images.forEach((image, index) => { if (sent[index]) sent[index].handle = image.key; });
    }
    turn.answer += choice?.delta?.content ?? "";
    nodes.frame ||= requestAnimationFrame(() => paint(turn, nodes));
    if (tessera?.samples?.length && turn.started) {
      nodes.turn.append(times({ started: turn.started, sample: tessera.samples[0], finish: turn.finish }));
      toEnd();
    }
  }
}

/** Shows what there is of an answer: once a frame, however fast it comes. */
function paint(turn, nodes) {
  nodes.answer.append(turn.answer.slice(nodes.shown));
  [nodes.shown, nodes.frame] = [turn.answer.length, 0];
  toEnd();
}

/** All turns, as the API takes them. */
async function messages() {
  const told = [];
  for (const { text, pictures, answer: answered } of turns) {
    const parts = pictures.map((picture) => picture.part());
    told.push({ role: "user", content: [...(await Promise.all(parts)), { type: "text", text }] });
    if (answered) told.push({ role: "assistant", content: answered });
  }
  return told;
}

/** Shows a question, and the place of its answer. */
function show(turn) {
  byId("hint")?.remove();
  const shown = turn.pictures.map((picture) => shower(picture));
  const place = el("p", { class: "answer", "aria-live": "polite", "aria-atomic": "true" });
  const node = el(
    "article",
    { class: "turn" },
    el("div", { class: "asked" }, shown.length ? el("div", { class: "thumbs" }, ...shown) : null, el("p", {}, turn.text)),
    place,
  );
  byId("turns").append(node);
  const nodes = { turn: node, answer: place, shown: 0, frame: 0 };
  toEnd(true);
  return nodes;
}

/** Keeps the end in sight of whoever looks at it. */
function toEnd(is_wanted = false) {
  const box = byId("turns");
  const scrolls = getComputedStyle(box).overflowY === "visible" ? document.scrollingElement : box;
  const is_near = scrolls.scrollHeight - scrolls.scrollTop - scrolls.clientHeight < 160;
  if (is_wanted || is_near) scrolls.scrollTop = scrolls.scrollHeight;
}

function running(controller) {
  stopping = controller;
  const send = byId("send");
  send.textContent = controller ? "Stop" : "Send";
  send.classList.toggle("stop", controller !== null);
}

/** As high as what is written. */
function fit() {
  questions.style.height = "auto";
  questions.style.height = `${Math.min(questions.scrollHeight, 200)}px`;
}

function tell(text) {
  byId("status").textContent = text;
}
