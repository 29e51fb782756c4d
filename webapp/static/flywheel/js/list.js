// The list of conversations in the rail: search, older ones, new ones, names that change, renaming and deleting.

import { announce } from "./announce.js";
import { socket } from "./socket.js";
import { parse } from "./stream.js";
import { fill, strings } from "./strings.js";
import { toast } from "./toast.js";

const SEARCH_AFTER = 200;

export function startList() {
  const list = document.getElementById("conversations");
  const search = document.getElementById("search");
  if (!list || !search) return;
  let asked = 0;
  let timer = 0;

  const find = (id) => list.querySelector(`[data-conversation="${CSS.escape(id)}"]`);
  const current = () => document.getElementById("conversation")?.dataset.conversation;

  async function fetchList(parameters) {
    const response = await fetch(`${list.dataset.source}?${new URLSearchParams(parameters)}`);
    if (!response.ok) throw new Error(response.statusText);
    return parse(await response.text());
  }

  async function lookFor(query) {
    const mine = ++asked;
    try {
      const found = await fetchList({ q: query });
      if (mine !== asked) return;
      list.replaceChildren(found);
      mark();
      const count = list.querySelectorAll("li").length;
      if (query) announce(count ? fill(strings.matches, { count }) : strings.noMatches);
    } catch {
      toast(strings.loadFailed);
    }
  }

  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => lookFor(search.value.trim()), SEARCH_AFTER);
  });

  async function more(button) {
    try {
      const page = await fetchList({ before: button.dataset.more, q: search.value.trim() });
      // The first group may continue the last one on screen.
      const groups = list.querySelectorAll("section");
      const last = groups[groups.length - 1];
      const first = page.querySelector("section");
      if (last && first?.dataset.group === last.dataset.group) {
        last.querySelector("ul").append(...first.querySelectorAll("li"));
        first.remove();
      }
      button.replaceWith(page);
      mark();
    } catch {
      toast(strings.loadFailed);
    }
  }

  /** Shows which conversation is open. */
  function mark() {
    for (const link of list.querySelectorAll("[aria-current]")) link.removeAttribute("aria-current");
    const id = current();
    if (id) find(id)?.querySelector("a").setAttribute("aria-current", "page");
  }

  /** A conversation that has just been used goes to the top. */
  function toTop(id, item) {
    if (search.value.trim()) return;
    const old = find(id);
    const group = old?.closest("section");
    old?.remove();
    if (group && !group.querySelector("li")) group.remove();
    list.querySelector(".rail-empty")?.remove();
    let today = list.querySelector('section[data-group="today"]');
    if (!today) {
      today = document.createElement("section");
      today.dataset.group = "today";
      const heading = document.createElement("h2");
      heading.textContent = strings.today;
      today.append(heading, document.createElement("ul"));
      list.prepend(today);
    }
    today.querySelector("ul").prepend(parse(item));
    mark();
  }

  socket.on("accepted", (frame) => toTop(frame.conversation, frame.item));
  socket.on("messages", (frame) => toTop(frame.conversation, frame.item));
  socket.on("title", (frame) => {
    const link = find(frame.conversation)?.querySelector("a");
    if (!link) return;
    link.textContent = frame.title;
    link.title = frame.title;
  });
  socket.on("deleted", (frame) => {
    const item = find(frame.conversation);
    const group = item?.closest("section");
    item?.remove();
    if (group && !group.querySelector("li")) group.remove();
  });

  startDialog(list, find);
  list.addEventListener("click", (event) => {
    const button = event.target.closest("[data-more]");
    if (button) more(button);
  });
  document.addEventListener("flywheel:conversation", mark);
  mark();
}

function startDialog(list, find) {
  const dialog = document.getElementById("conversation-dialog");
  const form = dialog.querySelector("[data-rename]");
  const confirm = dialog.querySelector("[data-confirm]");
  const name = document.getElementById("dialog-name");
  const error = document.getElementById("dialog-error");
  let id = "";

  list.addEventListener("click", (event) => {
    const button = event.target.closest("[data-edit]");
    if (!button) return;
    const item = button.closest("[data-conversation]");
    id = item.dataset.conversation;
    name.value = item.querySelector("a").textContent;
    form.hidden = false;
    confirm.hidden = true;
    error.hidden = true;
    dialog.setAttribute("aria-labelledby", "dialog-title");
    dialog.showModal();
    // All of it, seen from its beginning.
    name.setSelectionRange(0, name.value.length, "backward");
  });
  form.addEventListener("submit", (event) => {
    if (!name.value.trim()) {
      event.preventDefault();
      error.hidden = false;
      name.focus();
      return;
    }
    socket.command({ type: "rename", conversation: id, title: name.value });
  });
  dialog.addEventListener("click", (event) => {
    if (event.target.closest("[data-close]") || event.target === dialog) dialog.close();
    if (event.target.closest("[data-ask-delete]")) {
      form.hidden = true;
      confirm.hidden = false;
      confirm.querySelector("[data-subject]").textContent = find(id)?.querySelector("a").textContent ?? "";
      dialog.setAttribute("aria-labelledby", "dialog-question");
      confirm.querySelector("[data-close]").focus();
    }
    if (event.target.closest("[data-delete]")) {
      socket.command({ type: "delete", conversation: id });
      dialog.close();
    }
  });
}
