// Who a new chat is with: the choice is in the address, so that a reload keeps it, and is settled by the first message.

export class ModelPicker {
  #line;
  #select;

  /** `line` is missing where there is nothing to choose. */
  constructor(line) {
    this.#line = line;
    this.#select = line?.querySelector("select");
    this.#select?.addEventListener("change", () => {
      const query = this.chosen ? `?model=${this.chosen}` : "";
      history.replaceState(null, "", `${location.pathname}${query}`);
      // What was said was of the one before: only those that answer can be chosen.
      document.getElementById("trouble")?.remove();
      const about = document.getElementById("about-model");
      about.textContent = this.#select.selectedOptions[0].dataset.note ?? "";
      about.hidden = !about.textContent;
    });
  }

  /** A model's id; "" for the site's default. */
  get chosen() {
    return this.#select?.value ?? "";
  }

  /** The conversation has begun, and stays with its model. */
  settle() {
    if (!this.#select) return;
    const name = document.createElement("span");
    name.textContent = this.#select.selectedOptions[0].textContent;
    this.#line.replaceChildren(this.#line.querySelector("label").textContent, " ", name);
    this.#select = null;
  }
}
