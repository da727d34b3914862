// One chart: uPlot for the lines, and around it what keyboards and screen readers need.

import { h, setText } from "./dom.js";
import { COLORS, color, onTheme } from "./theme.js";

const HEIGHT = 190;
const SVG = "http://www.w3.org/2000/svg";

/** Lines that have a colour in common differ in this. */
const DASHES = [[], [6, 4], [2, 3]];

function swatch(at) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("width", 18);
  svg.setAttribute("height", 8);
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "line");
  for (const [name, value] of Object.entries({ x1: 0, x2: 18, y1: 4, y2: 4, "stroke-width": 3 })) {
    line.setAttribute(name, value);
  }
  line.style.stroke = `var(--c${at % COLORS})`;
  line.setAttribute("stroke-dasharray", DASHES[Math.floor(at / COLORS) % DASHES.length].join(" "));
  svg.append(line);
  return svg;
}

/** A range that begins at 0. */
function linear(_plot, _least, most) {
  return [0, most > 0 ? most * 1.08 : 1];
}

/** A range of whole powers of ten. */
function powers(_plot, least, most) {
  if (!(least > 0)) {
    return [1e2, 1e6];
  }
  const [low, high] = [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most))];
  return [10 ** low, 10 ** Math.max(high, low + 1)];
}

export class Chart {
  /**
   * `title` and `note` say what it shows; `format` writes values; `log` has powers of ten as steps; `x` says what the
   * horizontal axis is: `{format, tick, scale, sync}`. `empty` is shown where there is nothing else.
   */
  constructor({ title, note = "", format, log = false, x, empty = "nothing yet", controls = [], wide = false }) {
    Object.assign(this, { title, format, log, x });
    this.hidden = new Set();
    this.shape = "";
    this.names = [];
    this.data = [[]];
    this.empty = h("p", { class: "empty" }, empty);
    this.plot = h(
      "div",
      {
        class: "plot", tabindex: "0", role: "img", "aria-label": title,
        onkeydown: (event) => this.key(event),
        onblur: () => (this.led = false),
      },
      this.empty,
    );
    this.legend = h("ul", { class: "legend" });
    this.readout = h("span", { class: "soft" });
    this.element = h(
      "figure",
      { class: wide ? "card wide" : "card" },
      h("figcaption", { class: "head" }, h("h2", {}, title), this.readout, controls),
      note ? h("p", { class: "note" }, note) : null,
      this.plot,
      this.legend,
    );
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.plot);
    this.forget = onTheme(() => this.make());
  }

  /** It is not shown any more. */
  close() {
    this.observer.disconnect();
    this.forget();
    this.uplot?.destroy();
    this.uplot = null;
  }

  /** Shows `lines`, `[{name, values}]`, over `times`; between those whose numbers are in `bands` it is shaded. */
  update(times, lines, bands = []) {
    const known = lines.some((line) => line.values.some((value) => value !== null && value !== undefined));
    this.empty.hidden = known;
    this.plot.classList.toggle("none", !known);
    this.data = [times, ...lines.map((line) => line.values)];
    this.names = lines.map((line) => line.name);
    this.bands = bands;
    const shape = JSON.stringify([this.names, bands, known]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.known = known;
      this.entries();
      this.make();
    } else {
      this.uplot?.setData(this.data);
      this.values();
    }
    // Where the arrows have led somebody, the label is about that place.
    if (!this.led) {
      this.plot.setAttribute("aria-label", `${this.title}: ${this.summary(times.length - 1)}`);
    }
  }

  /** The buttons below: what each line is, and whether it is shown. */
  entries() {
    this.shown = this.names.map(() => h("span", { class: "value" }));
    const entries = this.names.map((name, at) => {
      const toggle = () => {
        const hide = !this.hidden.delete(name);
        if (hide) {
          this.hidden.add(name);
        }
        button.setAttribute("aria-pressed", String(!hide));
        this.uplot?.setSeries(at + 1, { show: !hide });
      };
      const pressed = String(!this.hidden.has(name));
      const button = h("button", { type: "button", "aria-pressed": pressed, onclick: toggle }, swatch(at), name, this.shown[at]);
      return h("li", {}, button);
    });
    this.legend.replaceChildren(...(this.known ? entries : []));
  }

  make() {
    this.uplot?.destroy();
    this.uplot = null;
    if (!this.known || this.plot.clientWidth === 0) {
      return;
    }
    const axis = { stroke: color("--soft"), grid: { stroke: color("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const line = (name, at) => {
      const stroke = color(`--c${at % COLORS}`);
      const dash = DASHES[Math.floor(at / COLORS) % DASHES.length];
      return { label: name, stroke, dash, width: 2, show: !this.hidden.has(name), spanGaps: false, points: { show: this.x.points ?? false, size: 6 } };
    };
    const fill = (at) => color(`--c${at % COLORS}`).replace(/^rgb\((.*)\)$/, "rgba($1, 0.14)");
    this.uplot = new uPlot(
      {
        width: this.plot.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, sync: this.x.sync ? { key: this.x.sync } : undefined },
        scales: {
          x: { time: false, ...this.x.scale },
          y: { distr: this.log ? 3 : 1, range: this.log ? powers : linear },
        },
        axes: [
          { ...axis, size: 28, space: 90, ...this.x.axis, values: (_plot, splits) => splits.map((split) => (split === null ? "" : (this.x.tick ?? this.x.format)(split))) },
          { ...axis, size: 68, values: (_plot, splits) => splits.map((split) => (split === null ? "" : this.format(split))) },
        ],
        series: [{}, ...this.names.map(line)],
        bands: this.bands.map(([high, low]) => ({ series: [high + 1, low + 1], fill: fill(high) })),
        hooks: { setCursor: [() => this.values()] },
      },
      this.data,
      this.plot,
    );
    this.values();
  }

  resize() {
    if (!this.uplot) {
      this.make();
    } else if (this.plot.clientWidth > 0 && this.plot.clientWidth !== this.uplot.width) {
      this.uplot.setSize({ width: this.plot.clientWidth, height: HEIGHT });
    }
  }

  /** Writes the values under the cursor beside the names, or the last ones. */
  values() {
    const under = this.uplot?.cursor.idx;
    const last = this.data[0].length - 1;
    const at = under ?? last;
    this.shown?.forEach((element, line) => setText(element, this.format(this.data[line + 1]?.[at] ?? null)));
    setText(this.readout, under === null || under === undefined || last < 0 ? "" : this.x.format(this.data[0][at]));
  }

  summary(at) {
    const all = this.names.map((name, line) => `${name} ${this.format(this.data[line + 1][at] ?? null)}`);
    return all.slice(0, 8).join(", ") || "nothing yet";
  }

  /** The arrows move the cursor. */
  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const last = this.data[0].length - 1;
    if (!step || !this.uplot || last < 0) {
      return;
    }
    event.preventDefault();
    this.led = true;
    const at = Math.min(Math.max((this.uplot.cursor.idx ?? last) + step, 0), last);
    this.uplot.setCursor({ left: this.uplot.valToPos(this.data[0][at], "x"), top: 10 });
    this.plot.setAttribute("aria-label", `${this.title}, ${this.x.format(this.data[0][at])}: ${this.summary(at)}`);
  }
}
