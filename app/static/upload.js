/** A table of CSV from the person's disk, answered row by row: the same table with a column more. */
import { json, Refused } from "./api.js";
import { parse, separatorOf, written } from "./csv.js";
import { h, table } from "./dom.js";
import { problem } from "./form.js";

const MAX_BYTES = 50 * 2 ** 20;
const MAX_ROWS = 2_000; // of one request, so that progress shows
const MAX_PROBLEMS = 1_000;
const SHOWN_PROBLEMS = 50;
const PREVIEW = 5;
const MARK = "\ufeff"; // of byte order, by which spreadsheets know UTF-8
const COMMA = /^[+-]?\d+,\d+$/;

/** Return the section that takes a table. */
export function tableSection(page, path) {
  const result = h("div", { "aria-live": "polite" });
  const input = h("input", { type: "file", id: "csv", accept: ".csv,text/csv,.tsv,.txt", change: () => input.files[0] && answer(input.files[0]) });
  const zone = h("div", {
    class: "drop",
    dragover: (event) => {
      event.preventDefault();
      zone.classList.add("over");
    },
    dragleave: () => zone.classList.remove("over"),
    drop: (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      if (event.dataTransfer.files[0]) answer(event.dataTransfer.files[0]);
    },
  }, h("label", { for: "csv" }, "Drop a CSV file here, or choose one"), input);
  let latest = 0;

  async function answer(file) {
    const own = ++latest;
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Rows answered" });
    const show = (...children) => own === latest && result.replaceChildren(...children.flat().filter(Boolean));
    show(bar);
    try {
      const read = await readTable(file, page);
      const found = await answered(read, page, path, (share) => (bar.value = share), () => own !== latest);
      if (found) show(outcome(file.name, read, found));
    } catch (error) {
      show(h("p", { class: "problem", role: "alert" }, error.message), columnsNote(page, error));
    }
    input.value = "";
  }

  return h("section", {}, h("h2", {}, "Answer a table"),
    h("p", {}, "A CSV file with a header and the features as columns, in any order, comes back with one column more. Other columns stay as they are."),
    zone, result);
}

const columnsNote = (page, error) => error instanceof Refused && error.status === 422 && h("p", { class: "quiet" }, `The model's columns: ${page.features.map((feature) => feature.name).join(", ")}.`);

/** Return the records of a file, and where its columns of features are. Throws what is wrong with it, as a sentence. */
async function readTable(file, page) {
  if (file.size > MAX_BYTES) throw new Error(`${file.name} has more than 50 MB. For large tables there is: python -m model predict ${page.name} ${file.name} answered.csv`);
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} is not in UTF-8. Save it as "CSV UTF-8" and try again.`);
  }
  const mark = text.startsWith(MARK) ? MARK : "";
  text = text.slice(mark.length);
  const end = text.includes("\r\n") ? "\r\n" : "\n";
  const names = page.features.map((feature) => feature.name);
  const separator = separatorOf(text, names);
  const [header, ...records] = parse(text, separator);
  if (records.length === 0) throw new Error(`${file.name} has no rows below its header.`);
  const columns = header.cells.map((name) => name.trim());
  const positions = names.filter((name) => columns.includes(name)).map((name) => columns.indexOf(name));
  if (positions.length === 0) throw new Error(`The first line of ${file.name} has none of the model's columns: ${names.join(", ")}.`);
  const repeated = positions.filter((at) => columns.lastIndexOf(columns[at]) !== at).map((at) => `${columns[at]} is repeated`);
  if (repeated.length > 0) throw new Error(`The columns do not fit: ${repeated.join(", ")}.`);
  const decimals = separator === "," ? [] : page.features.filter((feature) => feature.type === "number").map((feature) => columns.indexOf(feature.name));
  return { header, records, separator, columns, positions, decimals, mark, end };
}

