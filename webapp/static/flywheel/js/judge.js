// Tries a text on what a fine-tune made, without leaving the page. Without scripts the form does the same by itself.

import { put } from "./replace.js";

const form = document.getElementById("judge");
const told = form.dataset.failed;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = document.getElementById("try-now");
  const judged = document.getElementById("judged");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  judged.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(form.action, {
      method: "POST",
      body: new FormData(form),
      headers: { "HX-Request": "true" },
    });
    // Logged out, or deleted in another tab: the page, loaded again, says so.
    if (response.redirected || response.status === 404) return location.reload();
    if (!response.ok) throw new Error(response.statusText);
    put(judged, await response.text());
  } catch {
    const sentence = document.createElement("p");
    sentence.className = "notice notice-error";
    sentence.textContent = told;
    judged.replaceChildren(sentence);
  } finally {
    button.removeAttribute("aria-disabled");
    judged.removeAttribute("aria-busy");
  }
});
