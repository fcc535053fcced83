"""Vertex AI's two routes, at the paths in AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE, if it sets them.

Source: Vertex AI, custom container requirements for inference. A classifier answers labels, as Vertex AI's own
container for scikit-learn does. `"parameters": {"predict_method": "predict_proba"}` asks for the probabilities of each
row, in the order of the classes.
"""

from __future__ import annotations

from flask import Blueprint

from app.config import Config
from app.errors import BodyError
from app.protocols import describe, tables
from app.protocols.classification import wants_probabilities
from app.protocols.describe import JSON
from app.protocols.endpoint import Answer, Decoded, Endpoint, Request
from app.protocols.views import Views
from app.serving.current import Serving
from app.web import refusal
from app.web.body import parse_json
from app.web.reply import Reply, to_json
from model import Artifact, Matrix, Schema


def blueprint(serving: Serving, views: Views, config: Config) -> Blueprint:
    """Return Vertex AI's health check.

    If its path is also one of health, V1, V2 or MLflow, their route answers: its reply has what Vertex AI reads.
    """
    routes = Blueprint("vertex", __name__)
    refusal.register(routes, refusal.refuse_in_one_message)
    ready = describe.flags("ready")

    @views.probe
    @views.describe(describe.get(describe.VERTEX, "Whether the server is ready for requests", ready, unready=ready))
    def health() -> tuple[dict[str, object], int, dict[str, str]]:
        """Report whether the server is ready."""
        ready = not serving.unready
        return refusal.readiness({"ready": ready}, ready=ready)

    if config.aip_health_route:
        routes.add_url_rule(config.aip_health_route, view_func=health)
    return routes


def endpoint(config: Config) -> Endpoint:
    """Return Vertex AI's endpoint, for the default model; without AIP_PREDICT_ROUTE it has no path."""
    return Endpoint(
        name="vertex.predict",
        rules=(config.aip_predict_route,) if config.aip_predict_route else (),
        decode=_decode,
        encode=_encode,
        refuse=refusal.refuse_in_one_message,
        describe=_describe,
    )


def _decode(request: Request) -> Decoded:
    return Decoded(*decode(request.body, request.schema, max_rows=request.max_rows))


def _encode(answer: Answer) -> Reply:
    return to_json({"predictions": answer.probabilities if answer.detail else answer.predictions})


def decode(body: bytes, schema: Schema, *, max_rows: int) -> tuple[Matrix, bool]:
    """Return the rows of `instances` as `(n_rows, n_features)` float64, and whether to answer probabilities.

    Raises `BodyError`, `TooManyRowsError`, or `SchemaError` with every problem.
    """
    document = parse_json(body, max_values=schema.max_values(max_rows))
    if not isinstance(document, dict) or "instances" not in document:
        raise BodyError("the request is not a JSON object with instances")
    X = tables.from_instances(document["instances"], schema, max_rows=max_rows)
    return X, wants_probabilities(document.get("parameters"), schema)


def _describe(model: Artifact, config: Config) -> JSON:
    instances = describe.shared(model, "instances")
    properties = {"instances": instances, "parameters": describe.method(model)}
    schema = {"type": "object", "required": ["instances"], "properties": properties}
    content = {"application/json": {"schema": schema, "example": {"instances": [describe.example(model)]}}}
    reply = describe.predictions(model, "predictions")
    return describe.post(describe.VERTEX, f"Predictions of {model.name}", content, reply, describe.MESSAGE)
