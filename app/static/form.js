/** The form of one row: a field for each feature, made from what the service says about it. */
import { h, short } from "./dom.js";
import * as plot from "./plot.js";

const SHOWN = 40; // features of a wide table that are not folded away
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** Return the form; `changed` is called with whether a person may still be typing. */
export function rowForm(page, changed) {
  const fields = page.features.map((feature, number) => field(feature, number, page.examples, changed));
  const rest = fields.slice(SHOWN).map((each) => each.element);
  const element = h("form", { class: "fields", novalidate: true, autocomplete: "off", submit: (event) => event.preventDefault() },
    fields.slice(0, SHOWN).map((each) => each.element),
    rest.length > 0 && h("details", {}, h("summary", {}, `${rest.length} more features`), rest));
  return {
    element,
    row: () => Object.fromEntries(fields.map((each) => [each.name, each.value()])),
    fill: (row) => fields.forEach((each) => each.name in row && each.set(row[each.name])),
    outside: () => fields.filter((each) => each.isOutside()).map((each) => each.name),
    report: (details) => fields.forEach((each) => each.report(details.filter((detail) => detail.feature === each.name))),
  };
}

function field(feature, number, examples, changed) {
  const id = `field-${number}`;
  const note = h("p", { class: "note", id: `${id}-note` });
  const picture = h("div", { class: "plot" });
  const inner = control(feature, id, examples);
  const missing = feature.missing && h("input", { type: "checkbox", id: `${id}-missing`, change: () => update(false) });
  const value = () => (missing?.checked ? null : inner.value());
  let problems = [];

  const isOutside = () => value() !== null && inner.isOutside();
  function show() {
    inner.input.disabled = Boolean(missing?.checked);
    if (inner.slider) inner.slider.disabled = typeof value() !== "number";
    picture.replaceChildren(...[inner.picture?.(value()), inner.slider].filter(Boolean));
    picture.classList.toggle("outside", isOutside());
    const outside = isOutside() && (feature.n_categories ? "Training did not see it." : `Training saw ${range(feature)}.`);
    note.replaceChildren(problems.length > 0 ? problems.join(" ") : outside || hint(feature, value()));
    note.className = problems.length > 0 ? "note problem" : outside ? "note warning" : "note";
    inner.input.setAttribute("aria-invalid", problems.length > 0);
  }
  function update(isTyping) {
    problems = [];
    show();
    changed(isTyping);
  }
  inner.input.addEventListener("input", () => {
    inner.follow?.();
    update(inner.input.tagName === "INPUT");
  });
  inner.slider?.addEventListener("input", () => {
    inner.lead();
    update(true);
  });
  const element = h("div", { class: "field" },
    h("div", { class: "name" },
      h("label", { for: id }, feature.name, feature.unit && h("span", { class: "unit" }, ` ${feature.unit}`)),
      missing && h("label", { class: "missing", for: missing.id }, missing, h("span", { class: "unseen" }, `${feature.name}: `), "missing")),
    feature.description && h("p", { class: "about", id: `${id}-about` }, feature.description),
    h("div", { class: "entry" }, inner.input, picture, inner.list), note);
  inner.input.setAttribute("aria-describedby", `${feature.description ? `${id}-about ` : ""}${note.id}`);
  return {
    name: feature.name,
    element,
    value,
    isOutside,
    set(cell) {
      if (missing) missing.checked = cell === null;
      if (cell !== null) inner.set(cell);
      problems = [];
      show();
    },
    report(details) {
      problems = details.map(problem);
      show();
    },
  };
}

