// Making and keeping elements. Text is always set as text, never read as markup: names of filters and labels are
// whatever somebody has written.

/** An element; attributes that begin with `on` are listeners, `false` and `null` are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets the text of an element, if it is another. */
export function setText(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

/** Makes the options of a select those in `[[value, text], …]`, and keeps the chosen one if it is among them. */
export function setOptions(select, options) {
  const now = JSON.stringify(options);
  if (select.dataset.options === now) {
    return;
  }
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
  select.dataset.options = now;
  if (options.some(([value]) => value === chosen)) {
    select.value = chosen;
  }
}

/**
 * Makes the rows of a table body those in `rows`: each has a `key`, and `cells` of text, or of `{text, …attributes}`.
 * Rows stay where their keys do, so that whoever has the focus in one keeps it.
 */
export function setRows(body, rows, make) {
  const found = new Map([...body.children].map((row) => [row.dataset.key, row]));
  let after = null;
  for (const row of rows) {
    let element = found.get(row.key);
    if (element) {
      found.delete(row.key);
    } else {
      element = make(row);
      element.dataset.key = row.key;
    }
    row.cells.forEach((text, at) => {
      const cell = element.children[at];
      setText(cell.querySelector("button") ?? cell, text);
    });
    element.className = row.style ?? "";
    const place = after ? after.nextSibling : body.firstChild;
    if (place !== element) {
      body.insertBefore(element, place);
    }
    after = element;
  }
  for (const gone of found.values()) {
    gone.remove();
  }
}

/** A labelled control. */
export function field(label, control) {
  return h("label", { class: "field" }, label, control);
}

/** A table with a caption in a box that scrolls, and that the keyboard reaches. */
export function table(caption, titles, firstNumber) {
  const head = titles.map((title, at) => h("th", { scope: "col", class: at >= firstNumber ? "number" : null }, title));
  const body = h("tbody");
  const element = h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), body),
  );
  return { element, body };
}
