// Of the form that says how a file is read, shows what the chosen format and kind of row need. Without it all is shown.

const form = document.getElementById("reading");

function show() {
  for (const input of form.querySelectorAll("[data-layouts]")) {
    input.closest(".field").hidden = !input.dataset.layouts.split(" ").includes(form.elements.layout.value);
  }
  for (const group of form.querySelectorAll("[data-shape]")) {
    group.hidden = group.dataset.shape !== form.elements.shape.value;
  }
}

form.addEventListener("change", show);
show();
