/** Requests to the service, with the key that a person typed into this tab where the service asks for one. */
import { h } from "./dom.js";

const ROOT = new URL("../", import.meta.url);
const KEY = "tabserve-key";
const PLACE = document.getElementById("key");

/** An answer that is no success: its status, its message and what is wrong with which row and feature. */
export class Refused extends Error {
  constructor(status, message, details = []) {
    super(message);
    Object.assign(this, { status, details });
  }
}

/** Return the absolute URL of a path of the service. */
export const url = (path) => new URL(path, ROOT).href;

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** Return headers with the key, if there is one. */
export function authorized(headers = {}) {
  return hasKey() ? { ...headers, Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : headers;
}

/** Return the reply to a request; a person is asked for a key where one is needed. Throws `Refused`. */
export async function request(path, options = {}) {
  let reply;
  try {
    reply = await fetch(url(path), { ...options, headers: authorized(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service does not answer. Is it still running?");
  }
  if (reply.ok) return reply;
  if (reply.status === 401) askKey(hasKey() && "This key is not known, or has expired.");
  const body = await reply.json().catch(() => ({}));
  throw new Refused(reply.status, body.error ?? `The service answered ${reply.status}.`, body.details);
}

export const json = async (path, options) => (await request(path, options)).json();

/** Show the field for a key, and what is wrong with the one in use. The page starts anew with the key. */
export function askKey(problem) {
  if (document.getElementById("key-field")) return;
  const field = h("input", { id: "key-field", type: "password", autocomplete: "off", required: true, spellcheck: "false", "aria-describedby": "key-why", "aria-invalid": problem && "true" });
  offer(h("form", {
    submit: (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, field.value.trim().replace(/[^!-~]/g, ""));
      location.reload();
    },
  },
  !document.querySelector("main h1") && h("h1", {}, "A key is needed"), h("label", { for: "key-field" }, "Key"), field, h("button", { class: "main" }, "Use key"),
  h("p", { id: "key-why", class: problem && "problem", role: problem && "alert" }, problem || "This service asks for a key. It is kept until you close this tab.")));
  field.focus();
}

function offer(element) {
  PLACE.replaceChildren(element);
  PLACE.hidden = false;
}

if (hasKey()) offer(h("button", { type: "button", click: () => askKey() }, "Use another key"));
