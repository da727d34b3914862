// What the server tells of the metrics file: a catalog of metrics, and a frame of their values each second.
// perf/src/dashboard/frame.rs says what they look like.

/** Most frames that are kept: as many as the server keeps. */
const FRAMES = 900;

class Stream extends EventTarget {
  file = "";
  catalog = [];
  frames = [];
  connected = true;

  start() {
    const source = new EventSource("api/live");
    const on = (name, take) => source.addEventListener(name, (event) => {
      this.connected = true;
      take(JSON.parse(event.data));
    });
    on("file", (file) => (this.file = file));
    on("catalog", (catalog) => (this.catalog = catalog));
    on("history", (frames) => {
      this.frames = frames;
      this.changed();
    });
    on("frame", (frame) => {
      this.frames.push(frame);
      this.frames.splice(0, this.frames.length - FRAMES);
      this.changed();
    });
    source.onerror = () => {
      this.connected = false;
      this.changed();
      // A browser tries again by itself, unless it was answered with an error.
      if (source.readyState === EventSource.CLOSED) {
        setTimeout(() => this.start(), 1000);
      }
    };
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  get last() {
    return this.frames.at(-1) ?? null;
  }

  /** What is wrong, in a sentence; empty when nothing is. */
  trouble() {
    if (!this.connected) {
      return "The dashboard does not answer: is `weir dashboard` still running? The page goes on when it does.";
    }
    const state = this.last?.state;
    if (state === "gone") {
      return `There are no metrics: ${this.last.trouble}. The page goes on when there are.`;
    }
    if (state === "still") {
      return "No worker of nginx lives: nothing is counted. The page goes on when nginx does.";
    }
    return "";
  }

  /** Frames of the last `minutes`. */
  since(minutes) {
    const from = (this.last?.at ?? 0) - minutes * 60_000;
    return this.frames.filter((frame) => frame.at >= from);
  }

  /** Numbers of metrics in the catalog that `fits` accepts. */
  find(fits) {
    return this.catalog.flatMap((metric, at) => (fits(metric) ? [at] : []));
  }
}

export const live = new Stream();

/** Sums up, over the metrics `ids`, what happened each second; `null` where that is not known. */
export function rate(frame, ids, part = 1) {
  let sum = null;
  for (const id of ids) {
    const value = frame.values[id];
    if (frame.gap && value && value[1] !== null) {
      sum = (sum ?? 0) + (value[part] ?? 0) / frame.gap;
    }
  }
  return sum;
}

/** Sums up gauges, and levels over workers; `null` where there are none. */
export function amount(frame, ids) {
  let sum = null;
  for (const id of ids) {
    const value = frame.values[id];
    if (Array.isArray(value)) {
      for (const [, level] of value) {
        sum = (sum ?? 0) + level;
      }
    } else if (value !== null && value !== undefined) {
      sum = (sum ?? 0) + value;
    }
  }
  return sum;
}

/** Numbers of metrics by what `key` says of them, in the order of the keys. */
export function group(catalog, ids, key) {
  const groups = new Map();
  for (const id of ids) {
    const name = key(catalog[id]);
    groups.set(name, [...(groups.get(name) ?? []), id]);
  }
  return [...groups].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
}
