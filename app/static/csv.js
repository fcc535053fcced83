/** Tables of CSV: their cells and lines, and back to text. */

const SEPARATORS = [",", ";", "\t", "|"];

/** Return the records of a text: the cells of each, its text as it was, and the line where it starts. Blank lines are left out. */
export function parse(text, separator) {
  const records = [];
  let cells = [];
  let cell = "";
  let isQuoted = false;
  let line = 1;
  let start = { at: 0, line: 1 };
  function finish(end) {
    const raw = text.slice(start.at, end);
    if (cells.length > 0 || raw.trim() !== "") records.push({ cells: [...cells, cell], raw, line: start.line });
    cells = [];
    cell = "";
  }
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === "\n") line++;
    if (isQuoted) {
      if (character !== '"') cell += character;
      else if (text[at + 1] === '"') cell += text[++at];
      else isQuoted = false;
    } else if (character === '"' && cell === "") isQuoted = true;
    else if (character === separator) {
      cells.push(cell);
      cell = "";
    } else if (character === "\n" || character === "\r") {
      finish(at);
      if (character === "\r" && text[at + 1] === "\n") {
        at++;
        line++;
      }
      start = { at: at + 1, line };
    } else cell += character;
  }
  if (isQuoted) throw new Error(`A quotation mark that is opened in line ${start.line} is not closed.`);
  finish(text.length);
  return records;
}

/** Return the separator with which a header has most of the names. */
export function separatorOf(text, names) {
  const header = text.slice(0, text.search(/[\r\n]|$/));
  const known = (separator) => (parse(header, separator)[0]?.cells ?? []).filter((name) => names.includes(name.trim())).length;
  return SEPARATORS.reduce((best, each) => (known(each) > known(best) ? each : best));
}

/** Return a cell as CSV writes it. */
export function written(cell, separator = ",") {
  const text = String(cell);
  return /["\r\n]/.test(text) || text.includes(separator) || text.trim() !== text ? `"${text.replaceAll('"', '""')}"` : text;
}
