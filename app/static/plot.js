/** Small pictures: the training distribution of a column, with places marked on it. */
import { h } from "./dom.js";

const HEIGHT = 28;
const WIDTH = 300;

/** Return the range that a distribution of numbers covers. */
export const rangeOf = (bins) => [bins.minimum, bins.edges.at(-1)];

/** Return where a number is in a range, from 0 to 1, held within it. */
export function place(number, [low, high]) {
  return high > low ? Math.min(1, Math.max(0, (number - low) / (high - low))) : 0.5;
}

/** Return the bars of a distribution of numbers; `band` and `mark` are numbers to show on it. */
export function numbers(bins, { mark = null, band = null, range = rangeOf(bins) } = {}) {
  const at = (number) => place(number, range) * WIDTH;
  const isPoints = bins.edges[0] === bins.minimum && bins.edges.length < 10;
  let low = bins.minimum;
  const bars = bins.edges.map((edge, number) => {
    const left = isPoints ? at(edge) - 3 : at(low);
    const width = isPoints ? 6 : Math.max(at(edge) - at(low), 2);
    low = edge;
    return { left, width, height: isPoints ? bins.shares[number] : bins.shares[number] / width };
  });
  const top = Math.max(...bars.map((bar) => bar.height), 1e-12);
  return svg(
    band && h("rect", { class: "band", x: at(band[0]), y: 0, width: Math.max(at(band[1]) - at(band[0]), 1), height: HEIGHT }),
    bars.map((bar) => h("rect", { class: "bar", x: bar.left, width: Math.max(bar.width - 1, 1), ...tall(bar.height / top) })),
    mark !== null && h("rect", { class: "mark", x: at(mark) - 1.5, y: 0, width: 3, height: HEIGHT }));
}

/** Return the bars of a distribution of categories, of which one may be `chosen` by its position. */
export function categories(bins, chosen) {
  const shares = bins.rest > 0 ? [...bins.shares, bins.rest] : bins.shares;
  const width = WIDTH / Math.max(shares.length, 1);
  const top = Math.max(...shares, 1e-12);
  return svg(shares.map((share, number) => h("rect", { class: number === chosen ? "bar chosen" : "bar", x: number * width, width: Math.max(width - 2, 1), ...tall(share / top) })));
}

/** Return where a bar of a height from 0 to 1 stands; the lowest can still be seen. */
function tall(share) {
  const height = Math.max(share * (HEIGHT - 2), 1.5);
  return { y: HEIGHT - height, height };
}

function svg(...children) {
  return h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...children);
}
