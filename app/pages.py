"""GET /: a page for people, which says what is served here and how to ask it."""

from __future__ import annotations

import shlex
from typing import Any

import orjson
from flask import Blueprint, Response, render_template, url_for

from app.serving import Serving
from model import Artifact


def blueprint(serving: Serving) -> Blueprint:
    """Routes that answer HTML."""
    routes = Blueprint("pages", __name__)

    @routes.get("/")
    def index() -> Response:
        """Show every loaded model: version, metrics, features, and a request that works."""
        models = list(serving.models.values())
        page = render_template("index.html", models=[_describe(model) for model in models], reason=serving.unready)
        return Response(page, headers={"Cache-Control": "no-store"})  # it shows the host that was asked

    def _describe(model: Artifact) -> dict[str, Any]:
        route = "predict.predict" if model.name == serving.default_name else "predict.predict_with"
        values = {} if model.name == serving.default_name else {"name": model.name}
        url = url_for(route, **values, _external=True)
        row = dict(zip(model.schema.names, model.golden_rows[0].tolist()))
        body = orjson.dumps(row).decode()
        return {
            "facts": model.manifest,
            "curl": f"curl -s {shlex.quote(url)} -H 'Content-Type: application/json' -d {shlex.quote(body)}",
            "answer": float(model.predict(model.golden_rows[:1])[0]),
        }

    return routes
