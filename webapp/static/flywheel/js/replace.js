// Puts new HTML in a part of the page: what has the keyboard's focus keeps it, what was opened stays open, and a table
// that was scrolled stays where it was. The first two are known by their ids.

import { parse } from "./stream.js";

export function put(element, html) {
  const focused = element.contains(document.activeElement) ? document.activeElement.id : null;
  const open = [...element.querySelectorAll("details[open][id]")].map((details) => details.id);
  const scrolled = [...element.querySelectorAll(".table-scroll")].map((table) => table.scrollLeft);
  element.replaceChildren(parse(html));
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  element.querySelectorAll(".table-scroll").forEach((table, n) => (table.scrollLeft = scrolled[n] ?? 0));
  if (focused === null) return;
  const again = focused && document.getElementById(focused);
  if (again) return again.focus({ preventScroll: true });
  // What had the focus is gone with what it was for: the keyboard goes on from here.
  element.tabIndex = -1;
  element.focus({ preventScroll: true });
}
