// Light or dark: as the system has it, or as somebody has chosen.

const probe = document.createElement("span");
const KEY = "weir-theme";
const listeners = new Set();

/** What a colour of style.css is now, such as `--c0`. */
export function color(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

/** Number of colours for lines. */
export const COLORS = 8;

/** Calls `listener` whenever colours have changed, until the function it returns is called. */
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function apply(theme) {
  document.documentElement.dataset.theme = theme;
  listeners.forEach((listener) => listener());
}

/** Begins with what was chosen last. */
export function start(select) {
  probe.hidden = true;
  document.body.append(probe);
  let theme = "auto";
  try {
    theme = localStorage.getItem(KEY) ?? theme;
  } catch {
    // A browser that keeps nothing: the system decides.
  }
  select.value = theme;
  if (select.value !== theme) {
    select.value = "auto";
  }
  apply(select.value);
  select.addEventListener("change", () => {
    try {
      localStorage.setItem(KEY, select.value);
    } catch {
      // It lasts until the page is left.
    }
    apply(select.value);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(select.value));
}
