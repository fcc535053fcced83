"""POST /predict and /models/<name>/predict: the native API."""

from __future__ import annotations

from functools import partial
from wsgiref.types import WSGIEnvironment

from flask import Blueprint

from app import errors, hot, payload
from app.body import CSV_TYPE, content_type, csv_header
from app.inference import Inference
from app.reply import JSON_TYPE
from app.serving import Serving
from app.visit import exchange_of
from model import Artifact


def blueprint(serving: Serving, inference: Inference) -> Blueprint:
    """Return the routes of the native API."""
    routes = Blueprint("predict", __name__)

    refuse = errors.refuser()
    errors.register(routes, refuse)

    @routes.get("/models")
    def models() -> dict[str, object]:
        """List the loaded models, and the default one, which `/predict` uses."""
        return {
            "models": [{"name": model.name, "version": model.version} for model in serving.models.values()],
            "default": serving.default_name,
        }

    def predict(environ: WSGIEnvironment, model: Artifact) -> hot.Decoded:
        """Predict from any of the native formats."""
        media_type, parameters = content_type(environ, (JSON_TYPE, CSV_TYPE))
        header = csv_header(parameters, default=True)
        decode = partial(
            payload.decode, media_type=media_type, schema=model.schema, max_rows=inference.max_rows, header=header
        )
        rows = inference.decode(environ, model, decode)
        return rows, partial(payload.encode, model=model, request_id=exchange_of(environ).request_id)

    hot.add(routes, serving, inference, predict, refuse, "/predict", "/models/<name>/predict")
    return routes
