// Shows messages on their way, and those the server refused: with the reason, and with nothing lost.

import { outbox } from "./outbox.js";

export class Pending {
  #messages;
  #composer;
  #articles = new Map();

  constructor(messages, composer) {
    this.#messages = messages;
    this.#composer = composer;
  }

  show(entry) {
    const template = document.getElementById("pending-message");
    const article = template.content.firstElementChild.cloneNode(true);
    article.querySelector(".bubble").textContent = entry.text;
    article.querySelector("[data-send-again]").addEventListener("click", () => {
      article.querySelector(".status").hidden = true;
      outbox.retry(entry);
    });
    article.querySelector("[data-edit-pending]").addEventListener("click", () => {
      outbox.drop(entry);
      this.remove(entry);
      this.#composer.text = entry.text;
    });
    this.#articles.set(entry.client_id, article);
    this.#messages.append(article);
    if (entry.error) this.fail(entry);
  }

  fail(entry) {
    const status = this.#articles.get(entry.client_id)?.querySelector(".status");
    if (!status) return;
    status.querySelector("span").textContent = entry.error;
    status.hidden = false;
  }

  /** Takes it off the page; says whether it was there. */
  remove(entry) {
    const article = this.#articles.get(entry.client_id);
    article?.remove();
    return this.#articles.delete(entry.client_id);
  }
}
