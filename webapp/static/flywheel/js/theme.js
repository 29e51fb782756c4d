// Light, dark, or as the system says; and the reader's time zone, by which the server groups days.

import { remember } from "./cookies.js";

function choose(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  for (const meta of document.querySelectorAll("[data-theme-colour]")) {
    const own = meta.dataset.themeColour;
    if (theme) meta.media = theme === own ? "all" : "not all";
    else meta.media = `(prefers-color-scheme: ${own})`;
  }
  for (const button of document.querySelectorAll("[data-theme-choice]")) {
    button.setAttribute("aria-pressed", String(button.dataset.themeChoice === theme));
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-theme-choice]");
  if (!button) return;
  const theme = button.dataset.themeChoice;
  remember("flywheel_theme", theme);
  choose(theme);
  channel?.postMessage(theme);
});

// Other tabs change with this one.
const channel = "BroadcastChannel" in window ? new BroadcastChannel("flywheel-theme") : null;
channel?.addEventListener("message", (event) => choose(event.data));

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone) remember("flywheel_timezone", zone);
