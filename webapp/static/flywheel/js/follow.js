// Keeps the end of the conversation in view while it grows, but only for a reader who is at the end.

const NEAR = 64;

export class Follow {
  #scroller;
  #content;
  #jump;
  #atEnd = true;

  constructor(scroller, content, jump) {
    this.#scroller = scroller;
    this.#content = content;
    this.#jump = jump;
    scroller.addEventListener("scroll", () => this.#look(), { passive: true });
    const grown = new ResizeObserver(() => (this.#atEnd ? this.toEnd() : this.#look()));
    grown.observe(content);
    grown.observe(scroller);
    jump.addEventListener("click", () => this.toEnd());
    this.toEnd();
  }

  toEnd() {
    this.#atEnd = true;
    this.#jump.hidden = true;
    // Before anything is said there is no end to go to, only a welcome to read from its beginning.
    if (!this.#content.childElementCount) return;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#atEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    this.#jump.hidden = this.#atEnd;
  }
}
