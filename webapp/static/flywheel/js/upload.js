// Uploads files in parts, one file after the other. After a lost connection it asks how much has arrived and goes on.

import { announce } from "./announce.js";
import { refresh } from "./refresh.js";
import { fill } from "./strings.js";

const FIRST_DELAY = 500;
const LONGEST_DELAY = 15_000;
const drop = document.getElementById("drop");
const list = document.getElementById("uploads");
const chooser = document.getElementById("chooser");
const strings = JSON.parse(document.getElementById("upload-strings").textContent);
const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
const CHUNK = Number(drop.dataset.chunk);
const queue = [];
let busy = false;

/** The server's own sentence about what it refused: trying again changes nothing. */
class Refused extends Error {}

async function ask(address, options = {}) {
  const headers = { Accept: "application/json", "X-CSRFToken": token, ...options.headers };
  const response = await fetch(address, { ...options, headers });
  if (response.redirected) throw new Refused(strings.loggedOut);
  const type = response.headers.get("Content-Type") ?? "";
  const body = type.includes("json") ? await response.json() : {};
  if (response.ok) return body;
  // The part did not fit what is there: where it has to begin is in the answer.
  if (typeof body.error?.received === "number") return body.error;
  if (response.status >= 500 && response.status !== 507) throw new Error(response.statusText);
  throw new Refused(body.error?.message ?? strings.failed);
}

class Upload {
  constructor(file) {
    this.file = file;
    this.element = document.getElementById("upload").content.firstElementChild.cloneNode(true);
    this.bar = this.element.querySelector("progress");
    this.said = this.element.querySelector(".upload-said");
    this.again = this.element.querySelector("[data-again]");
    this.element.querySelector(".upload-name").textContent = file.name;
    this.bar.setAttribute("aria-label", file.name);
    this.show("waiting", strings.waiting);
    this.again.addEventListener("click", () => {
      this.show("waiting", strings.waiting);
      enqueue(this);
    });
    this.element.querySelector("[data-stop]").addEventListener("click", () => this.stop());
    list.append(this.element);
  }

  show(state, sentence) {
    this.element.dataset.state = state;
    this.said.textContent = sentence;
    this.again.hidden = state !== "failed";
  }

  progress(received) {
    this.bar.value = received / this.file.size;
    this.show("sending", fill(strings.progress, { received: size(received), size: size(this.file.size) }));
  }

  /** Tells the server of the file, so that it knows how many there will be. */
  async begin() {
    const { name, lastModified } = this.file;
    const body = JSON.stringify({ name, size: this.file.size, modified: Math.trunc(lastModified) });
    this.place = await ask(drop.dataset.begin, { method: "POST", body, headers: { "Content-Type": "application/json" } });
  }

  async send() {
    if (!this.place) await this.persist(() => this.begin());
    let { received } = this.place;
    while (!this.stopped && received < this.file.size) {
      this.progress(received);
      const part = await this.read(received);
      ({ received } = await this.persist(
        () => ask(`${this.place.content}?offset=${received}`, { method: "PUT", body: part }),
        async () => ({ received: (await ask(this.place.content)).received }),
      ));
    }
    if (this.stopped) return;
    this.element.remove();
    announce(fill(strings.announceDone, { name: this.file.name }));
  }

  async read(offset) {
    try {
      return await this.file.slice(offset, offset + CHUNK).arrayBuffer();
    } catch {
      throw new Refused(strings.unreadable);
    }
  }

  /** Tries until it works, the server refuses, or the person cancels; after a failure with `next`, where it is given. */
  async persist(attempt, next = attempt) {
    for (let failures = 0; ; failures++) {
      try {
        return await (failures ? next : attempt)();
      } catch (error) {
        if (error instanceof Refused || this.stopped) throw error;
        this.said.textContent = strings.lost;
        await pause(Math.min(FIRST_DELAY * 2 ** failures, LONGEST_DELAY));
      }
    }
  }

  async stop() {
    this.stopped = true;
    this.element.remove();
    announce(`${this.file.name}: ${strings.cancelled}`);
    if (!this.place) return;
    await ask(this.place.remove, { method: "POST" }).catch(() => {});
    refresh(document.getElementById("files"));
  }
}

/** Until the time is over or the network is back. */
function pause(milliseconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    window.addEventListener("online", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

function size(bytes) {
  const steps = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const step = Math.min(steps.length - 1, bytes ? Math.floor(Math.log10(bytes) / 3) : 0);
  const digits = step && bytes / 1000 ** step < 10 ? 1 : 0;
  const options = { style: "unit", unit: steps[step], maximumFractionDigits: digits, minimumFractionDigits: digits };
  return (bytes / 1000 ** step).toLocaleString(document.documentElement.lang, options);
}

function enqueue(upload) {
  queue.push(upload);
  work();
}

async function work() {
  if (busy) return;
  busy = true;
  for (let upload = queue.shift(); upload; upload = queue.shift()) {
    if (upload.stopped) continue;
    try {
      await upload.send();
    } catch (error) {
      if (upload.stopped) continue;
      const sentence = error instanceof Refused ? error.message : strings.failed;
      upload.show("failed", sentence);
      announce(`${upload.file.name}: ${sentence}`);
    }
    refresh(document.getElementById("files"));
  }
  busy = false;
}

async function add(files) {
  const added = [...files].map((file) => new Upload(file));
  // All are announced before the first is sent: what is checked by itself afterwards is then all of them.
  for (const upload of added) {
    await upload.begin().catch((error) => {
      if (error instanceof Refused) upload.refused = error;
    });
    if (upload.refused) {
      upload.show("failed", upload.refused.message);
      upload.again.hidden = true;
      announce(upload.refused.message);
    }
  }
  for (const upload of added) if (!upload.refused) enqueue(upload);
}

function takeChosen() {
  if (!chooser.files.length) return;
  add(chooser.files);
  chooser.value = "";
}
chooser.addEventListener("change", takeChosen);
takeChosen(); // what was chosen before this script had come
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
// Anywhere on the page: a file that misses the frame must not replace the page.
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  drop.toggleAttribute("data-over", true);
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.removeAttribute("data-over");
});
document.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  drop.removeAttribute("data-over");
  add(event.dataTransfer.files);
});
window.addEventListener("beforeunload", (event) => {
  if (busy) event.preventDefault();
});