/** Return the answer to each record, and the problems of those that have none; nothing if it is not wanted any more. */
async function answered({ records, columns, positions, decimals }, page, path, progress, isStopped) {
  const answers = new Array(records.length);
  const problems = [];
  const line = (record) => positions.map((at) => {
    const cell = record.cells[at];
    return written(decimals.includes(at) && COMMA.test(cell) ? cell.replace(",", ".") : cell);
  }).join(",");
  const header = positions.map((at) => written(columns[at])).join(",");
  let rows = [];
  records.forEach((record, at) => {
    if (record.cells.length === columns.length) rows.push(at);
    else problems.push({ at, text: `Has ${record.cells.length} cells where there are ${columns.length} columns.` });
  });
  const most = Math.min(page.limits_of_requests.rows, MAX_ROWS);
  for (let start = 0; start < rows.length && problems.length <= MAX_PROBLEMS;) {
    if (isStopped()) return null;
    let chunk = [];
    for (let size = header.length; start < rows.length && chunk.length < most; start++) {
      size += 3 * line(records[rows[start]]).length;
      if (size > page.limits_of_requests.bytes && chunk.length > 0) break;
      chunk.push(rows[start]);
    }
    while (chunk.length > 0 && problems.length <= MAX_PROBLEMS) {
      const body = [header, ...chunk.map((at) => line(records[at]))].join("\n");
      try {
        const reply = await json(path, { method: "POST", headers: { "Content-Type": "text/csv" }, body });
        chunk.forEach((at, number) => (answers[at] = reply.prediction[number]));
        break;
      } catch (error) {
        const wrong = (error.details ?? []).filter((detail) => detail.row != null);
        if (wrong.length === 0) throw explained(error);
        const refused = new Set();
        for (const detail of wrong) {
          const at = chunk[detail.row];
          refused.add(at);
          problems.push({ at, feature: detail.feature, value: records[at].cells[columns.indexOf(detail.feature)], text: problem(detail) });
        }
        chunk = chunk.filter((at) => !refused.has(at));
      }
    }
    progress(start / rows.length);
  }
  return { answers, problems: problems.sort((one, other) => one.at - other.at), isCut: problems.length > MAX_PROBLEMS };
}

/** Return an error with what is wrong with its columns. */
function explained(error) {
  const columns = (error.details ?? []).filter((detail) => detail.feature).map((detail) => `${detail.feature} is ${detail.reason}`);
  return columns.length > 0 ? new Refused(error.status, `The columns do not fit: ${columns.join(", ")}.`) : error;
}

/** Return what came of a table: how many answers, the problems by line, and the table to download. */
function outcome(name, { header, records, separator, columns, mark, end }, { answers, problems, isCut }) {
  const column = columns.includes("prediction") ? "model_prediction" : "prediction";
  const given = answers.filter((answer) => answer !== undefined).length;
  const lines = [[header.raw, column], ...records.map((record, at) => [record.raw, answers[at] === undefined ? "" : written(answers[at], separator)])];
  const blob = new Blob([mark, ...lines.map(([raw, cell]) => `${raw}${separator}${cell}${end}`)], { type: "text/csv" });
  const listed = problems.slice(0, SHOWN_PROBLEMS);
  const count = (number, word) => `${number.toLocaleString("en-US")} ${word}${number === 1 ? "" : "s"}`;
  const inTable = new Set(problems.map((each) => each.at)).size;
  return [
    h("p", { class: problems.length > 0 ? "warning" : "good" }, isCut ? `Stopped after ${count(problems.length, "problem")}: ${count(given, "row")} answered.`
      : `${count(given, "row")} answered${inTable > 0 ? `, ${count(inTable, "row")} without an answer` : ""}.`),
    given > 0 && h("p", {}, h("a", { class: "button main", href: URL.createObjectURL(blob), download: `${name.replace(/\.\w+$/, "")}-answered.csv` }, "Download the answered table")),
    problems.length > 0 && h("h3", {}, "Problems"),
    problems.length > 0 && table("Problems by line", ["row", "line", "column", "value", "problem"], listed.map((each) => [each.at + 1, records[each.at].line, each.feature ?? "", each.value ?? "", each.text]), [0, 1]),
    problems.length > listed.length && h("p", { class: "quiet" }, `And ${count(problems.length - listed.length, "more problem")}.`),
    given > 0 && h("h3", {}, "First rows"),
    given > 0 && table("First rows with their answers", [column, ...columns], records.slice(0, PREVIEW).map((record, at) => [answers[at] === undefined ? "" : String(answers[at]), ...record.cells])),
  ];
}
