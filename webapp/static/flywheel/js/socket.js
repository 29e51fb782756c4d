// One websocket to the server, kept alive: it comes back by itself after any loss. Knows nothing of messages.

const PING_EVERY = 25_000;
const ANSWER_WITHIN = 10_000;
const FIRST_DELAY = 400;
const LONGEST_DELAY = 15_000;
const RESTART_WITHIN = 300;
const LOGGED_OUT = 4401;
// The process at the other end is being restarted, and another one is there.
const RESTARTED = 1012;
// Commands a person gave while the line was down, at most; older ones are dropped first.
const MOST_WAITING = 20;

export class Socket extends EventTarget {
  #path;
  #socket = null;
  #failures = 0;
  #retryTimer = 0;
  #pingTimer = 0;
  #deadTimer = 0;
  #waiting = [];
  isUp = false;

  constructor(path) {
    super();
    this.#path = path;
  }

  start() {
    if (this.#socket) return;
    window.addEventListener("online", () => this.#now());
    window.addEventListener("offline", () => this.#check());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.#now();
    });
    // A page in the back-forward cache has lost its socket without being told.
    window.addEventListener("pageshow", (event) => event.persisted && this.#now());
    this.#connect();
  }

  /** Calls `handle(frame)` for each frame of this type. */
  on(type, handle) {
    this.addEventListener(`frame:${type}`, (event) => handle(event.detail));
  }

  /** Sends now, or not at all: for frames that are made anew on every connection. Says whether it was sent. */
  send(frame) {
    if (!this.isUp) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  /** Sends now, or as soon as the line is back. */
  command(frame) {
    if (this.send(frame)) return;
    this.#waiting.push(frame);
    if (this.#waiting.length > MOST_WAITING) this.#waiting.shift();
  }

  #connect() {
    clearTimeout(this.#retryTimer);
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${this.#path}`);
    this.#socket = socket;
    this.#deadTimer = setTimeout(() => this.#lost(socket), ANSWER_WITHIN);
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      clearTimeout(this.#deadTimer);
      this.#failures = 0;
      this.isUp = true;
      this.#pingTimer = setInterval(() => this.#check(), PING_EVERY);
      this.dispatchEvent(new Event("up"));
      for (const frame of this.#waiting.splice(0)) this.send(frame);
    };
    socket.onmessage = (event) => {
      if (socket !== this.#socket) return;
      clearTimeout(this.#deadTimer);
      const frame = JSON.parse(event.data);
      this.dispatchEvent(new CustomEvent(`frame:${frame.type}`, { detail: frame }));
    };
    socket.onclose = (event) => this.#lost(socket, event.code);
  }

  /** Asks for a sign of life; a line that stays silent is given up. */
  #check() {
    const socket = this.#socket;
    if (!this.isUp) return;
    this.send({ type: "ping" });
    clearTimeout(this.#deadTimer);
    this.#deadTimer = setTimeout(() => this.#lost(socket), ANSWER_WITHIN);
  }

  #lost(socket, code) {
    if (socket !== this.#socket) return;
    clearTimeout(this.#deadTimer);
    clearInterval(this.#pingTimer);
    socket.onclose = null;
    socket.close();
    this.#socket = null;
    if (code === LOGGED_OUT && this.#logIn()) return;
    const restarted = this.isUp && code === RESTARTED;
    if (this.isUp) this.#failures = 0;
    this.isUp = false;
    this.dispatchEvent(new Event("down"));
    // Half the delay is chance, so that a thousand pages do not come back in the same moment.
    const delay = Math.min(FIRST_DELAY * 2 ** this.#failures++, LONGEST_DELAY) * (0.5 + Math.random() / 2);
    this.#retryTimer = setTimeout(() => this.#connect(), restarted ? Math.random() * RESTART_WITHIN : delay);
  }

  /** The network or the reader is back: no reason to wait for the timer. */
  #now() {
    if (this.isUp) this.#check();
    else if (!this.#socket) this.#connect();
  }

  /** The server ended this login: the page, loaded again, leads to the form. At most once in half a minute. */
  #logIn() {
    const last = Number(sessionStorage.getItem("flywheel.relogin") ?? 0);
    if (Date.now() - last < 30_000) return false;
    sessionStorage.setItem("flywheel.relogin", String(Date.now()));
    location.reload();
    return true;
  }
}

// The one every page of a logged-in person has.
export const socket = new Socket("/ws/chat/");
