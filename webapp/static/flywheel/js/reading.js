// Of the form that says how a file is read, shows what the chosen format and kind of row need. Without it all is shown.

const form = document.getElementById("reading");
// What only some formats have.
const NEEDS = { delimiter: ["csv"], sheet: ["xlsx"], encoding: ["jsonl", "json", "csv", "text", "markdown", "html"] };

function show() {
  for (const [name, layouts] of Object.entries(NEEDS)) {
    form.elements[name].closest(".field").hidden = !layouts.includes(form.elements.layout.value);
  }
  for (const group of form.querySelectorAll("[data-shape]")) {
    group.hidden = group.dataset.shape !== form.elements.shape.value;
  }
}

form.addEventListener("change", show);
show();
