/** Swagger UI of /openapi.json, from the server's own files, with the key that this tab knows. */
import { authorized, json } from "./api.js";

const spec = await json("openapi.json").catch((error) => document.getElementById("main").replaceChildren(error.message));
if (spec) globalThis.SwaggerUIBundle({
  spec,
  dom_id: "#main",
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor: (request) => ({ ...request, headers: authorized(request.headers) }),
});
