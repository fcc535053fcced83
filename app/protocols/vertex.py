"""Vertex AI's two routes, at the paths in AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE, if it sets them.

Source: Vertex AI, custom container requirements for inference.
"""

from __future__ import annotations

from functools import partial
from wsgiref.types import WSGIEnvironment

from flask import Blueprint

from app.config import Config
from app.errors import BodyError
from app.protocols import fast_path, tables
from app.serving.inference import Inference
from app.serving.loaded import Serving
from app.web import refusal
from app.web.body import parse_json, to_json
from model import Artifact, Matrix, Schema


def blueprint(serving: Serving, inference: Inference, config: Config) -> Blueprint:
    """Return the routes of Vertex AI, for the default model.

    If a path is also one of health, V1, V2 or MLflow, their route answers: its reply has what Vertex AI reads.
    """
    routes = Blueprint("vertex_ai", __name__)
    refuse = refusal.refuser(refusal.message, unfit=400)
    refusal.register(routes, refuse)

    @fast_path.probe
    def health() -> tuple[dict[str, object], int, dict[str, str]]:
        """Report whether the server is ready."""
        ready = not serving.unready
        return refusal.readiness({"ready": ready}, ready=ready)

    def predict(environ: WSGIEnvironment, model: Artifact) -> fast_path.Decoded:
        """Reply to `{"instances": […]}` with `{"predictions": […]}`; `parameters` are ignored."""
        rows = inference.decode(environ, model, partial(decode, schema=model.schema, max_rows=inference.max_rows))
        return rows, lambda prediction: to_json({"predictions": prediction})

    if config.aip_health_route:
        routes.add_url_rule(config.aip_health_route, view_func=health)
    if config.aip_predict_route:
        fast_path.add(routes, serving, inference, predict, refuse, config.aip_predict_route)
    return routes


def decode(body: bytes, schema: Schema, *, max_rows: int) -> Matrix:
    """Return the rows of `instances` as `(n_rows, n_features)` float64.

    Raises `BodyError`, `TooManyRowsError`, or `SchemaError` with every problem.
    """
    document = parse_json(body, max_values=schema.max_values(max_rows))
    if not isinstance(document, dict) or "instances" not in document:
        raise BodyError("the request is not a JSON object with instances")
    return tables.from_instances(document["instances"], schema, max_rows=max_rows)
