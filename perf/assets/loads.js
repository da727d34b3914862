// The page Load tests: what `weir load` has found. perf/src/load/report.rs says what a result looks like.

import { Chart } from "./chart.js";
import { field, h, setOptions, table } from "./dom.js";
import { bytes, date, ratio, short, time, whole } from "./format.js";

/** Latencies are in µs. */
const us = (value) => time(value === null || value === undefined ? value : value * 1000);

/** What is known of a server, and how it is written. */
const NUMBERS = [
  ["Requests answered each second", (server) => server.rate, short],
  ["CPU time of a request", (server) => server.cpu_us, us],
  ["Memory of workers", (server) => server.memory_mib * 1024 ** 2, bytes],
  ["Latency: p50", (server) => server.latency.p50, us],
  ["p90", (server) => server.latency.p90, us],
  ["p99", (server) => server.latency.p99, us],
  ["p99.9", (server) => server.latency.p999, us],
  ["longest", (server) => server.latency.max, us],
  ["Requests", (server) => server.requests, whole],
];

/** What the filters need of what nginx needs without them. */
const RATIOS = [["CPU", "cpu"], ["p50", "p50"], ["p99", "p99"], ["Requests each second", "throughput"]];

const named = ({ name, run }) => `${run.profile}, ${date(run.time)} (${name})`;
const on = ({ run }) => run.ratios?.find((ratio) => ratio.name === "on");

/** Where a percentile is on an axis on which each further nine takes as much room: 0 %, 90 %, 99 %, 99.9 %. */
const nines = (percentile) => -Math.log10(1 - percentile / 100);

/** The percentile that is there. */
const percentile = (at) => `${Number((100 - 100 * 10 ** -at).toFixed(3))} %`;

/** Latency curves of the servers of `results`. */
function curves(results) {
  const chart = new Chart({
    title: "Latency by percentile",
    note: "from the time that a request was due to its last byte; each step to the right is one request in ten of those before",
    format: us,
    log: true,
    wide: true,
    x: { points: true, format: percentile, axis: { incrs: [1], space: 40 }, scale: { range: (_plot, low, high) => [low, high] } },
  });
  const all = results.flatMap((result) => result.run.servers.map((server) => ({
    name: results.length > 1 ? `${server.name}: ${named(result)}` : server.name,
    // The longest of all has no place on this axis, and is in the table.
    curve: new Map(server.latency.curve.filter(([percentile]) => percentile < 100)),
  })));
  const known = [...new Set(all.flatMap(({ curve }) => [...curve.keys()]))].sort((a, b) => a - b);
  const lines = all.map(({ name, curve }) => ({ name, values: known.map((percentile) => curve.get(percentile) || null) }));
  chart.update(known.map(nines), lines);
  return chart;
}

/** Servers side by side, and each over the one in the first column. */
function servers(results) {
  const all = results.flatMap((result) => result.run.servers.map((server) => ({ server, result })));
  const titles = all.map(({ server, result }) => (results.length > 1 ? `${server.name}: ${named(result)}` : server.name));
  const { element, body } = table("Servers; × is over the first of them", ["", ...titles], 1);
  const errors = [...new Set(all.flatMap(({ server }) => Object.keys(server.errors)))].sort();
  const rows = [...NUMBERS, ...errors.map((kind) => [`Errors: ${kind}`, (server) => server.errors[kind] ?? 0, whole])];
  body.append(...rows.map(([title, value, format]) => h(
    "tr",
    {},
    h("th", { scope: "row" }, title),
    all.map(({ server }, at) => {
      const [now, first] = [value(server), value(all[0].server)];
      return h("td", { class: "number" }, at && first ? `${format(now)}  ${ratio(now / first)}` : format(now));
    }),
  )));
  return element;
}

