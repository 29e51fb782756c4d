// A short sentence that appears and goes by itself. Never for an error that loses something.

let timer = 0;

export function toast(sentence) {
  const element = document.getElementById("toast");
  element.textContent = sentence;
  element.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => (element.hidden = true), 4_000);
}
