// The page of a fine-tune: its parts are put in anew whenever the server says that they are others.

import { announce } from "./announce.js";
import { showConnection } from "./connection.js";
import { put } from "./replace.js";
import { Socket } from "./socket.js";

const page = document.getElementById("job");
const socket = new Socket("/ws/jobs/");
const state = () => page.querySelector("[data-state]");

socket.addEventListener("up", () => socket.send({ type: "watch", job: page.dataset.job }));
socket.on("job", (frame) => {
  const before = state().dataset.state;
  for (const [name, html] of Object.entries(frame.html)) {
    const part = page.querySelector(`[data-part="${CSS.escape(name)}"]`);
    // What is being tried stays as it is: a connection that comes back brings all parts again.
    if (name !== "try" || !part.childElementCount) put(part, html);
  }
  if (state().dataset.state !== before) announce(state().dataset.say);
});
// Deleted, or no longer this person's to see: the page, loaded again, says so.
socket.on("gone", () => location.reload());
socket.on("error", (frame) => frame.code === "not_found" && location.reload());
showConnection(document.getElementById("connection"), socket);
socket.start();
