// The page Flame graphs: one at a time. Each is a picture with a script of its own for zooming and searching, so it runs
// in a frame without rights.

import { h } from "./dom.js";
import { date } from "./format.js";

/** `key: value` lines, as a list of facts. */
function facts(picture) {
  const lines = picture.about.split("\n").filter((line) => line.includes(": "));
  const pairs = lines.map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]);
  if (!pairs.length) {
    pairs.push(["file written", date(picture.modified)]);
  }
  return h("dl", { class: "facts" }, pairs.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, h("code", {}, value))]));
}

export function open([wanted]) {
  const about = h("p", { class: "soft" }, "reading …");
  const list = h("ul");
  const view = h("section", { class: "card", "aria-live": "polite" });
  const gallery = h("div", { class: "gallery", hidden: true }, h("nav", { class: "card", "aria-label": "Flame graphs" }, list), view);
  const element = h("div", {}, h("div", { class: "top" }, h("div", {}, h("h1", {}, "Flame graphs"), about)), gallery);

  function show(picture) {
    const address = `flamegraphs/${encodeURIComponent(picture.name)}`;
    view.replaceChildren(
      h("div", { class: "head" }, h("h2", {}, picture.name), h("a", { href: address, target: "_blank", rel: "noopener" }, "in a window of its own")),
      facts(picture),
      h("p", { class: "note" }, "A click on a frame zooms in, on the lowest one out; Ctrl+F in the picture searches."),
      h("iframe", { src: address, sandbox: "allow-scripts", title: `Flame graph ${picture.name}`, height: "640" }),
    );
    for (const button of list.querySelectorAll("button")) {
      button.setAttribute("aria-current", String(button.textContent === picture.name));
    }
  }

  async function load() {
    const { folder, pictures } = await (await fetch("api/flamegraphs")).json();
    about.textContent = pictures.length
      ? `${pictures.length} in ${folder}`
      : `There is none in ${folder} yet: scripts/flamegraph makes one`;
    gallery.hidden = pictures.length === 0;
    list.replaceChildren(...pictures.map((picture) => h("li", {}, h("button", { type: "button", onclick: () => show(picture) }, picture.name))));
    const first = pictures.find(({ name }) => name === wanted) ?? pictures[0];
    if (first) {
      show(first);
    }
  }

  load();
  return { element };
}
