// The rail: hidden or shown beside the page, a drawer over it on phones; and the menus in it.

import { remember } from "./cookies.js";

const phone = matchMedia("(max-width: 48rem)");

export function startRail() {
  const shell = document.getElementById("shell");
  const rail = document.getElementById("rail");
  const main = document.getElementById("main");
  let opener = null;

  function tell() {
    const open = phone.matches ? shell.classList.contains("drawer-open") : shell.classList.contains("rail-open");
    for (const button of document.querySelectorAll("[data-toggle-rail]")) {
      button.setAttribute("aria-expanded", String(open));
    }
    // What is covered, or out of sight, cannot be reached by keyboard either: that is the drawer's focus trap.
    main.inert = phone.matches && open;
    rail.inert = phone.matches && !open;
  }

  function toggle(button) {
    if (phone.matches) {
      const open = shell.classList.toggle("drawer-open");
      if (open) opener = button;
      tell();
      if (open) rail.querySelector("a, button, summary").focus();
      else opener?.focus();
      return;
    }
    const open = !shell.classList.contains("rail-open");
    shell.classList.toggle("rail-open", open);
    shell.classList.toggle("rail-closed", !open);
    remember("flywheel_rail", open ? "" : "closed");
    tell();
    const next = open ? rail : main;
    next.querySelector("[data-toggle-rail]")?.focus();
  }

  function closeDrawer() {
    if (phone.matches && shell.classList.contains("drawer-open")) toggle(null);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-toggle-rail]");
    if (button) toggle(button);
    for (const menu of document.querySelectorAll("[data-menu][open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.getElementById("rail-scrim").addEventListener("click", closeDrawer);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const menu = document.querySelector("[data-menu][open]");
    if (menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    } else closeDrawer();
  });
  phone.addEventListener("change", () => {
    shell.classList.remove("drawer-open");
    tell();
  });
  tell();
}

/** On phones the keyboard covers part of the page: what is left is the shell's height. */
export function fitToKeyboard() {
  const view = window.visualViewport;
  if (!view) return;
  const fit = () => {
    const covered = window.innerHeight - view.height > 80 && view.scale === 1;
    const { style } = document.documentElement;
    if (covered) style.setProperty("--viewport", `${view.height}px`);
    else style.removeProperty("--viewport");
    if (covered) window.scrollTo(0, 0);
  };
  view.addEventListener("resize", fit);
  fit();
}
