// Tells screen readers, once, that an answer is finished, and what it says. Nothing is read out while it grows.

import { strings } from "./strings.js";

const LONGEST = 3_000;
const live = document.getElementById("live");

export function announce(sentence) {
  // The same sentence twice is spoken twice only if the region was empty in between.
  live.textContent = "";
  setTimeout(() => (live.textContent = sentence), 50);
}

/** A finished reply. */
export function announceReply(article) {
  const state = article.dataset.state;
  const text = article.querySelector(".reply").innerText.trim();
  // That it was stopped is the opening's word already.
  const status = state === "cancelled" ? "" : (article.querySelector(".status > span")?.textContent ?? "");
  const opening = { complete: strings.answered, cancelled: strings.stopped }[state] ?? strings.failed;
  announce([opening, text.slice(0, LONGEST), status].filter(Boolean).join(" "));
}
