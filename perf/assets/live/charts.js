// What the charts of the page Live show: for each, which metrics, and how they become lines.

import { Chart } from "../chart.js";
import { clock, bytes, percent, place, rate as perSecond, short, time } from "../format.js";
import { amount, group, rate } from "./stream.js";

export const TIMES = "weir_callback_duration_seconds";

/** Callbacks that a request has once at most; the one that is called most often says how many requests there are. */
const ONCE = ["on_request_headers", "on_response_headers", "on_log", "on_done"];

const QUANTILES = ["p50", "p90", "p99", "p99.9"];

const X = {
  format: clock,
  tick: clock,
  sync: "live",
  scale: {},
  // Steps of a second to five minutes, in milliseconds.
  axis: { incrs: [1, 2, 5, 10, 15, 30, 60, 120, 300].map((seconds) => seconds * 1000), space: 80 },
};

/** Requests each second that `ids`, times of callbacks, tell of. */
export function requests(catalog, frame, ids) {
  const most = (ids) => {
    const rates = group(catalog, ids, (metric) => metric.labels.callback).map(([, ids]) => rate(frame, ids));
    const known = rates.filter((rate) => rate !== null);
    return known.length ? Math.max(...known) : null;
  };
  const each = group(catalog, ids, (metric) => metric.labels.directive).map(([, ids]) => most(ids));
  const known = each.filter((rate) => rate !== null);
  return known.length ? known.reduce((a, b) => a + b, 0) : null;
}

const named = (name) => (metric) => metric.name === name;

/** Each description: what a chart is called, and `lines(view)`; `view` has the stream, frames, filter and callback. */
const CHARTS = [
  {
    title: "Requests",
    note: "each second, by filter; by directive where one filter is picked",
    format: perSecond,
    lines: ({ catalog, frames, filter, find }) => {
      const ids = find((m) => m.name === TIMES && !m.merged && ONCE.includes(m.labels.callback));
      const key = (metric) => (filter ? place(metric.labels.directive) : metric.labels.filter);
      return group(catalog, ids, key).map(([name, ids]) => ({
        name,
        values: frames.map((frame) => requests(catalog, frame, ids)),
      }));
    },
  },
  {
    title: "Latency",
    note: "how long the picked callback took, in quantiles of each interval",
    format: time,
    log: true,
    bands: [[1, 0], [2, 1], [3, 2]],
    lines: ({ catalog, frames, filter, callback }) => {
      const id = catalog.findIndex(
        (m) => m.merged && m.labels.filter === filter && m.labels.callback === callback,
      );
      return QUANTILES.map((name, at) => ({ name, values: frames.map((frame) => frame.values[id]?.[3 + at] ?? null) }));
    },
  },
  {
    title: "Time in filters",
    note: "share of one worker's time, by filter",
    format: percent,
    lines: ({ catalog, frames, find }) => {
      const ids = find((m) => m.name === TIMES && !m.merged);
      return group(catalog, ids, (metric) => metric.labels.filter).map(([name, ids]) => ({
        name,
        values: frames.map((frame) => scale(rate(frame, ids, 2), 1e-9)),
      }));
    },
  },
  {
    title: "Failures and suspensions",
    note: "each second; and in how many workers filters are suspended now",
    format: short,
    empty: "no failure yet",
    lines: ({ catalog, frames, find }) => {
      const failures = group(catalog, find(named("weir_failures")), (metric) => metric.labels.cause);
      return [
        ...failures.map(([name, ids]) => line(`${name}/s`, frames, (frame) => rate(frame, ids))),
        ...one("suspensions/s", frames, find(named("weir_filter_suspensions")), rate),
        ...one("suspended", frames, find(named("weir_filter_suspended")), amount),
      ];
    },
  },
  {
    title: "Instances",
    note: "of all workers' pools",
    format: short,
    lines: ({ frames, find }) => [
      ...one("in use", frames, find(named("weir_pool_in_use")), amount),
      ...one("idle", frames, find(named("weir_pool_idle")), amount),
      ...one("capacity", frames, find(named("weir_pool_capacity")), amount),
    ],
  },
  {
    title: "What instances go through",
    note: "each second: made, put back, given up; requests that waited for one, and that got none",
    format: perSecond,
    lines: ({ frames, find }) => [
      ...one("made", frames, find(named("weir_instances_made")), rate),
      ...one("put back", frames, find(named("weir_instances_reset")), rate),
      ...one("given up", frames, find(named("weir_instances_dropped")), rate),
      ...one("waits", frames, find(named("weir_pool_waits")), rate),
      ...one("none left", frames, find(named("weir_pool_exhaustions")), rate),
    ],
  },
  {
    title: "Calls out",
    note: "each second, by upstream and how they ended; those that were not begun, by reason",
    format: perSecond,
    empty: "no call yet",
    lines: ({ catalog, frames, find }) => {
      const ended = group(catalog, find(named("weir_calls")), ({ labels }) => `${labels.upstream}: ${labels.outcome}`);
      const refused = group(catalog, find(named("weir_calls_refused")), ({ labels }) => `not begun: ${labels.reason}`);
      return [...ended, ...refused].map(([name, ids]) => line(name, frames, (frame) => rate(frame, ids)));
    },
  },
  {
    title: "Latency of calls",
    note: "p50 and p99 of each interval, by upstream",
    format: time,
    log: true,
    optional: true,
    lines: ({ catalog, frames, find }) => find(named("weir_call_duration_seconds")).flatMap((id) =>
      [["p50", 3], ["p99", 5]].map(([name, part]) =>
        line(`${catalog[id].labels.upstream} ${name}`, frames, (frame) => frame.values[id]?.[part] ?? null))),
  },
  {
    title: "Workers' memory",
    note: "that is in RAM",
    format: bytes,
    lines: ({ frames, find }) => byWorker(frames, find(named("weir_worker_resident_bytes"))[0]),
  },
  {
    title: "Shared memory",
    note: "bytes that are in use, by zone",
    format: bytes,
    optional: true,
    lines: ({ catalog, frames, find }) => {
      const zones = group(catalog, find(named("weir_zone_used_bytes")), ({ labels }) => `${labels.kind} ${labels.zone}`);
      return zones.map(([name, ids]) => line(name, frames, (frame) => amount(frame, ids)));
    },
  },
  {
    title: "Queues",
    note: "messages that wait",
    format: short,
    optional: true,
    lines: ({ catalog, frames, find }) => {
      const queues = group(catalog, find(named("weir_queue_depth")), ({ labels }) => `${labels.vm_id} ${labels.queue}`);
      return queues.map(([name, ids]) => line(name, frames, (frame) => amount(frame, ids)));
    },
  },
];

