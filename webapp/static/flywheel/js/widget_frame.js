// The chat in a frame on a customer's site. The token of its conversation is all this page has of the visitor.

import { announce } from "./announce.js";
import { events } from "./event_stream.js";
import { strings } from "./strings.js";

const base = `/widget/${document.body.dataset.widget}`;
const said = document.getElementById("said");
const form = document.getElementById("form");
const text = document.getElementById("text");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const problem = document.getElementById("problem");
const KEY = `flywheel.widget.${document.body.dataset.widget}`;
// Browsers that give frames no storage forget the conversation with the page.
let token = stored();
const greeting = said.innerHTML;

colour(document.body.dataset.accent);
if (token) restore();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask(text.value.trim());
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
stop.addEventListener("click", () => call("stop", { method: "POST" }));
document.getElementById("again").addEventListener("click", begin);
document.getElementById("close").addEventListener("click", close);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") close();
});
addEventListener("message", (event) => {
  if (event.source === parent && event.data === "flywheel:opened") text.focus();
});

function close() {
  // The page around it may be any site that is allowed to show it; this says nothing but "close".
  parent.postMessage("flywheel:close", "*");
}

function begin() {
  remember("");
  said.innerHTML = greeting;
  fail("");
  text.focus();
}

async function ask(words) {
  if (!words || form.inert) return;
  fail("");
  busy(true);
  const asked = add("asked", words);
  try {
    if (!token) {
      const answer = await call("sessions", { method: "POST" });
      remember((await answer.json()).token);
    }
    const answer = await call("messages", { method: "POST", body: JSON.stringify({ text: words }) });
    text.value = "";
    await read(answer, add("reply prose growing", ""));
  } catch (error) {
    // What was written is not lost: it is back where it was.
    if (text.value === "" && error.refused) text.value = words;
    if (error.refused) asked.remove();
    fail(error.message);
  }
  busy(false);
  text.focus();
}

async function restore() {
  try {
    const answer = await call("messages");
    const { messages } = await answer.json();
    for (const message of messages) {
      if (message.role === "user") add("asked", message.text);
      else if (message.done) add("reply prose", "").innerHTML = message.html;
      else {
        busy(true);
        await read(await call("reply"), add("reply prose growing", ""));
        busy(false);
      }
    }
  } catch (error) {
    if (error.status === 401) begin();
    else fail(error.message);
    busy(false);
  }
}

/** Follows one reply to its end, also over lost connections. The HTML comes from our server, which sanitises it. */
async function read(answer, reply) {
  let seq = 0;
  for (let tries = 0; tries < 20; tries++) {
    try {
      for await (const event of events(answer)) {
        seq = Number(event.id) || seq;
        tries = 0;
        if (event.type === "text") grow(reply, reply.textContent + event.data.text);
        else if (event.type === "reset") grow(reply, event.data.text);
        else if (event.type === "done") {
          reply.classList.remove("growing");
          reply.innerHTML = event.data.html;
          if (event.data.state === "cancelled") announce(strings.stopped);
          else announce(reply.textContent);
          return;
        } else if (event.type === "failed") {
          reply.remove();
          throw Object.assign(new Error(event.data.message), { final: true });
        }
      }
    } catch (error) {
      if (error.final) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(500 * 2 ** tries, 8_000)));
    answer = await call(`reply?after=${seq}`).catch((error) => {
      if (error.refused) throw Object.assign(error, { final: true });
      return answer;
    });
  }
  throw new Error(strings.failed);
}

async function call(what, options = {}) {
  const headers = {
    ...(token && { Authorization: `Visitor ${token}` }),
    Accept: "application/json, text/event-stream",
    "Content-Type": "application/json",
  };
  let answer;
  try {
    answer = await fetch(`${base}/${what}`, { ...options, headers, credentials: "omit" });
  } catch {
    throw Object.assign(new Error(strings.failed), { refused: options.method === "POST" });
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw Object.assign(new Error(body?.error?.message ?? strings.failed), { refused: true, status: answer.status });
}

function add(kind, words) {
  const element = document.createElement("div");
  element.className = kind;
  element.dir = "auto";
  element.textContent = words;
  said.append(element);
  said.scrollTop = said.scrollHeight;
  return element;
}

function grow(reply, words) {
  const atEnd = said.scrollHeight - said.scrollTop - said.clientHeight < 60;
  reply.textContent = words;
  if (atEnd) said.scrollTop = said.scrollHeight;
}

function busy(is) {
  form.inert = false;
  send.hidden = is;
  send.disabled = is;
  stop.hidden = !is;
  said.setAttribute("aria-busy", String(is));
}

function fail(sentence) {
  problem.textContent = sentence;
  problem.hidden = !sentence;
}

function stored() {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function remember(value) {
  token = value;
  try {
    if (value) localStorage.setItem(KEY, value);
    else localStorage.removeItem(KEY);
  } catch {
    // Forgotten with the page, then.
  }
}

/** The widget's own accent, with ink on it that can be read. */
function colour(hex) {
  if (!/^#[0-9a-f]{6}$/.test(hex)) return;
  const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16) / 255);
  const light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.6;
  const style = document.documentElement.style;
  style.setProperty("--accent", hex);
  style.setProperty("--accent-hover", hex);
  style.setProperty("--on-accent", light ? "#14171a" : "#ffffff");
}
