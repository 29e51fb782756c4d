// The slim line that says the connection is being restored. It shows only if that takes a moment.

import { socket as chat } from "./socket.js";
import { strings } from "./strings.js";

const PATIENCE = 1_500;

export function showConnection(line, socket = chat) {
  let timer = 0;
  socket.addEventListener("down", () => {
    if (timer) return;
    timer = setTimeout(() => {
      line.textContent = strings.reconnecting;
      line.hidden = false;
    }, PATIENCE);
  });
  socket.addEventListener("up", () => {
    clearTimeout(timer);
    timer = 0;
    line.hidden = true;
  });
}
