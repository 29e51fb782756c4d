// Puts a growing reply on the page as docs/architecture.md says: finished blocks are never touched again, and
// however many frames arrive, the page changes at most once for each frame of the screen.

// After so long without text the page shows that it waits, as it does before the first word.
const STILL_AFTER = 3_000;

// Elements into which text at the end of the open block belongs, so that it continues the last paragraph, item or cell.
const CONTAINERS = new Set(
  "P UL OL LI BLOCKQUOTE FIGURE PRE H3 H4 H5 H6 TABLE THEAD TBODY TR TH TD DIV".split(" "),
);

/** Merges a `stream` frame into what waits to be shown. The order base, blocks, open, text is the protocol's. */
export function merge(pending, frame) {
  if ("base" in frame) {
    pending.base = frame.base;
    pending.blocks = [];
    pending.open = "";
    pending.text = "";
  }
  if (frame.blocks?.length) {
    pending.blocks.push(...frame.blocks);
    pending.open = "";
    pending.text = "";
  }
  if ("open" in frame) {
    pending.open = frame.open;
    pending.text = "";
  }
  if (frame.text) pending.text += frame.text;
  if (frame.attempt !== undefined) pending.attempt = frame.attempt;
  return pending;
}

const nothing = () => ({ blocks: [], open: null, text: "" });

export class Streams {
  #messages;
  #pending = new Map();
  #scheduled = false;
  #still = new Map();

  constructor(messages) {
    this.#messages = messages;
  }

  find(id) {
    return this.#messages.querySelector(`[data-message="${CSS.escape(id)}"]`);
  }

  /** A `stream` frame: remembered now, shown with the next frame of the screen. */
  stream(frame) {
    // What came before a new base is shown first: the base counts blocks that may only be waiting yet.
    if ("base" in frame) this.#show();
    this.#pending.set(frame.message, merge(this.#pending.get(frame.message) ?? nothing(), frame));
    if (this.#scheduled) return;
    this.#scheduled = true;
    // A hidden page draws no frames, but its reply must not pile up in memory.
    if (document.hidden) setTimeout(() => this.#show(), 250);
    else requestAnimationFrame(() => this.#show());
  }

  /** A `done` frame: the rest of the reply, its status line and its actions. Returns the article, or null. */
  done(frame) {
    this.#show();
    const article = this.find(frame.message);
    const whole = parse(frame.html).firstElementChild;
    if (!article || !whole) return null;
    this.#ended(frame.message, article);
    article.dataset.state = whole.dataset.state;
    article.dataset.attempt = whole.dataset.attempt;
    settle(article.querySelector(".reply"), whole.querySelector(".reply"));
    for (const part of [".status", ".actions"]) {
      article.querySelector(`:scope > ${part}`)?.remove();
      const made = whole.querySelector(`:scope > ${part}`);
      if (made) article.append(made);
    }
    return article;
  }

  /** What this page has of the replies that still grow, for the `open` command. */
  have() {
    this.#show();
    const growing = this.#messages.querySelectorAll('[data-state="queued"], [data-state="running"]');
    return Array.from(growing, (article) => ({
      message: article.dataset.message,
      blocks: article.querySelectorAll(".block").length,
      attempt: Number(article.dataset.attempt),
    }));
  }

  #show() {
    this.#scheduled = false;
    for (const [id, change] of this.#pending) {
      const article = this.find(id);
      if (!article) continue;
      apply(article, change);
      this.#moved(id, article);
    }
    this.#pending.clear();
  }

  #moved(id, article) {
    delete article.dataset.still;
    clearTimeout(this.#still.get(id));
    this.#still.set(id, setTimeout(() => (article.dataset.still = ""), STILL_AFTER));
  }

  #ended(id, article) {
    delete article.dataset.still;
    clearTimeout(this.#still.get(id));
    this.#still.delete(id);
  }
}

function apply(article, change) {
  const reply = article.querySelector(".reply");
  const open = reply.querySelector(".open");
  if (change.base !== undefined) {
    const blocks = reply.querySelectorAll(".block");
    for (let index = change.base; index < blocks.length; index++) blocks[index].remove();
    if (article.dataset.state !== "running") {
      article.dataset.state = "running";
      for (const part of article.querySelectorAll(":scope > .status, :scope > .actions")) part.remove();
    }
  }
  if (change.attempt !== undefined) article.dataset.attempt = change.attempt;
  if (change.open !== null) open.replaceChildren();
  for (const html of change.blocks) {
    const block = document.createElement("div");
    block.className = "block";
    block.append(parse(html));
    open.before(block);
  }
  let text = change.text;
  if (change.open) {
    open.append(parse(change.open));
    text = looseEnd(open) + text;
  }
  if (text) append(open, text);
}

/** White space behind the open block's last element stands for white space inside it: text goes on after it. */
function looseEnd(open) {
  const last = open.lastChild;
  if (last?.nodeType !== Node.TEXT_NODE || !open.lastElementChild) return "";
  last.remove();
  return last.data;
}

function append(open, text) {
  const place = innermost(open);
  let tail = place.lastElementChild;
  if (!tail?.classList.contains("tail")) {
    tail = document.createElement("span");
    tail.className = "tail";
    tail.append("");
    place.append(tail);
  }
  tail.firstChild.appendData(text);
}

function innermost(element) {
  for (;;) {
    const last = element.lastElementChild;
    if (!last) return element;
    const isCode = last.tagName === "CODE" && (element.tagName === "PRE" || element.classList.contains("math"));
    if (isCode) return last;
    if (!CONTAINERS.has(last.tagName) || (last.classList.contains("math") && last.querySelector("math"))) return element;
    element = last;
  }
}

/** Makes the blocks on the page those of the finished reply; what is the same already stays as it is. */
function settle(reply, whole) {
  const mine = Array.from(reply.querySelectorAll(".block"));
  const final = Array.from(whole.querySelectorAll(".block"));
  const open = reply.querySelector(".open");
  final.forEach((block, index) => {
    if (!mine[index]) open.before(block);
    else if (mine[index].textContent !== block.textContent) mine[index].replaceWith(block);
  });
  for (const extra of mine.slice(final.length)) extra.remove();
  open.replaceChildren();
  reply.dataset.blocks = final.length;
}

export function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}