/** Kinds of requests of one result. */
function traffic({ run }) {
  const { element, body } = table(`Kinds of requests: ${run.profile}`, ["Kind", "Server", "Requests", "Failed", "Bytes", "p50", "p99", "Longest"], 2);
  const kinds = [...new Set(run.servers.flatMap((server) => Object.keys(server.traffic)))].sort();
  body.append(...kinds.flatMap((kind) => run.servers.filter((server) => server.traffic[kind]).map((server) => {
    const { requests, failed, bytes: count, latency } = server.traffic[kind];
    const texts = [whole(requests), whole(failed), bytes(count), us(latency.p50), us(latency.p99), us(latency.max)];
    return h("tr", {}, h("th", { scope: "row" }, kind), h("td", {}, server.name), texts.map((text) => h("td", { class: "number" }, text)));
  })));
  return element;
}

function facts({ name, run }) {
  const pairs = [["file", name], ["profile", `${run.profile}: ${run.about}`], ["offered", `${short(run.offered)} requests each second`], ["date", date(run.time)], ["machine", run.machine], ["versions", run.versions], ["commit", run.commit]].filter(([, value]) => value);
  return h(
    "section",
    { class: "card wide" },
    h("dl", { class: "facts" }, pairs.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])),
    run.failed.map((sentence) => h("p", { class: "bad" }, `▲ ${sentence}`)),
  );
}

export function open([wanted]) {
  const about = h("p", { class: "soft" }, "reading …");
  const run = h("select", { id: "run" });
  const beside = h("select", { id: "beside" });
  const place = h("div", { class: "cards" });
  const list = h("section", { class: "card wide detail" });
  const controls = [field("Run", run), field("Compared with", beside)];
  const element = h("div", {}, h("div", { class: "top" }, h("div", {}, h("h1", {}, "Load tests"), about), controls), list, place);
  let results = [];
  let chart = null;

  function draw() {
    const chosen = [run.value, beside.value].map((name) => results.find((result) => result.name === name)).filter(Boolean);
    chart?.close();
    chart = chosen.length ? curves(chosen) : null;
    place.replaceChildren(...(chart ? [
      ...chosen.map(facts),
      chart.element,
      h("section", { class: "card wide" }, servers(chosen)),
      ...chosen.map((result) => h("section", { class: "card wide" }, traffic(result))),
    ] : []));
    for (const row of list.querySelectorAll("tbody tr")) {
      row.className = row.dataset.name === run.value ? "chosen" : "";
    }
  }

  function overview() {
    const titles = ["Profile", "", "File", "Date", ...RATIOS.map(([title]) => title), "Memory beyond"];
    const { element: box, body } = table("Filters on, over nginx without them; a click shows a run", titles, 4);
    body.append(...results.toReversed().map((result) => {
      const pick = () => {
        run.value = result.name;
        draw();
      };
      const ratios = on(result);
      const verdict = result.run.failed.length ? h("td", { class: "bad" }, "▲ beyond its budgets") : h("td", {}, "");
      return h(
        "tr",
        { "data-name": result.name },
        h("th", { scope: "row" }, h("button", { type: "button", onclick: pick }, result.run.profile)),
        verdict,
        h("td", {}, result.name),
        h("td", {}, date(result.run.time)),
        RATIOS.map(([, key]) => h("td", { class: "number" }, ratio(ratios?.[key]))),
        h("td", { class: "number" }, ratios ? bytes(ratios.memory_mib * 1024 ** 2) : "–"),
      );
    }));
    list.replaceChildren(box);
  }

  async function load() {
    const found = await (await fetch("api/loads")).json();
    results = found.runs.sort((a, b) => a.run.time - b.run.time);
    const empty = `There is no run in ${found.folder} yet: weir load PROFILE --out ${found.folder} leaves one`;
    about.textContent = [results.length ? `${results.length === 1 ? "1 run" : `${results.length} runs`} in ${found.folder}` : empty, ...found.problems].join("; ");
    [list, ...controls].forEach((one) => (one.hidden = results.length === 0));
    const options = results.toReversed().map((result) => [result.name, named(result)]);
    setOptions(run, options);
    setOptions(beside, [["", "nothing"], ...options]);
    run.value = results.some(({ name }) => name === wanted) ? wanted : options[0]?.[0] ?? "";
    overview();
    draw();
  }

  run.addEventListener("change", draw);
  beside.addEventListener("change", draw);
  load();
  return { element, close: () => chart?.close() };
}
