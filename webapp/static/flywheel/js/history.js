// Loads earlier messages as the reader scrolls up; what they are reading stays where it is.

import { strings } from "./strings.js";
import { parse } from "./stream.js";
import { toast } from "./toast.js";

export function loadEarlier(scroller, messages) {
  const seen = new IntersectionObserver(
    (entries) => entries.some((entry) => entry.isIntersecting) && load(),
    { root: scroller, rootMargin: "600px 0px 0px" },
  );
  let loading = false;

  function watch() {
    const earlier = messages.querySelector("[data-earlier]");
    if (earlier) seen.observe(earlier);
  }

  async function load(byHand = false) {
    const earlier = messages.querySelector("[data-earlier]");
    if (!earlier || loading) return;
    loading = true;
    seen.unobserve(earlier);
    try {
      const id = scroller.dataset.conversation;
      const response = await fetch(`/c/${id}/messages?before=${earlier.dataset.earlier}`);
      if (!response.ok) throw new Error(response.statusText);
      const fragment = parse(await response.text());
      const fromEnd = scroller.scrollHeight - scroller.scrollTop;
      earlier.replaceWith(fragment);
      scroller.scrollTop = scroller.scrollHeight - fromEnd;
      watch();
    } catch {
      // The button stays; scrolling alone does not try again and again.
      if (byHand) toast(strings.loadFailed);
    } finally {
      loading = false;
    }
  }

  messages.addEventListener("click", (event) => event.target.closest("[data-earlier] button") && load(true));
  // A first look must not count the top of a page that has not been scrolled to its end yet.
  requestAnimationFrame(() => requestAnimationFrame(watch));
}
