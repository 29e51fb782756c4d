// Messages the server has not accepted yet. They outlive a lost connection and a reload; each carries a number of
// its own, so that sending one twice stores it once. Knows nothing of how they look.

import { socket } from "./socket.js";

const KEY = "flywheel.outbox";

class Outbox extends EventTarget {
  #entries = read();

  constructor() {
    super();
    socket.on("accepted", (frame) => this.#settle(frame.client_id, "accepted", frame));
    socket.on("error", (frame) => frame.client_id && this.#fail(frame));
  }

  /** Entries of a conversation, or of the page where none has begun (`null`), in the order they were written. */
  of(conversation) {
    return this.#entries.filter((entry) => entry.conversation === conversation);
  }

  /** For a page whose line is up again, once it has said what it has. */
  transmit() {
    this.#entries.filter((entry) => !entry.error).forEach(transmit);
  }

  /** `model`: who a conversation that has not begun is to be with; "" for the site's default. */
  add(conversation, text, model) {
    const entry = { client_id: uuid(), conversation, text, model };
    this.#entries.push(entry);
    this.#save();
    transmit(entry);
    return entry;
  }

  retry(entry) {
    delete entry.error;
    this.#save();
    transmit(entry);
  }

  drop(entry) {
    this.#entries = this.#entries.filter((other) => other !== entry);
    this.#save();
  }

  #settle(clientId, event, detail) {
    const entry = this.#entries.find((other) => other.client_id === clientId);
    if (!entry) return;
    this.drop(entry);
    this.dispatchEvent(new CustomEvent(event, { detail: { ...detail, entry } }));
  }

  #fail(frame) {
    const entry = this.#entries.find((other) => other.client_id === frame.client_id);
    if (!entry) return;
    entry.error = frame.message;
    this.#save();
    this.dispatchEvent(new CustomEvent("refused", { detail: { entry } }));
  }

  #save() {
    try {
      sessionStorage.setItem(KEY, JSON.stringify(this.#entries));
    } catch {
      // A message too big for the store still lives as long as the page.
    }
  }
}

function transmit(entry) {
  const { conversation, client_id, text, model } = entry;
  socket.send({ type: "send", conversation, client_id, text, ...(model && { model }) });
}

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
  } catch {
    return [];
  }
}

function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  // Pages without HTTPS have no randomUUID, but they do have the random bytes it is made of.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export const outbox = new Outbox();
