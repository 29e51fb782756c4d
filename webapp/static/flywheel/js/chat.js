// The conversation page: joins the composer, the outbox, the stream and the reader's place in it.

import { announceReply } from "./announce.js";
import { Composer } from "./composer.js";
import { showConnection } from "./connection.js";
import "./copy.js";
import { Follow } from "./follow.js";
import { loadEarlier } from "./history.js";
import { ModelPicker } from "./models.js";
import { outbox } from "./outbox.js";
import { Pending } from "./pending.js";
import { socket } from "./socket.js";
import { Streams, parse } from "./stream.js";
import { strings } from "./strings.js";
import { toast } from "./toast.js";

const scroller = document.getElementById("conversation");
const messages = document.getElementById("messages");
const streams = new Streams(messages);
const composer = new Composer(document.getElementById("composer"), document.getElementById("composer-note"));
const follow = new Follow(scroller, messages, document.getElementById("jump"));
const pending = new Pending(messages, composer);
const models = new ModelPicker(document.getElementById("composer-model"));

const conversation = () => scroller.dataset.conversation || null;
const growing = () => messages.querySelector('[data-state="queued"], [data-state="running"]');

function refresh() {
  composer.isBusy = growing() !== null;
  document.getElementById("welcome")?.toggleAttribute("hidden", messages.childElementCount > 0);
}

/** This page is now about that conversation, which the first message began. */
function become(frame) {
  scroller.dataset.conversation = frame.conversation;
  history.pushState(null, "", `/c/${frame.conversation}/`);
  setTitle(frame.title);
  document.dispatchEvent(new Event("flywheel:conversation"));
  composer.useDraft(frame.conversation);
  models.settle();
}

function setTitle(title) {
  document.getElementById("title").textContent = title;
  document.title = `${title} · ${strings.siteName}`;
}

/** Adds messages this page does not have yet, before those that wait to be accepted. */
function insert(html) {
  for (const article of [...parse(html).children]) {
    if (article.dataset.message && streams.find(article.dataset.message)) continue;
    const waiting = messages.querySelector("[data-pending]");
    if (waiting) waiting.before(article);
    else messages.append(article);
  }
}

function lastPosition() {
  const positions = messages.querySelectorAll("[data-position]");
  return positions.length ? Number(positions[positions.length - 1].dataset.position) : -1;
}

// --- What the reader does ------------------------------------------------------------------------------------

composer.addEventListener("message", (event) => {
  pending.show(outbox.add(conversation(), event.detail, models.chosen));
  refresh();
  follow.toEnd();
});
composer.addEventListener("stop", () => {
  const reply = growing();
  if (reply) socket.command({ type: "stop", message: reply.dataset.message });
});
document.addEventListener("click", (event) => {
  const example = event.target.closest("[data-example]");
  if (example) composer.text = example.dataset.example;
  const retry = event.target.closest("[data-retry]");
  if (retry) {
    socket.command({ type: "retry", message: retry.closest("[data-message]").dataset.message });
    // The button goes with the answer it was under; who pressed it by keyboard goes on from the box.
    composer.focus();
  }
  const refused = event.target.closest("[data-edit-refused]");
  if (refused) composer.text = refused.closest("[data-message]").previousElementSibling.querySelector(".bubble").textContent;
});
// Back and forward lead to pages of their own; only the first message of a conversation changes the address.
window.addEventListener("popstate", () => location.reload());

// --- What the server says ------------------------------------------------------------------------------------

socket.addEventListener("up", () => {
  if (conversation()) {
    socket.send({ type: "open", conversation: conversation(), have: streams.have(), after: lastPosition() });
  }
  // Behind it: opening ends what was followed until then, and an answer to these may be over by that time.
  outbox.transmit();
});
outbox.addEventListener("accepted", ({ detail }) => {
  const place = pending.remove(detail.entry);
  if (detail.entry.conversation === null && conversation() === null && place) become(detail);
  if (detail.conversation !== conversation()) return;
  insert(detail.html);
  refresh();
  follow.toEnd();
});
outbox.addEventListener("refused", ({ detail }) => {
  pending.fail(detail.entry);
  refresh();
});
socket.on("messages", (frame) => {
  if (frame.conversation !== conversation()) return;
  insert(frame.html);
  refresh();
});
socket.on("stream", (frame) => {
  streams.stream(frame);
  // Whatever was said to be in the way: an answer is coming.
  if (frame.text) document.getElementById("obstacle")?.remove();
  if ("base" in frame) requestAnimationFrame(refresh);
});
socket.on("done", (frame) => {
  const article = streams.done(frame);
  refresh();
  if (article) announceReply(article);
});
socket.on("title", (frame) => frame.conversation === conversation() && setTitle(frame.title));
socket.on("deleted", (frame) => {
  if (frame.conversation === conversation()) location.assign(scroller.dataset.home);
});
socket.on("error", (frame) => frame.client_id || toast(frame.message));

showConnection(document.getElementById("connection"));
for (const entry of outbox.of(conversation())) pending.show(entry);
composer.useDraft(conversation() ?? "");
loadEarlier(scroller, messages);
refresh();
follow.toEnd();
