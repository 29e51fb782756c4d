// Copies code and answers, also where the browser's clipboard is closed to pages without HTTPS.

import { announce } from "./announce.js";
import { strings } from "./strings.js";
import { toast } from "./toast.js";

document.addEventListener("click", async (event) => {
  const code = event.target.closest(".copy");
  const answer = event.target.closest("[data-copy-answer]");
  const button = code ?? answer;
  if (!button) return;
  try {
    await write(code ? code.closest("figure").querySelector("pre").textContent : fetchText(answer.dataset.copyAnswer));
    button.dataset.copied = "";
    const use = answer?.querySelector("use");
    use?.setAttribute("href", use.getAttribute("href").replace("#copy", "#check"));
    announce(strings.copied);
    setTimeout(() => {
      delete button.dataset.copied;
      use?.setAttribute("href", use.getAttribute("href").replace("#check", "#copy"));
    }, 1_500);
  } catch {
    toast(strings.copyFailed);
  }
});

async function fetchText(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(response.statusText);
  return response.text();
}

/** `text` may be a promise: Safari lets a page write later only what it promised at the click. */
async function write(text) {
  if (navigator.clipboard?.write && window.ClipboardItem) {
    const blob = Promise.resolve(text).then((value) => new Blob([value], { type: "text/plain" }));
    return navigator.clipboard.write([new ClipboardItem({ "text/plain": blob })]);
  }
  const area = document.createElement("textarea");
  area.value = await text;
  area.className = "visually-hidden";
  document.body.append(area);
  const before = document.activeElement;
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  before?.focus();
  if (!copied) throw new Error("copy");
}
