// Which page is shown. A page is what its module's `open` returns: `{element, close}`.

import { start } from "./theme.js";
import { live } from "./live/stream.js";

const PAGES = {
  live: () => import("./live.js"),
  benches: () => import("./benches.js"),
  loads: () => import("./loads.js"),
  flamegraphs: () => import("./flamegraphs.js"),
};

const content = document.getElementById("content");
const banner = document.getElementById("banner");
let page = null;

async function show() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  if (name === "content") {
    content.focus();
    return;
  }
  const wanted = Object.hasOwn(PAGES, name) ? name : "live";
  for (const link of document.querySelectorAll("header nav a")) {
    const current = link.hash === `#${wanted}`;
    if (current) {
      link.setAttribute("aria-current", "page");
      document.title = `Weir: ${link.textContent}`;
    } else {
      link.removeAttribute("aria-current");
    }
  }
  const { open } = await PAGES[wanted]();
  page?.close?.();
  page = open(rest.map(decodeURIComponent));
  content.replaceChildren(page.element);
}

function warn() {
  const trouble = live.trouble();
  banner.hidden = !trouble;
  if (banner.textContent !== trouble) {
    banner.textContent = trouble;
  }
}

start(document.getElementById("theme"));
live.addEventListener("change", warn);
live.start();
addEventListener("hashchange", show);
show();