/** Return what is wrong with a cell, and what would be right, as a sentence. */
export function problem({ reason, nearest, accepted }) {
  if (accepted) return `${capital(reason)}: write ${accepted}.`;
  if (nearest == null) return reason === "missing" ? "A value is missing." : `${capital(reason)}.`;
  return reason === "out of range" ? `Out of range: the limit is ${nearest}.` : `${capital(reason)}: did you mean ${nearest}?`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

const range = (feature) => feature.seen.split(" in training")[0];

/** Return what training saw: the range of numbers, or how frequent a category was. */
function hint(feature, cell) {
  if (feature.median != null) return `${range(feature)}, median ${short(feature.median)}`;
  if (!feature.n_categories) return range(feature);
  if (cell === null) return `${percent(feature.bins.missing)} missing in training`;
  const at = feature.bins.codes.indexOf(feature.categories.indexOf(cell));
  return at >= 0 ? `${percent(feature.bins.shares[at])} of the training rows` : "rare in training";
}

const percent = (share) => `${short(100 * Number(share.toPrecision(2)))} %`;

/** Return the input of a feature, how its value is read and set, and the picture behind it. */
function control(feature, id, examples) {
  if (feature.n_categories && feature.categories.length === feature.n_categories) return choice(feature, id);
  if (feature.n_categories) return suggestions(feature, id);
  return feature.type === "date" ? date(feature, id, examples) : number(feature, id);
}

function number(feature, id) {
  const whole = feature.type === "integer";
  const limits = plot.rangeOf(feature.bins);
  const step = whole ? 1 : 10 ** Math.floor(Math.log10((limits[1] - limits[0]) / 100 || 1));
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const input = h("input", { id, type: "text", inputmode: whole ? "numeric" : "decimal", spellcheck: "false", keydown: arrows });
  const slider = limits[1] > limits[0] && h("input", { type: "range", min: 0, max: 1000, tabindex: "-1", "aria-hidden": "true" });
  const value = () => (input.value.trim() === "" ? null : NUMBER.test(input.value.trim()) ? Number(input.value) : input.value);
  function follow() {
    if (slider && typeof value() === "number") slider.value = plot.place(value(), limits) * 1000;
  }
  function arrows(event) {
    const way = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!way || typeof value() !== "number") return;
    event.preventDefault();
    input.value = (value() + way * step).toFixed(digits);
    input.dispatchEvent(new Event("input"));
  }
  return {
    input,
    slider,
    value,
    follow,
    lead: () => (input.value = Number((limits[0] + ((limits[1] - limits[0]) * slider.value) / 1000).toFixed(digits))),
    set(cell) {
      input.value = cell;
      follow();
    },
    isOutside: () => typeof value() === "number" && (value() < feature.minimum || value() > feature.maximum),
    picture: () => plot.numbers(feature.bins),
  };
}

function choice(feature, id) {
  const options = feature.categories.map((category, at) => h("option", { value: at }, String(category)));
  const others = feature.unseen !== "error" && feature.type === "category";
  const input = h("select", { id }, options, others && h("option", { value: "other" }, "any other"));
  return {
    input,
    value: () => (input.value === "other" ? unseen(feature) : feature.categories[input.value]),
    set(cell) {
      const at = feature.categories.indexOf(feature.type === "boolean" ? Boolean(cell) : cell);
      if (at >= 0 || others) input.value = at >= 0 ? at : "other";
    },
    isOutside: () => input.value === "other",
    picture: (cell) => plot.categories(feature.bins, cell === null ? -1 : feature.bins.codes.indexOf(Number(input.value))),
  };
}

/** Return a category that training did not see. */
function unseen({ categories }) {
  return typeof categories[0] === "number" ? Math.max(...categories) + 1 : `${categories.join("").slice(0, 20)} and others`;
}

function suggestions(feature, id) {
  const list = h("datalist", { id: `${id}-list` }, feature.categories.map((category) => h("option", { value: category })));
  const input = h("input", { id, type: "text", list: list.id, spellcheck: "false" });
  const isNumber = typeof feature.categories[0] === "number";
  return {
    input,
    list,
    value: () => (isNumber && NUMBER.test(input.value) ? Number(input.value) : input.value),
    set: (cell) => (input.value = cell),
    isOutside: () => false, // most categories are not listed here
    picture: (cell) => plot.categories(feature.bins, feature.categories.indexOf(cell)),
  };
}

function date(feature, id, examples) {
  const hasTime = examples.some((row) => String(row[feature.name]).includes("T"));
  const input = h("input", { id, type: hasTime ? "datetime-local" : "date", step: hasTime && 1 });
  return {
    input,
    value: () => input.value || null,
    set: (cell) => (input.value = hasTime ? (cell.includes("T") ? cell.slice(0, 19) : `${cell}T00:00`) : cell.slice(0, 10)),
    isOutside() {
      const seconds = Date.parse(hasTime ? `${input.value}Z` : input.value) / 1000;
      return seconds < feature.minimum || seconds > feature.maximum;
    },
  };
}
