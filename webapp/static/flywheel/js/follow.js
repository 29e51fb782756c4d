// Keeps the end of the conversation in view while it grows, but only for a reader who is at the end.

const NEAR = 64;

export class Follow {
  #scroller;
  #jump;
  #atEnd = true;

  constructor(scroller, content, jump) {
    this.#scroller = scroller;
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
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#jump.hidden = true;
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#atEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    this.#jump.hidden = this.#atEnd;
  }
}
