// What every page of a logged-in person runs: the rail, its list, and the socket they listen to.

import { startList } from "./list.js";
import { fitToKeyboard, startRail } from "./rail.js";
import { socket } from "./socket.js";

startRail();
fitToKeyboard();
startList();
// A person without a workspace has nothing to listen to.
if (document.getElementById("search")) socket.start();
document.querySelector("[data-logout]")?.addEventListener("submit", () => {
  // What was not sent, and drafts, are nobody else's business on this machine.
  sessionStorage.clear();
  for (const key of Object.keys(localStorage)) if (key.startsWith("flywheel.draft.")) localStorage.removeItem(key);
});
