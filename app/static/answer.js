/** The answer to a row: its value, how sure it is, and what each feature contributed. */
import { h, short, table } from "./dom.js";
import * as plot from "./plot.js";

const SHOWN = 10; // contributions and classes; the others are added up
const ROUNDING = 1e-9; // of the largest contribution
const LEVELS = [0.5, 0.8, 0.9, 0.95, 0.99];

/** Return the panel of the answer; `changed` is called when another level of the interval is chosen. */
export function answerPanel(page, changed) {
  const { target } = page;
  const big = h("p", { class: "big" });
  const exact = h("p", { class: "exact" });
  const status = h("p", { class: "status", role: "status" });
  const picture = h("div", { class: "plot" });
  const why = h("section", { class: "why", "aria-label": "Explanation" });
  const levels = LEVELS.filter((level) => page.levels.includes(level));
  const level = h("select", { id: "level", "aria-label": "Level of the interval", change: changed },
    levels.map((each) => h("option", { value: each, selected: each === 0.9 }, `${Math.round(each * 100)} %`)));
  const interval = h("p", { class: "interval" });
  const element = h("section", { class: "answer", "aria-label": "Answer" },
    h("h3", {}, target.name, target.unit && h("span", { class: "unit" }, ` ${target.unit}`)),
    h("div", { class: "value" }, big, exact), status, picture, interval);

  function number(reply) {
    const [y] = reply.prediction;
    big.textContent = rounded(y);
    exact.textContent = Number(big.textContent) === y ? "" : `exactly ${y}`;
    const ends = reply.lower && [reply.lower[0], reply.upper[0]];
    const [low, high] = plot.rangeOf(page.prediction);
    picture.replaceChildren(plot.numbers(page.prediction, { mark: y, band: ends, range: [Math.min(low, y), Math.max(high, y)] }));
    interval.replaceChildren(...(ends ? [level, ` of true values are within ${short(ends[0])} to ${short(ends[1])}`, h("span", {}, ", for rows like those of training")] : []));
  }

  function label(reply) {
    const [y] = reply.prediction;
    big.textContent = String(y);
    exact.textContent = "";
    const shares = Object.entries(reply.probability?.[0] ?? {}).sort((one, other) => other[1] - one[1]);
    return shares.length > 0 && bars("Probability of each class", ["class", "probability"], shares.slice(0, SHOWN).map(([name, share]) => [name, share, `${(100 * share).toPrecision(3)} %`]), [0, 1]);
  }

  return {
    element,
    why,
    level: () => (levels.length > 0 ? level.value : null),
    show(reply, outside, reason) {
      element.classList.remove("stale");
      const probabilities = target.classes.length > 0 ? label(reply) : number(reply);
      status.className = outside.length > 0 ? "status warning" : "status";
      const other = reply.version === page.version ? "" : `Version ${reply.version} answered, which is tried beside version ${page.version}. `;
      status.textContent = other + (outside.length > 0 ? `Outside what training saw: ${outside.join(", ")}. Trust this answer less.` : "");
      why.replaceChildren(...[probabilities, h("h3", {}, "Why"), ...explanation(reply, target, reason)].filter(Boolean));
    },
    fail(message) {
      element.classList.add("stale");
      status.className = "status problem";
      status.textContent = message;
      why.replaceChildren();
    },
  };
}

/** Return a number with four digits, also where the last ones are 0. */
const rounded = (y) => (Number.isInteger(y) || short(y).length > 6 ? short(y) : y.toPrecision(4));

/** Return what each feature contributed to an answer, or a sentence that says why this is not known. */
function explanation(reply, target, reason) {
  const found = reply.explanations?.[0];
  if (!found) return [h("p", { class: "quiet" }, reason || "This model does not offer explanations.")];
  const parts = Object.entries(found.contributions).sort((one, other) => Math.abs(other[1]) - Math.abs(one[1]));
  const rest = parts.slice(SHOWN);
  if (rest.length > 0) parts.splice(SHOWN, rest.length, [`${rest.length} others`, rest.reduce((sum, [, value]) => sum + value, 0)]);
  const reach = Math.max(...parts.map(([, value]) => Math.abs(value)), 1e-300);
  const isScore = reply.explained === "score";
  const what = isScore ? `the score${"class" in found ? ` of ${found.class}` : ""}, before it becomes an answer` : target.name;
  return [
    h("p", {}, `From ${rounded(found.base)} on average to ${rounded(found.value)}: what each feature adds to ${what}.`),
    bars("What each feature adds", ["feature", "adds"], parts.map(([name, value]) => [name, value, (value > 0 ? "+" : "") + short(value)]), [-reach, reach]),
    Math.abs(found.residual) > ROUNDING * reach && h("p", { class: "quiet" }, `${short(found.residual)} of it is not explained.`),
  ].filter(Boolean);
}

/** Return a table of names and numbers, with a bar for each number. */
function bars(caption, header, rows, [low, high]) {
  const zero = plot.place(0, [low, high]) * 100;
  return table(caption, [header[0], h("span", { class: "unseen" }, "as a bar"), header[1]], rows.map(([name, value, text]) => {
    const end = plot.place(value, [low, high]) * 100;
    return [name, h("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      h("rect", { class: value < 0 ? "minus" : "plus", x: Math.min(zero, end), width: Math.max(Math.abs(end - zero), 0.5), y: 0, height: 10 }),
      low < 0 && h("rect", { class: "axis", x: zero - 0.15, width: 0.3, y: 0, height: 10 })), text];
  }), [2]).firstChild; // it is never wider than its place
}
