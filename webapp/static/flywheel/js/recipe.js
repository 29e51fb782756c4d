// Says beside the buttons when the switches are no longer those whose effects were counted.

const form = document.getElementById("recipe");
const said = document.getElementById("uncounted");
const switches = () => new URLSearchParams(new FormData(form)).toString();
const counted = switches();

if (said) {
  form.addEventListener("input", () => (said.hidden = switches() === counted));
}
