/** The request of the form as commands and code to copy. */
import { copy, h } from "./dom.js";
import { hasKey } from "./api.js";

/** Return the section with the request, and how to change its row. */
export function requestSection() {
  const code = h("code", {});
  const buttons = Object.keys(LANGUAGES).map((name, number) => h("button", { type: "button", "aria-pressed": number === 0, click: () => choose(name) }, name));
  const copier = h("button", { type: "button", click: () => copy(code.textContent, copier) }, "Copy");
  let [chosen] = Object.keys(LANGUAGES);
  let args = null;
  function show() {
    if (args) code.textContent = LANGUAGES[chosen](...args);
  }
  function choose(name) {
    chosen = name;
    buttons.forEach((button) => button.setAttribute("aria-pressed", button.textContent === name));
    show();
  }
  const element = h("section", {}, h("h2", {}, "The same request"),
    h("div", { class: "row" }, h("div", { class: "tabs", role: "group", "aria-label": "Language" }, buttons), copier),
    h("pre", { tabindex: "0", "aria-label": "Request" }, code));
  return {
    element,
    set(address, row) {
      args = [address, row];
      show();
    },
  };
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const LANGUAGES = {
  curl: (address, row) =>
    `curl -s ${quoted(address)} \\\n  -H 'Content-Type: application/json' \\\n${hasKey() ? '  -H "Authorization: Bearer $TABSERVE_KEY" \\\n' : ""}  -d ${quoted(JSON.stringify(row))}`,
  Python: (address, row) =>
    `${hasKey() ? "import os\n\n" : ""}import requests\n\nrow = ${python(row)}\nreply = requests.post(${python(address)}, json=[row]${hasKey() ? ', headers={"Authorization": f"Bearer {os.environ[\'TABSERVE_KEY\']}"}' : ""})\nreply.raise_for_status()\nprint(reply.json()["prediction"])`,
  JavaScript: (address, row) =>
    `const reply = await fetch(${JSON.stringify(address)}, {\n  method: "POST",\n  headers: { "Content-Type": "application/json"${hasKey() ? ", Authorization: `Bearer ${process.env.TABSERVE_KEY}`" : ""} },\n  body: JSON.stringify([${JSON.stringify(row)}]),\n});\nconsole.log((await reply.json()).prediction);`,
};

/** Return a value as Python writes it. */
function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, cell]) => `${JSON.stringify(name)}: ${python(cell)}`).join(", ")}}`;
}
