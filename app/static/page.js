/** The page for people: the list of models, and a page for each, by the address behind `#`. */
import { answerPanel } from "./answer.js";
import { askKey, hasKey, json, request, url } from "./api.js";
import { copy, day, h, short, table } from "./dom.js";
import { rowForm } from "./form.js";
import { requestSection } from "./snippets.js";
import { tableSection } from "./upload.js";

const MAIN = document.getElementById("main");
const TYPING_MS = 200;
const STATE_MS = 30_000;
const MAX_DESCRIBED = 24; // models of a list whose titles are asked for
let stop = () => {};

/** Return what the address asks for: a model, its version, the view and the inputs. */
function asked() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [reference, view] = decoded(path).split("/");
  const [name, version] = reference.split("@");
  return { name, version, view, inputs: new URLSearchParams(query) };
}

function decoded(path) {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

const pathOf = (name, version) => `models/${encodeURIComponent(name)}${version ? `/versions/${encodeURIComponent(version)}` : ""}`;
const addressOf = (name, version) => `#/${encodeURIComponent(name)}${version ? `@${version}` : ""}`;

async function show() {
  stop();
  const controller = new AbortController();
  stop = () => controller.abort();
  MAIN.setAttribute("aria-busy", "true");
  try {
    const { name, version, view, inputs } = asked();
    let found;
    if (view) found = await documentView(name, version, view);
    else if (name) found = await modelView(name, version, inputs, controller.signal);
    else {
      const listed = await json("models");
      const [only] = listed.models;
      found = listed.models.length === 1 ? await modelView(only.name, null, inputs, controller.signal) : await listView(listed);
    }
    if (!controller.signal.aborted) MAIN.replaceChildren(...found);
  } catch (error) {
    if (controller.signal.aborted || error.status === 401) return;
    MAIN.replaceChildren(h("h1", {}, "Not available"), h("p", { class: "problem", role: "alert" }, error.message), h("p", {}, h("a", { href: "#/" }, "All models")));
    if (error.status === 403) askKey(error.message);
  }
  MAIN.removeAttribute("aria-busy");
}

async function listView({ models, default: first }) {
  document.title = "Tabserve";
  if (models.length === 0) {
    const ready = await (await fetch(url("readyz"))).json();
    return [h("h1", {}, "No model is served"), h("p", { class: "problem" }, ready.reason ?? ""),
      h("p", {}, "Train the example in a clone of Tabserve, and this page shows it:"), h("pre", {}, "python -m model train boston-housing")];
  }
  const allowed = hasKey() && (await json("openapi.json")).paths;
  const described = await Promise.all(models.slice(0, MAX_DESCRIBED).map(({ name }) => {
    const path = `${pathOf(name)}/page`;
    return (!allowed || `/${path}` in allowed) && json(path).catch(() => null);
  }));
  return [h("h1", {}, `${models.length} models`), h("ul", { class: "models" }, models.map((each, number) => {
    const page = described[number];
    return h("li", {}, h("h2", {}, h("a", { href: addressOf(each.name) }, page?.title || each.name)),
      h("p", { class: "quiet" }, `${each.name}, version ${each.version}${each.name === first ? ", the default" : ""}`),
      page && h("p", {}, predicts(page)), page && lights(page.state));
  }))];
}

function predicts({ target, features }) {
  const classes = target.classes.length > 0 ? `, one of ${target.classes.length} classes,` : "";
  return `Predicts ${target.name}${target.unit ? ` (${target.unit})` : ""}${classes} from ${features.length} feature${features.length === 1 ? "" : "s"}.`;
}

/** Return small lights, each with its words; the shape says the same as the colour. */
function lights(state) {
  const shapes = { fine: "M5 0a5 5 0 1 0 .01 0z", attention: "M5 0 10 10H0z", unknown: "M5 0a5 5 0 1 0 .01 0zM5 2a3 3 0 1 1-.01 0z" };
  return h("ul", { class: "lights" }, state.map(({ name, verdict, text }) => h("li", { class: verdict },
    h("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, h("path", { d: shapes[verdict], "fill-rule": "evenodd" })),
    h("b", {}, name), h("span", { class: "unseen" }, ` (${{ fine: "in order", attention: "needs attention", unknown: "not known" }[verdict]}): `), h("span", {}, text))));
}

async function modelView(name, version, inputs, signal) {
  const path = pathOf(name, version);
  const [page, ready] = await Promise.all([json(`${path}/page`), fetch(url("readyz")).then((reply) => reply.json(), () => ({}))]);
  document.title = `${page.title} · Tabserve`;
  const predict = `${path}/predict`;
  const panel = answerPanel(page, () => ask());
  const code = requestSection();
  const form = rowForm(page, (isTyping) => {
    clearTimeout(timer);
    timer = setTimeout(ask, isTyping ? TYPING_MS : 0);
  });
  let timer;
  let latest = null;
  let explains = true;
  let reason = "";
  let example = 0;
  const another = h("button", { type: "button", click: () => fill(page.examples[++example % page.examples.length]) }, "Another row");
  const link = h("button", { type: "button", click: () => copy(location.href, link) }, "Copy link");
  const state = h("div", {}, lights(page.state));

  /** Ask for the answer to the row; an earlier question that is still open is dropped. */
  async function ask() {
    latest?.abort();
    const { signal: own } = (latest = new AbortController());
    const row = form.row();
    code.set(url(predict), row);
    const query = Object.entries(row).map(([key, cell]) => `${encodeURIComponent(key)}=${encodeURIComponent(JSON.stringify(cell))}`);
    history.replaceState(null, "", `${addressOf(name, version)}?${query.join("&")}`);
    const question = new URLSearchParams({ ...(explains && { explain: "true" }), ...(panel.level() && { interval: panel.level() }), ...(page.target.classes.length > 0 && { probabilities: "true" }) });
    try {
      const reply = await json(`${predict}?${question}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify([row]), signal: own });
      panel.show(reply, form.outside(), reason);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (explains && error.status === 400 && error.message.includes("not offered")) {
        explains = false;
        reason = `${error.message.charAt(0).toUpperCase()}${error.message.slice(1)}.`;
        await ask();
        return;
      }
      const details = error.details ?? [];
      form.report(details);
      panel.fail(details.length > 0 ? `No answer: ${[...new Set(details.map((each) => each.feature))].filter(Boolean).join(", ")} must change.` : error.message);
    }
  }
  function fill(row) {
    form.fill(row);
    ask();
  }
  const refresh = setInterval(async () => {
    if (document.hidden) return;
    const now = await json(`${path}/page`).catch(() => null);
    if (now) state.replaceChildren(lights(now.state));
  }, STATE_MS);
  signal.addEventListener("abort", () => {
    clearInterval(refresh);
    clearTimeout(timer);
    latest?.abort();
  });

  fill({ ...page.examples[0], ...given(inputs) });
  return [
    !page.is_only_model && h("p", { class: "crumbs" }, h("a", { href: "#/" }, "All models"), ` / ${page.name}`),
    h("h1", {}, page.title),
    h("p", { class: "lead" }, page.purpose || predicts(page)),
    h("p", { class: "quiet" }, [`${page.name}, version ${page.version}`, aliases(page), page.created_at && `trained ${day(page.created_at)}`, page.owner && `owner ${page.owner}`].filter(Boolean).join(" · ")),
    ready.ready === false && h("p", { class: "problem" }, `The service is not ready: ${ready.reason}`),
    state,
    page.limits && h("p", { class: "limits" }, page.limits),
    h("section", {}, h("div", { class: "row" }, h("h2", {}, "Try it"), page.examples.length > 1 && another, link),
      h("div", { class: "try" }, h("div", { class: "side" }, panel.element, panel.why), form.element)),
    code.element,
    tableSection(page, predict),
    versions(page),
    about(page, `${pathOf(name, page.version)}`),
  ].filter(Boolean);
}

/** Return the cells that an address carries. */
function given(inputs) {
  return Object.fromEntries([...inputs].map(([key, text]) => {
    try {
      return [key, JSON.parse(text)];
    } catch {
      return [key, text];
    }
  }));
}

function aliases({ version, versions: all, role }) {
  const own = all.find((each) => each.version === version);
  return knownAs({ aliases: own?.aliases ?? [], role });
}

/** Return what a version is called; a champion need not be called a candidate as well. */
function knownAs({ aliases: names, role }) {
  const all = new Set([...names, role].filter(Boolean));
  if (all.has("champion")) all.delete("candidate");
  return [...all].join(", ");
}

function versions({ name, versions: all }) {
  const metric = all.find((each) => each.metric)?.metric;
  const rows = all.map((each) => [
    each.is_loaded ? h("span", {}, h("a", { href: addressOf(name, each.version) }, `version ${each.version}`), ", served") : `version ${each.version}`,
    knownAs(each), each.value === null ? "" : short(each.value), day(each.created_at)]);
  return h("section", {}, h("h2", {}, "Versions"),
    table("Versions", ["version", "known as", metric ? `${metric} of validation` : "metric", "trained"], rows, [2]));
}

function about(page, path) {
  const links = [["card", "Model card", true], ["plots", `Plots (${page.plots})`, page.plots > 0], ["notebook", "Executed notebook", page.has_notebook]]
    .filter(([, , isThere]) => isThere)
    .map(([view, label]) => h("li", {}, h("a", { href: hasKey() ? `${addressOf(page.name, page.version)}/${view}` : url(`${path}/${view}`) }, label)));
  const { validation, leaderboard, derived } = page;
  return h("section", {}, h("h2", {}, "About this version"), h("ul", { class: "links" }, links),
    h("p", {}, `${page.algorithm}${page.summary ? `, ${page.summary}` : ""}. ${page.exactness}`),
    validation ? table(`Metrics of ${validation.rows} held-out rows`, [`${validation.rows} held-out rows`, "value", "95 % interval"],
      validation.metrics.map((each) => [each.label, short(each.value), each.interval ? `${short(each.interval[0])} to ${short(each.interval[1])}` : ""]), [1, 2])
      : h("p", {}, "No rows were held out for validation, so its error on new rows is not known."),
    leaderboard && h("h3", {}, "Learners that were compared"),
    leaderboard && table("Learners that were compared", ["learner", `${leaderboard.metric} (lower is better)`, "95 % interval", "fit", "a row", "size"],
      leaderboard.standings.map((each) => [each.family, short(each.mean), each.low != null && each.high != null ? `${short(each.low)} to ${short(each.high)}` : "",
        each.fit_seconds && `${short(each.fit_seconds)} s`, each.microseconds_one_row && `${short(each.microseconds_one_row)} µs`, each.bytes && `${short(each.bytes / 1024)} KiB`]), [1, 2, 3, 4, 5]),
    derived.length > 0 && h("h3", {}, "Features that the model computes itself"),
    derived.length > 0 && table("Derived features", ["feature", "formula", "description"], derived.map((each) => [each.name, h("code", {}, each.formula), each.description])),
    h("p", { class: "quiet" }, `Digest ${page.digest}`));
}

/** Return a page about a version, fetched with the key, which a link would not send. Only the server's own markup is in it. */
async function documentView(name, version, view) {
  const reply = await request(`${pathOf(name, version)}/${encodeURIComponent(view)}`, { headers: { Accept: "text/html" } });
  const found = new DOMParser().parseFromString(await reply.text(), "text/html");
  document.title = found.title;
  return [h("p", { class: "crumbs" }, h("a", { href: addressOf(name, version) }, `Back to ${name}${version ? `, version ${version}` : ""}`)),
    h("article", { class: "document" }, ...found.querySelector("main").childNodes)];
}

addEventListener("hashchange", async () => {
  await show();
  MAIN.focus({ preventScroll: true });
  scrollTo(0, 0);
});
show();
