"""POST /predict and /models/<name>/predict: the native API."""

from __future__ import annotations

from functools import partial
from wsgiref.types import WSGIEnvironment

from flask import Blueprint

from app.protocols import fast_path, payload
from app.serving.inference import Inference
from app.serving.loaded import Serving
from app.web import refusal
from app.web.body import CSV_TYPE, content_type, csv_header
from app.web.exchange import exchange_of
from app.web.reply import JSON_TYPE
from model import Artifact


def blueprint(serving: Serving, inference: Inference) -> Blueprint:
    """Return the routes of the native API."""
    routes = Blueprint("predict", __name__)

    refuse = refusal.refuser()
    refusal.register(routes, refuse)

    @routes.get("/models")
    def models() -> dict[str, object]:
        """List the loaded models, and the default one, which `/predict` uses."""
        return {
            "models": [{"name": model.name, "version": model.version} for model in serving.models.values()],
            "default": serving.default_name,
        }

    def predict(environ: WSGIEnvironment, model: Artifact) -> fast_path.Decoded:
        """Predict from any of the native formats."""
        media_type, parameters = content_type(environ, (JSON_TYPE, CSV_TYPE))
        header = csv_header(parameters, default=True)
        decode = partial(
            payload.decode, media_type=media_type, schema=model.schema, max_rows=inference.max_rows, header=header
        )
        rows = inference.decode(environ, model, decode)
        return rows, partial(payload.encode, model=model, request_id=exchange_of(environ).request_id)

    fast_path.add(routes, serving, inference, predict, refuse, "/predict", "/models/<name>/predict")
    return routes
