// Numbers as people read them: three digits, and a unit.

function digits(value) {
  const size = Math.abs(value);
  return size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : 2;
}

const NONE = "–";

function scaled(value, steps) {
  if (value === null || value === undefined || Number.isNaN(value)) {
    return NONE;
  }
  let [size, unit] = steps[0];
  for (const [from, name] of steps) {
    if (Math.abs(value) >= from) {
      [size, unit] = [from, name];
    }
  }
  const number = value / size;
  const text = Number.isInteger(number) ? String(number) : number.toFixed(digits(number));
  return unit ? `${text} ${unit}` : text;
}

/** Nanoseconds. */
export function time(ns) {
  return scaled(ns, [[1, "ns"], [1e3, "µs"], [1e6, "ms"], [1e9, "s"]]);
}

/** Bytes. */
export function bytes(count) {
  return scaled(count, [[1, "B"], [1024, "KiB"], [1024 ** 2, "MiB"], [1024 ** 3, "GiB"]]);
}

/** A number without a unit, shortened. */
export function short(number) {
  return scaled(number, [[1, ""], [1e3, "k"], [1e6, "M"], [1e9, "G"], [1e12, "T"]]);
}

/** How often each second. */
export function rate(number) {
  const text = short(number);
  return text === NONE ? text : `${text}/s`;
}

/** A share, of 1. */
export function percent(share) {
  return share === null || share === undefined ? NONE : `${(share * 100).toFixed(digits(share * 100))} %`;
}

/** A factor. */
export function ratio(number) {
  return number === null || number === undefined || !Number.isFinite(number) ? NONE : `× ${number.toFixed(3)}`;
}

/** A whole number with all of its digits. */
export function whole(number) {
  return number === null || number === undefined ? NONE : number.toLocaleString("en");
}

/** The value of a unit, as the metrics file and the benches name it. */
export function ofUnit(unit) {
  return { ns: time, bytes, instructions: (count) => whole(Math.round(count)) }[unit] ?? short;
}

/** A time of day, in milliseconds since 1970. */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

/** A day and a time, in seconds since 1970. */
export function date(seconds) {
  if (!seconds) {
    return NONE;
  }
  const iso = new Date(seconds * 1000).toISOString();
  return `${iso.slice(0, 10)} ${iso.slice(11, 16)} UTC`;
}

/** `nginx.conf:7` of a whole path. */
export function place(directive) {
  return directive.split(", ").map((one) => one.split("/").pop()).join(", ");
}
