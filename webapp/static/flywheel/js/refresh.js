// Keeps parts of a page current while a worker is busy with what they show: asks for them soon, because most of it is
// done soon, then ever seldomer down to once a second; or every `data-every` milliseconds. `data-refresh` names where
// from; the part is busy as long as the server marks something in it with `data-busy`.

import { announce } from "./announce.js";
import { put } from "./replace.js";

const FIRST = 150;
const SELDOMEST = 1_000;
const SAID = "flywheel.said";

/** Asks for a part now, and goes on asking while it is busy. */
export function refresh(element) {
  clearTimeout(element.refreshTimer);
  element.refreshRest = FIRST;
  return ask(element);
}

async function ask(element) {
  try {
    const response = await fetch(element.dataset.refresh);
    // Logged out, or deleted in another tab: the page, loaded again, says so.
    if (response.redirected || response.status === 404) return location.reload();
    if (!response.ok) throw new Error(response.statusText);
    put(element, await response.text());
  } catch {
    return later(element);
  }
  if (element.querySelector("[data-busy]")) return later(element);
  const said = element.querySelector("[data-say]")?.dataset.say ?? "";
  if (element.dataset.then !== "reload") return announce(said);
  sessionStorage.setItem(SAID, said);
  location.reload();
}

function later(element) {
  const rest = element.refreshRest ?? FIRST;
  element.refreshRest = Math.min(1.5 * rest, SELDOMEST);
  element.refreshTimer = setTimeout(() => ask(element), Number(element.dataset.every) || rest);
}

for (const element of document.querySelectorAll("[data-refresh]")) {
  if (element.querySelector("[data-busy]")) later(element);
}
const said = sessionStorage.getItem(SAID);
if (said) {
  sessionStorage.removeItem(SAID);
  announce(said);
}
