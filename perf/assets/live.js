// The page Live: what filters do now, and did in the last minutes.

import { field, h, setOptions, setText } from "./dom.js";
import { bytes, percent, rate as perSecond, whole } from "./format.js";
import { TIMES, chartOf, charts } from "./live/charts.js";
import { live, rate } from "./live/stream.js";
import { callbacks, metrics, nameOf } from "./live/tables.js";

const WINDOWS = [["1", "1 minute"], ["5", "5 minutes"], ["15", "15 minutes"]];

/** What somebody has picked; it stays while other pages are looked at. */
const picked = { filter: "", minutes: "5", callback: "on_request_headers" };

function select(name, options) {
  const element = h("select", { id: name, onchange: () => {
    picked[name] = element.value;
    live.changed();
  } });
  if (options) {
    setOptions(element, options);
    element.value = picked[name];
  }
  return element;
}

function tiles() {
  const titles = ["Workers that live", "Callbacks each second", "Time in filters", "Failures each second", "Metrics file"];
  const values = titles.map(() => h("dd", {}));
  const element = h("dl", { class: "tiles" }, titles.map((title, at) => h("div", { class: "tile" }, h("dt", {}, title), values[at])));
  const update = ({ last, find }) => {
    const times = find((metric) => metric.name === TIMES && !metric.merged);
    const failures = find((metric) => metric.name === "weir_failures");
    const spent = last ? rate(last, times, 2) : null;
    const texts = last
      ? [
        whole(last.workers.filter(([, , lives]) => lives).length),
        perSecond(rate(last, times)),
        percent(spent === null ? null : spent / 1e9),
        perSecond(rate(last, failures) ?? (last.gap ? 0 : null)),
        last.size ? `${percent(last.used / last.size)} of ${bytes(last.size)}` : "–",
      ]
      : titles.map(() => "–");
    texts.forEach((text, at) => setText(values[at], text));
  };
  return { element, update };
}

/** Filters and callbacks that there are, in the controls. */
function setControls(filter, callback) {
  const own = live.catalog.filter((metric) => metric.labels.filter);
  const filters = [...new Set(own.map((metric) => metric.labels.filter))].sort();
  setOptions(filter, [["", "all filters"], ...filters.map((name) => [name, name])]);
  filter.value = filters.includes(picked.filter) ? picked.filter : "";
  picked.filter = filter.value;
  const called = live.catalog.filter((metric) => metric.merged && metric.labels.filter === picked.filter);
  const names = called.map((metric) => metric.labels.callback).sort();
  setOptions(callback, names.map((name) => [name, name]));
  callback.value = names.includes(picked.callback) ? picked.callback : names[0] ?? "";
}

export function open() {
  const controls = { filter: select("filter"), minutes: select("minutes", WINDOWS), callback: select("callback") };
  controls.callback.setAttribute("aria-label", "Callback");
  const about = h("p", { class: "soft" });
  const all = [tiles(), ...charts({ Latency: [controls.callback] }), callbacks()];
  const [numbers, ...others] = all;
  const cards = h("div", { class: "cards" }, others.map((one) => one.element));
  let drawn = null;
  const list = metrics((id) => {
    if (id !== null) {
      drawn?.close();
      drawn?.element.remove();
      drawn = chartOf(live.catalog[id], id, nameOf(live.catalog[id]));
      list.element.before(drawn.element);
      drawn.element.scrollIntoView({ block: "nearest" });
    }
    draw();
  });
  cards.append(list.element);
  const element = h(
    "div",
    {},
    h("div", { class: "top" }, h("div", {}, h("h1", {}, "Live"), about), field("Filter", controls.filter), field("Time", controls.minutes)),
    numbers.element,
    cards,
  );

  function draw() {
    setControls(controls.filter, controls.callback);
    const { catalog, last } = live;
    const { filter } = picked;
    const ofFilter = (metric) => !filter || !metric.labels.filter || metric.labels.filter === filter;
    const frames = live.since(Number(picked.minutes));
    const find = (fits) => live.find((metric) => ofFilter(metric) && fits(metric));
    const view = { catalog, frames, filter, callback: controls.callback.value, find, last };
    const times = frames.map((frame) => frame.at);
    [...all, list, ...(drawn ? [drawn] : [])].forEach((one) => one.update(view, times));
    const pids = last?.workers.filter(([, , lives]) => lives).map(([, pid]) => pid) ?? [];
    const configuration = last?.generation ? `, configuration ${last.generation}` : "";
    setText(about, `${live.file}${configuration}${pids.length ? `, workers ${pids.join(" ")}` : ""}`);
    element.dataset.at = last?.at ?? "";
  }

  let waiting = 0;
  const later = () => {
    waiting ||= requestAnimationFrame(() => {
      waiting = 0;
      draw();
    });
  };
  live.addEventListener("change", later);
  draw();
  const close = () => {
    live.removeEventListener("change", later);
    cancelAnimationFrame(waiting);
    [...all, ...(drawn ? [drawn] : [])].forEach((one) => one.close?.());
  };
  return { element, close };
}
