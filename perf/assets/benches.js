// The page Benches: what each bench took, commit by commit, as the gate has noted it.

import { Chart } from "./chart.js";
import { field, h, setOptions, table } from "./dom.js";
import { date, ofUnit, ratio } from "./format.js";

/** How much more is worth a word where a run does not say: as much as the gate allows by itself. */
const TOLERANCE = { ns: 0.15, instructions: 0.05 };

const SVG = "http://www.w3.org/2000/svg";

/** What a bench did in one run, and how that compares with its budget and with the run before. */
function compare(run, now, before) {
  const over = now.budget && now.low > now.budget.most ? "over its budget" : "";
  if (!before) {
    return { ratio: null, verdict: over };
  }
  const ratio = now.value / before.value;
  const tolerance = run.tolerance?.[now.unit] ?? TOLERANCE[now.unit] ?? 0.15;
  // Times are noisy: rounds of both runs must not overlap.
  const exact = now.unit === "instructions";
  const slower = ratio > 1 + tolerance && (exact || now.low > before.high);
  const faster = ratio < 1 - tolerance && (exact || now.high < before.low);
  return { ratio, verdict: over || (slower ? "slower" : faster ? "faster" : "") };
}

/** Runs of each bench on `machine`: a map of name to `[{run, result, ratio, verdict}, …]`, oldest first. */
function byBench(runs, machine) {
  const benches = new Map();
  for (const run of runs.filter((run) => run.machine === machine)) {
    for (const result of run.results) {
      const history = benches.get(result.name) ?? [];
      history.push({ run, result, ...compare(run, result, history.at(-1)?.result) });
      benches.set(result.name, history);
    }
  }
  return new Map([...benches].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** The way of the last values, small. */
function spark(history) {
  const values = history.slice(-30).map(({ result }) => result.value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (at) => (values.length > 1 ? (at / (values.length - 1)) * 96 + 2 : 50);
  const y = (value) => 20 - ((value - low) / (high - low || 1)) * 16;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 24");
  svg.setAttribute("width", 100);
  svg.setAttribute("height", 24);
  svg.setAttribute("class", "spark");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", values.map((value, at) => `${x(at)},${y(value)}`).join(" "));
  line.style.cssText = "fill: none; stroke: var(--c0); stroke-width: 2";
  svg.append(line);
  return svg;
}

function verdictOf(verdict) {
  const good = verdict === "faster";
  return h("td", { class: verdict ? (good ? "good" : "bad") : null }, verdict && `${good ? "▼" : "▲"} ${verdict}`);
}

/** The most that a bench may take, by what was measured in the same run. */
function budgetOf({ budget }, format) {
  return h("td", { class: "number", title: budget?.why ?? null }, budget ? format(budget.most) : "–");
}

/** Everything that is known of one bench. */
function detail(name, history) {
  const format = ofUnit(history[0].result.unit);
  const commit = (at) => history[Math.round(at)]?.run.commit.slice(0, 8) ?? "";
  const chart = new Chart({
    title: name,
    note: "by commit: the value, and the lowest and highest round",
    format,
    wide: true,
    x: {
      points: true,
      format: commit,
      tick: (at) => (Number.isInteger(at) ? commit(at) : ""),
      scale: { range: (_plot, low, high) => [low - 0.5, high + 0.5] },
      axis: { incrs: [1, 2, 5, 10, 20, 50, 100], space: 70 },
    },
  });
  const pick = (key) => history.map(({ result }) => result[key]);
  chart.update(
    history.map((_, at) => at),
    [{ name: "value", values: pick("value") }, { name: "highest", values: pick("high") }, { name: "lowest", values: pick("low") }],
    [[1, 2]],
  );
  const runs = table(`Runs of ${name}`, ["Commit", "Date", "Machine", "", "Value", "Lowest", "Highest", "To the run before", "Budget"], 4);
  runs.body.append(...history.toReversed().map(({ run, result, ratio: change, verdict }) => h(
    "tr",
    {},
    h("th", { scope: "row" }, h("code", {}, run.commit)),
    h("td", {}, date(run.time)),
    h("td", {}, run.machine),
    verdictOf(verdict),
    ...[format(result.value), format(result.low), format(result.high), ratio(change)].map((text) => h("td", { class: "number" }, text)),
    budgetOf(result, format),
  )));
  const element = h("div", { class: "cards" }, chart.element, h("section", { class: "card wide" }, runs.element));
  return { element, close: () => chart.close() };
}

export function open([wanted]) {
  const about = h("p", { class: "soft" }, "reading …");
  const machine = h("select", { id: "machine" });
  const search = h("input", { type: "search", id: "bench", placeholder: "part of a name" });
  const place = h("div", { class: "detail" });
  const list = h("section", { class: "card wide" });
  const element = h(
    "div",
    {},
    h("div", { class: "top" }, h("div", {}, h("h1", {}, "Benches"), about), field("Machine", machine), field("Bench", search)),
    place,
    list,
  );
  let shown = null;
  let runs = [];

  function show(name, history) {
    shown?.close();
    shown = history ? detail(name, history) : null;
    place.replaceChildren(...(shown ? [shown.element] : []));
    for (const row of list.querySelectorAll("tbody tr")) {
      row.className = row.dataset.name === name ? "chosen" : "";
    }
  }

  function draw() {
    const benches = byBench(runs, machine.value);
    const rows = [...benches].filter(([name]) => name.includes(search.value.trim()));
    const { element: box, body } = table("The last run of each bench; a click shows all of them", ["Bench", "", "Way", "Last", "Before", "Last to before", "Budget", "Commit"], 3);
    body.append(...rows.map(([name, history]) => {
      const { run, result, ratio: change, verdict } = history.at(-1);
      const format = ofUnit(result.unit);
      const before = history.at(-2)?.result;
      const pick = () => {
        show(name, history);
        place.scrollIntoView({ block: "nearest" });
      };
      return h(
        "tr",
        { "data-name": name },
        h("th", { scope: "row" }, h("button", { type: "button", onclick: pick }, name)),
        verdictOf(verdict),
        h("td", {}, spark(history)),
        ...[format(result.value), before ? format(before.value) : "–", ratio(change)].map((text) => h("td", { class: "number" }, text)),
        budgetOf(result, format),
        h("td", { class: "number" }, h("code", {}, run.commit.slice(0, 8))),
      );
    }));
    const found = (verdict) => [...benches.values()].filter((history) => history.at(-1).verdict === verdict).length;
    const [slower, over] = [found("slower"), found("over its budget")];
    list.replaceChildren(
      h("p", { class: slower || over ? "bad" : "note" }, `${slower} of ${benches.size} benches are slower than in the run before; over their budgets: ${over}.`),
      box,
    );
    list.hidden = runs.length === 0;
  }

  async function load() {
    const found = await (await fetch("api/benches")).json();
    runs = found.runs;
    about.textContent = runs.length
      ? [`${runs.length === 1 ? "1 run" : `${runs.length} runs`} in ${found.folder}`, ...found.problems].join("; ")
      : [`There is no run in ${found.folder} yet: scripts/bench-gate appends one when it is told to`, ...found.problems].join("; ");
    setOptions(machine, [...new Set(runs.map((run) => run.machine))].map((name) => [name, name]));
    machine.value = runs.at(-1)?.machine ?? "";
    draw();
    const benches = byBench(runs, machine.value);
    if (benches.has(wanted)) {
      show(wanted, benches.get(wanted));
    }
  }

  machine.addEventListener("change", () => {
    show(null, null);
    draw();
  });
  search.addEventListener("input", draw);
  load();
  return { element, close: () => shown?.close() };
}
