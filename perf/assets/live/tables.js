// The tables of the page Live: callbacks, and every metric that there is.

import { h, setRows, table } from "../dom.js";
import { ofUnit, percent, place, rate as perSecond, time, whole } from "../format.js";
import { TIMES } from "./charts.js";
import { amount, rate } from "./stream.js";

/** The last frame in which anything was recorded in histogram `id`. */
function lastOf(frames, id) {
  return frames.findLast((frame) => frame.values[id]?.[1] > 0)?.values[id];
}

/** Callbacks, those that take most time first. */
export function callbacks() {
  const titles = ["Filter", "Directive", "Callback", "Each second", "p50", "p99", "Share of a worker", "In all"];
  const { element, body } = table("Callbacks", titles, 3);
  const cell = (at, title) => h("td", { class: at >= 3 ? "number" : null, title });
  const make = (row) => h("tr", {}, h("th", { scope: "row" }), titles.slice(1).map((_, at) => cell(at + 1, at === 0 ? row.directive : null)));
  const update = ({ catalog, frames, find, last }) => {
    const rows = find((metric) => metric.name === TIMES && !metric.merged).flatMap((id) => {
      const value = last?.values[id];
      if (!value) {
        return [];
      }
      const { filter, directive, callback } = catalog[id].labels;
      const recent = lastOf(frames, id);
      const share = rate(last, [id], 2);
      const cells = [
        filter, place(directive), callback, perSecond(rate(last, [id])), time(recent?.[3]), time(recent?.[5]),
        percent(share === null ? null : share / 1e9), whole(value[0]),
      ];
      return [{ key: String(id), cells, directive, share: share ?? 0 }];
    });
    rows.sort((a, b) => b.share - a.share || a.key - b.key);
    setRows(body, rows, make);
  };
  return { element: h("section", { class: "card wide" }, element), update };
}

/** A metric's name and labels. */
export function nameOf({ name, labels }) {
  const pairs = Object.entries(labels).map(([label, value]) => `${label}=${label === "directive" ? place(value) : value}`);
  return pairs.length ? `${name} {${pairs.join(", ")}}` : name;
}

/** Every metric, those that hold a text; `chosen` is called with the number of one that somebody has picked. */
export function metrics(chosen) {
  const search = h("input", { type: "search", placeholder: "name or label", "aria-label": "Show metrics that have this in name or labels" });
  const { element, body } = table("Every metric; a click draws one", ["Metric", "Kind", "Each second", "Now"], 2);
  const make = (row) => h(
    "tr",
    {},
    h("th", { scope: "row" }, h("button", { type: "button", title: row.help, onclick: () => chosen(Number(row.key)) })),
    h("td"),
    h("td", { class: "number" }),
    h("td", { class: "number" }),
  );
  const update = ({ catalog, find, last }) => {
    const wanted = search.value.trim().toLowerCase();
    const rows = find((metric) => !metric.merged).flatMap((id) => {
      const metric = catalog[id];
      const value = last?.values[id];
      const name = nameOf(metric);
      if (value === null || value === undefined || !name.toLowerCase().includes(wanted)) {
        return [];
      }
      const counts = metric.kind === "counter" || metric.kind === "histogram";
      const each = counts ? perSecond(rate(last, [id])) : "";
      const now = counts ? whole(value[0]) : metric.unit === "bytes" ? ofUnit("bytes")(amount(last, [id])) : whole(amount(last, [id]));
      return [{ key: String(id), cells: [name, metric.kind === "level" ? "gauge" : metric.kind, each, now], help: metric.help }];
    });
    setRows(body, rows, make);
  };
  search.addEventListener("input", () => chosen(null));
  return { element: h("section", { class: "card wide" }, h("div", { class: "head" }, h("h2", {}, "All metrics"), search), element), update };
}
