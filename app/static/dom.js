/** Elements with attributes and children; texts are always texts. */

const SVG = new Set(["svg", "rect", "path"]);

/** Return an element. A function is a listener, true an empty attribute, false and null none. */
export function h(tag, attributes = {}, ...children) {
  const element = SVG.has(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name.startsWith("aria-")) value != null && element.setAttribute(name, value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** Return a table with a caption for screen readers; `numeric` has the positions of the columns of numbers. */
export function table(caption, header, rows, numeric = []) {
  const cells = (tag, row) => row.map((cell, at) => h(tag, { class: numeric.includes(at) && "number", scope: tag === "th" && "col" }, cell ?? ""));
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    h("table", {}, h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, cells("th", header))),
      h("tbody", {}, rows.map((row) => h("tr", {}, cells("td", row))))));
}

/** Return a number for people, with four significant digits. */
export function short(number) {
  if (number == null) return "";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-4 || size >= 1e9)) return number.toExponential(3);
  if (size >= 9999.5) return Math.round(number).toLocaleString("en-US");
  return String(Number(number.toPrecision(4)));
}

/** Return a day in words. */
export function day(text) {
  const date = new Date(text);
  return Number.isNaN(date.valueOf()) ? text : date.toLocaleDateString("en-GB", { day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });
}

/** Put text on the clipboard, also where the page is not in a secure context, and say so on the button for a moment. */
export async function copy(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = h("textarea", { readonly: true }, text);
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
}
