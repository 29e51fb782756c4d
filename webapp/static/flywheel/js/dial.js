// Says the number a slider stands at, beside it.

for (const dial of document.querySelectorAll("input[type=range]")) {
  const shown = document.querySelector(`output[for="${dial.id}"]`);
  const show = () => (shown.value = dial.value);
  dial.addEventListener("input", show);
  shown.hidden = false;
  show();
}
