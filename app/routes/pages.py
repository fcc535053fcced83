"""GET /, /docs and /openapi.json: what is served and how to call it, for people and tools."""

from __future__ import annotations

import re
import shlex
from typing import Any

import orjson
from flask import Blueprint, Response, redirect, render_template, request, url_for
from flask.sansio.blueprints import BlueprintSetupState
from flask_swagger_ui import get_swaggerui_blueprint

from app.protocols import describe, native
from app.protocols.describe import SERVICE
from app.protocols.endpoint import Answer
from app.protocols.intervals import DEFAULT_LEVEL
from app.protocols.views import Views
from app.routes.openapi import Document
from app.serving.current import Serving
from app.serving.loaded import Loaded
from app.web.reply import Reply, compress, to_json
from app.web.server_facts import ServerFacts
from model import Artifact, described, listed, short, to_text

_PREFIX = re.compile(r"(/[A-Za-z0-9._~!$&'()*+;=:@%-]+)+")  # never `//`, which would name another host


def blueprint(serving: Serving, views: Views, document: Document, server: ServerFacts) -> Blueprint:
    """Return the routes of the pages and of the OpenAPI document.

    Links are relative, so that they work behind a proxy that removes a prefix from the path. URLs that cannot be
    relative start with the proxy's `X-Forwarded-Prefix`, if the server trusts its address.
    """
    routes = Blueprint("pages", __name__)
    # Swagger UI comes from its package; without its validator no page loads anything from another host.
    interactive = {"app_name": "Tabserve", "layout": "BaseLayout", "validatorUrl": None, "oauth2RedirectUrl": None}
    swagger_ui = get_swaggerui_blueprint(".", "../openapi.json", config=interactive)

    @swagger_ui.record_once  # type: ignore[untyped-decorator]
    def describe_docs(state: BlueprintSetupState) -> None:
        views.describe(describe.get(SERVICE, "These pages", html=True))(
            state.app.view_functions["pages.swagger_ui.show"]
        )

    routes.register_blueprint(swagger_ui, url_prefix="/docs")
    alive = {"type": "object", "required": ["status"], "properties": {"status": {"const": "alive"}}}

    @routes.before_request
    def add_slash() -> Any:
        """Redirect `/docs` to `/docs/`, which its links are relative to."""
        return redirect("docs/", 308) if request.path == "/docs" else None

    def prefix() -> str:
        """Return the prefix that a proxy removed from the path, or an empty string."""
        forwarded = request.headers.get("X-Forwarded-Prefix", "").rpartition(",")[2].strip().rstrip("/")
        trusted = forwarded and server.trusts_proxy(request.environ.get("REMOTE_ADDR", ""))
        return forwarded if trusted and _PREFIX.fullmatch(forwarded) else ""

    @routes.get("/openapi.json")
    @views.describe(describe.get(SERVICE, "This document", {"type": "object"}))
    def openapi() -> Reply:
        """Return the OpenAPI document of the loaded models, compressed if the client accepts that."""
        found = document.render(serving.loaded, prefix=request.script_root + prefix())
        return compress(to_json(found), request.environ)

    @routes.get("/")
    @views.describe(
        describe.get(SERVICE, "The models as a web page, or as JSON whether the process is alive", alive, html=True)
    )
    def index() -> Response:
        """Show every loaded model: version, those beside it, metrics, features, and a request that works.

        A client that does not accept HTML, such as KServe's V1 client, gets `{"status": "alive"}`.
        """
        if request.accept_mimetypes.best_match(("application/json", "text/html")) == "text/html":
            loaded = serving.loaded
            models = [_describe(model, loaded) for model in loaded.models.values()]
            reply = Response(render_template("index.html", models=models, reason=serving.unready, short=short))
        else:
            reply = to_json({"status": "alive"}).to_flask()
        reply.cache_control.no_store = True  # the page shows the host of the request
        reply.vary.add("Accept")
        return reply

    def _describe(model: Artifact, loaded: Loaded) -> dict[str, Any]:
        values = {} if model.name == loaded.default_name else {"name": model.name}
        url = request.host_url.rstrip("/") + prefix() + url_for("predict", **values, _external=False)
        body = orjson.dumps(describe.example(model)).decode()
        answer = Answer(model.predict(model.golden_rows[:1]), model.golden_rows[:1], model, native.Asked(), "", {})
        return {
            "manifest": model.manifest,
            "others": [(each.version, loaded.role(each)) for each in loaded.versions(model.name) if each is not model],
            "features": [(feature, described(feature)) for feature in model.schema.features],
            "curl": f"curl -s {shlex.quote(url)} -H 'Content-Type: application/json' -d {shlex.quote(body)}",
            "answer": to_text(answer.predictions[0]),
            "interval": _interval(model, answer),
            "probabilities": (native.probabilities(answer) or [{}])[0] if model.manifest.classes else {},
            "classes": listed(model.manifest.classes),
        }

    def _interval(model: Artifact, answer: Answer) -> tuple[float, float] | None:
        """Return the ends of the answer's prediction interval of the default level; None if there is none."""
        intervals = model.manifest.intervals
        if not intervals or DEFAULT_LEVEL not in intervals.half_widths:
            return None
        lower, upper = intervals.around(answer.y, DEFAULT_LEVEL)
        return float(lower[0]), float(upper[0])

    return routes
