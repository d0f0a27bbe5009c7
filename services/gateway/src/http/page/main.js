// The page put together: tabs, light and dark, the token.

import * as talk from "./ask.js";
import { byId, failureCard } from "./dom.js";
import { Failure, door, giveToken } from "./gateway.js";
import { watch } from "./pools.js";

const tabs = [byId("tab-ask"), byId("tab-pools")];

function open(tab, is_chosen = false) {
  for (const other of tabs) {
    const is_open = other === tab;
    other.setAttribute("aria-selected", String(is_open));
    other.tabIndex = is_open ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !is_open;
  }
  if (is_chosen) {
    tab.focus();
    history.replaceState(null, "", tab.id === "tab-pools" ? "#pools" : "#ask");
  }
  look();
}

/** Looks at the pools while they are in sight. */
function look() {
  watch(!document.hidden && !byId("panel-pools").hidden);
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => open(tab, true));
  tab.addEventListener("keydown", (event) => {
    const next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: -1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    open(tabs.at(next % tabs.length), true);
  });
}
document.addEventListener("visibilitychange", look);

const THEMES = ["auto", "light", "dark"];

function paint(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme[0].toUpperCase() + theme.slice(1);
  byId("theme").setAttribute("aria-label", `Colours: ${theme}`);
}

// Storage may be forbidden: then the choice lasts as long as the page.
const stored = (act) => {
  try {
    return act(localStorage);
  } catch {
    return null;
  }
};

byId("theme").addEventListener("click", () => {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  paint(theme);
  stored((storage) => storage.setItem("tessera-theme", theme));
});
const chosen = stored((storage) => storage.getItem("tessera-theme"));
paint(THEMES.includes(chosen) ? chosen : "auto");

door.addEventListener("closed", ({ detail }) => {
  byId("token-form").hidden = false;
  byId("token-why").textContent = `${detail.message} (${detail.reason})`;
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("token-form").hidden = true;
  giveToken(byId("token").value);
  byId("token").value = "";
});

async function learn() {
  try {
    await talk.learn();
    byId("notice").replaceChildren();
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (byId("token-form").hidden) byId("notice").replaceChildren(failureCard(failure, () => byId("notice").replaceChildren()));
    else byId("token").focus();
  }
}
door.addEventListener("open", () => {
  learn();
  look();
});

talk.start();
open(location.hash === "#pools" ? tabs[1] : tabs[0]);
learn();
