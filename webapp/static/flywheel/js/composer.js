// The box one writes in: Enter sends, send becomes stop while an answer grows, and a draft outlives the page.

import { fill, strings } from "./strings.js";

const DRAFT_LIMIT = 100_000;
const SAVE_AFTER = 400;

export class Composer extends EventTarget {
  #form;
  #area;
  #send;
  #note;
  #draftKey = "";
  #timer = 0;

  constructor(form, note) {
    super();
    this.#form = form;
    this.#note = note;
    this.#area = form.querySelector("textarea");
    this.#send = form.querySelector(".send");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    form.querySelector(".stop").addEventListener("click", () => this.dispatchEvent(new Event("stop")));
    this.#area.addEventListener("input", () => this.#changed());
    this.#area.addEventListener("keydown", (event) => {
      // While an input method composes, Enter chooses a word; 229 is what older Safari says then.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.#submit();
    });
    window.addEventListener("pagehide", () => this.#save());
  }

  /** Shows the draft kept for this conversation ("" for one not begun). */
  useDraft(conversation) {
    this.#draftKey = `flywheel.draft.${conversation}`;
    if (!this.#area.value) this.#area.value = localStorage.getItem(this.#draftKey) ?? "";
    this.#changed();
  }

  get isBusy() {
    return "busy" in this.#form.dataset;
  }

  set isBusy(busy) {
    const hadFocus = this.#form.contains(document.activeElement) && document.activeElement !== this.#area;
    this.#form.toggleAttribute("data-busy", busy);
    if (hadFocus) this.#area.focus();
  }

  set text(text) {
    this.#area.value = text;
    this.#changed();
    this.#area.focus();
  }

  focus() {
    this.#area.focus();
  }

  /** A sentence above the box; "" takes it away. */
  say(sentence) {
    this.#note.textContent = sentence;
    this.#note.hidden = !sentence;
  }

  #submit() {
    const text = this.#area.value;
    if (this.isBusy || !text.trim() || this.#isTooLong()) return;
    this.#area.value = "";
    this.#changed();
    this.#save();
    this.dispatchEvent(new CustomEvent("message", { detail: text }));
  }

  #changed() {
    const { value } = this.#area;
    const tooLong = this.#isTooLong();
    this.#send.setAttribute("aria-disabled", String(tooLong || !/\S/.test(value)));
    this.say(tooLong ? fill(strings.tooLong, { count: value.length, most: strings.maxCharacters }) : "");
    this.#grow();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#save(), SAVE_AFTER);
  }

  #isTooLong() {
    return this.#area.value.length > strings.maxCharacters;
  }

  /** Browsers that size a field by its content need no help; the others measure, unless a paste is huge. */
  #grow() {
    if (CSS.supports("field-sizing", "content")) return;
    const { value, style } = this.#area;
    style.height = "auto";
    style.height = value.length > 5_000 ? "14rem" : `${this.#area.scrollHeight}px`;
  }

  #save() {
    clearTimeout(this.#timer);
    if (!this.#draftKey) return;
    const { value } = this.#area;
    try {
      if (value && value.length <= DRAFT_LIMIT) localStorage.setItem(this.#draftKey, value);
      else localStorage.removeItem(this.#draftKey);
    } catch {
      // A full store costs the draft's safety, not the draft.
    }
  }
}
