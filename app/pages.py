"""GET /, /docs and /openapi.json: what is served here and how to ask it, for people and for tools."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

import orjson
from flask import Blueprint, Response, redirect, render_template, request, url_for
from flask_swagger_ui import get_swaggerui_blueprint

from app import openapi
from app.body import compress, to_json
from app.config import Config
from app.reply import Reply
from app.serving import Serving
from model import Artifact

_PREFIX = re.compile(r"(/[A-Za-z0-9._~!$&'()*+;=:@%-]+)+")  # never `//`, which would name another host


def blueprint(serving: Serving, config: Config, trusts_proxy: Callable[[str], bool]) -> Blueprint:
    """Routes for people, and the document that they and tools read.

    All links are relative, so that they hold behind a proxy that cuts a prefix off the path. What cannot be relative
    begins with the `X-Forwarded-Prefix` of a client whose address `trusts_proxy` accepts.
    """
    routes = Blueprint("pages", __name__)
    # Swagger UI from its package, so that no page asks another host for anything: its validator would.
    interactive = {"app_name": "Tabserve", "layout": "BaseLayout", "validatorUrl": None, "oauth2RedirectUrl": None}
    swagger_ui = get_swaggerui_blueprint(".", "../openapi.json", config=interactive)
    routes.register_blueprint(swagger_ui, url_prefix="/docs")

    @routes.before_request
    def add_slash() -> Any:
        """Redirect `/docs` to `/docs/`, which its links are relative to."""
        return redirect("docs/", 308) if request.path == "/docs" else None

    def prefix() -> str:
        """Return what stands before the paths of this request where the client sees them; empty for nothing."""
        forwarded = request.headers.get("X-Forwarded-Prefix", "").rpartition(",")[2].strip().rstrip("/")
        trusted = forwarded and trusts_proxy(request.environ.get("REMOTE_ADDR", ""))
        return forwarded if trusted and _PREFIX.fullmatch(forwarded) else ""

    @routes.get("/openapi.json")
    def document() -> Reply:
        """Return the OpenAPI document of the loaded models, compressed for who accepts it."""
        found = openapi.document(serving, config, prefix=request.script_root + prefix())
        return compress(to_json(found), request.environ)

    @routes.get("/")
    def index() -> Response:
        """Show every loaded model: version, metrics, features, and a request that works.

        Who asks for no HTML, as KServe's V1 client, is told that the process lives.
        """
        if request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html":
            models = [_describe(model) for model in serving.models.values()]
            reply = Response(render_template("index.html", models=models, reason=serving.unready))
        else:
            reply = to_json({"status": "alive"}).to_flask()
        reply.cache_control.no_store = True  # the page shows the host that was asked
        reply.vary.add("Accept")
        return reply

    def _describe(model: Artifact) -> dict[str, Any]:
        values = {} if model.name == serving.default_name else {"name": model.name}
        url = request.host_url.rstrip("/") + prefix() + url_for("predict.predict", **values, _external=False)
        row = dict(zip(model.schema.names, model.golden_rows[0].tolist()))
        body = orjson.dumps(row).decode()
        return {
            "facts": model.manifest,
            "curl": f"curl -s {shlex.quote(url)} -H 'Content-Type: application/json' -d {shlex.quote(body)}",
            "answer": float(model.predict(model.golden_rows[:1])[0]),
        }

    return routes
