// <script src="https://this.site/widget.js" data-widget="ID" async></script>: a chat bubble on a customer's page.
//
// It adds one element with a button and, once that is pressed, a frame. It reads nothing of the page, and the page
// nothing of the frame: they tell each other "close" and "opened".

(() => {
  const script = document.currentScript;
  const id = script?.dataset.widget;
  if (!id || document.querySelector(`[data-flywheel="${id}"]`)) return;
  const origin = new URL(script.src).origin;
  const host = document.createElement("div");
  host.dataset.flywheel = id;
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    :host { all: initial; position: fixed; inset: auto 16px 16px auto; z-index: 2147483000; }
    button { display: grid; place-items: center; width: 56px; height: 56px; margin: 0; padding: 0; border: 0;
      border-radius: 50%; cursor: pointer; color: #fff; background: var(--flywheel-accent, #14607a);
      box-shadow: 0 4px 20px rgb(0 0 0 / 0.25); }
    button:focus-visible { outline: 3px solid #fff; outline-offset: -6px; }
    svg { width: 26px; height: 26px; }
    iframe { position: fixed; inset: auto 16px 84px auto; width: min(400px, calc(100vw - 32px));
      height: min(620px, calc(100dvh - 104px)); border: 1px solid rgb(128 128 128 / 0.35); border-radius: 12px;
      box-shadow: 0 8px 40px rgb(0 0 0 / 0.28); background: transparent; color-scheme: normal; }
    iframe[hidden] { display: none; }
    @media (max-width: 480px) { iframe { inset: 0; width: 100vw; height: 100dvh; border: 0; border-radius: 0; } }
    @media print { :host { display: none; } }
  `);
  root.adoptedStyleSheets = [sheet];
  if (/^#[0-9a-f]{6}$/i.test(script.dataset.accent ?? "")) {
    host.style.setProperty("--flywheel-accent", script.dataset.accent);
  }
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", script.dataset.label ?? "Chat");
  button.setAttribute("aria-expanded", "false");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M4 5h16v11H9l-5 4z");
  for (const [name, value] of [["fill", "none"], ["stroke", "currentColor"], ["stroke-width", "2"], ["stroke-linejoin", "round"]]) {
    path.setAttribute(name, value);
  }
  svg.append(path);
  button.append(svg);
  root.append(button);
  let frame = null;

  const show = (open) => {
    if (open && !frame) {
      frame = document.createElement("iframe");
      frame.src = `${origin}/widget/${id}/`;
      frame.title = button.getAttribute("aria-label");
      frame.addEventListener("load", () => frame.contentWindow.postMessage("flywheel:opened", origin));
      root.prepend(frame);
    }
    frame.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    if (open) frame.contentWindow?.postMessage("flywheel:opened", origin);
    else button.focus();
  };
  button.addEventListener("click", () => show(!frame || frame.hidden));
  addEventListener("message", (event) => {
    if (frame && event.source === frame.contentWindow && event.origin === origin && event.data === "flywheel:close") show(false);
  });
  const attach = () => document.body.append(host);
  if (document.body) attach();
  else addEventListener("DOMContentLoaded", attach);
})();
