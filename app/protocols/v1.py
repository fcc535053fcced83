"""/v1: KServe's V1 protocol and TensorFlow Serving's REST API, which share their paths.

Sources: kserve's protocol/rest/v1_endpoints.py and TensorFlow Serving's api_rest.md. Replies have the fields of both.
"""

from __future__ import annotations

from functools import partial
from wsgiref.types import WSGIEnvironment

from flask import Blueprint

from app.errors import BodyError
from app.protocols import fast_path, tables
from app.serving.inference import Inference
from app.serving.loaded import Serving
from app.web import refusal
from app.web.body import parse_json, to_json
from model import Artifact, Matrix, Schema

SIGNATURE = "serving_default"


def blueprint(serving: Serving, inference: Inference) -> Blueprint:
    """Return the routes of V1. Every bad request is 400 with `{"error": …}`, which lists every problem."""
    routes = Blueprint("tensorflow_serving", __name__, url_prefix="/v1")
    refuse = refusal.refuser(refusal.message, unfit=400)
    refusal.register(routes, refuse)

    @routes.get("/models")
    def models() -> dict[str, list[str]]:
        """List the loaded models."""
        return {"models": list(serving.models)}

    @routes.get("/models/<name>")
    @routes.get("/models/<name>/versions/<version>")
    @fast_path.probe
    def status(name: str, version: str | None = None) -> tuple[dict[str, object], int, dict[str, str]]:
        """Report whether a model is ready: `ready` for KServe's client, `model_version_status` for TensorFlow's."""
        model = serving.get(name, version)
        state = "UNLOADING" if serving.draining else "AVAILABLE"
        statuses = [
            {"version": str(model.version), "state": state, "status": {"error_code": "OK", "error_message": ""}}
        ]
        ready = not serving.draining
        return refusal.readiness({"name": model.name, "ready": ready, "model_version_status": statuses}, ready=ready)

    def predict(environ: WSGIEnvironment, model: Artifact) -> fast_path.Decoded:
        """Reply to `{"instances": […]}` with `{"predictions": […]}`, and to `{"inputs": …}` with `{"outputs": […]}`."""
        read = partial(decode, schema=model.schema, max_rows=inference.max_rows)
        key, rows = inference.decode(environ, model, read)
        return rows, lambda prediction: to_json({key: prediction})

    fast_path.add(
        routes,
        serving,
        inference,
        predict,
        refuse,
        "/models/<name>:predict",
        "/models/<name>/versions/<version>:predict",
    )
    return routes


def decode(body: bytes, schema: Schema, *, max_rows: int) -> tuple[str, Matrix]:
    """Return the key of the reply, and the rows of `instances` or `inputs` as `(n_rows, n_features)` float64.

    Raises `BodyError`, `TooManyRowsError`, or `SchemaError` with every problem.
    """
    document = parse_json(body, max_values=schema.max_values(max_rows))
    if not isinstance(document, dict) or ("instances" in document) == ("inputs" in document):
        raise BodyError("the request is not a JSON object with either instances or inputs")
    if document.get("signature_name") not in (None, SIGNATURE):
        raise BodyError(f"signature_name is not {SIGNATURE!r}; send that or leave it out")
    if "instances" in document:
        return "predictions", tables.from_instances(document["instances"], schema, max_rows=max_rows)
    return "outputs", tables.from_inputs(document["inputs"], schema, max_rows=max_rows)