function scale(value, factor) {
  return value === null ? null : value * factor;
}

function line(name, frames, value) {
  return { name, values: frames.map(value) };
}

function one(name, frames, ids, sum) {
  return ids.length ? [line(name, frames, (frame) => sum(frame, ids))] : [];
}

function byWorker(frames, id) {
  const workers = new Set(frames.flatMap((frame) => (frame.values[id] ?? []).map(([worker]) => worker)));
  return [...workers].sort((a, b) => a - b).map((worker) => ({
    name: `worker ${worker}`,
    values: frames.map((frame) => (frame.values[id] ?? []).find(([row]) => row === worker)?.[1] ?? null),
  }));
}

/** All of them; `controls` gives what stands in the head of one, by its title. */
export function charts(controls) {
  return CHARTS.map(({ lines, bands, optional, ...about }) => {
    const chart = new Chart({ ...about, x: X, controls: controls[about.title] ?? [] });
    return {
      element: chart.element,
      close: () => chart.close(),
      update: (view, times) => {
        const all = lines(view);
        chart.element.hidden = Boolean(optional) && all.length === 0;
        chart.update(times, all, all.length ? bands : []);
      },
    };
  });
}

/** A chart of any metric of the catalog: how often, how much, or how long. */
export function chartOf(metric, id, name) {
  const histogram = metric.kind === "histogram";
  const counter = metric.kind === "counter";
  const unit = { ns: time, bytes }[metric.unit] ?? short;
  const chart = new Chart({
    title: name,
    note: [metric.help, counter ? "Each second." : histogram ? "Quantiles of each interval." : ""].join(" ").trim(),
    format: counter ? (value) => `${unit(value)}/s` : unit,
    x: X,
    wide: true,
  });
  const update = (view, times) => {
    const { frames } = view;
    if (histogram) {
      chart.update(times, QUANTILES.map((name, at) => line(name, frames, (frame) => frame.values[id]?.[3 + at] ?? null)));
    } else if (metric.kind === "level") {
      chart.update(times, byWorker(frames, id));
    } else {
      chart.update(times, [line(name, frames, (frame) => (counter ? rate(frame, [id]) : amount(frame, [id])))]);
    }
  };
  return { element: chart.element, close: () => chart.close(), update };
}
