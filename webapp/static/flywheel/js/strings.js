// The sentences scripts say, in the reader's language: the page carries them as JSON.

const element = document.getElementById("strings");

export const strings = element ? JSON.parse(element.textContent) : {};

/** Fills `{name}` places of a sentence; numbers are written as the reader's language writes them. */
export function fill(sentence, values) {
  return sentence.replace(/\{(\w+)\}/g, (_, name) =>
    typeof values[name] === "number" ? values[name].toLocaleString(document.documentElement.lang) : values[name],
  );
}
