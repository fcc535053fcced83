"""/v1: KServe's V1 protocol and TensorFlow Serving's REST API, which share their paths.

Sources: kserve's protocol/rest/v1_endpoints.py and TensorFlow Serving's api_rest.md. Replies have the fields of both.
A classifier answers labels, as KServe's server for scikit-learn does. Its signature `predict_proba` answers the
probabilities of each row in the order of the classes, as that server does where PREDICT_PROBA is set. KServe's verb
`:explain` answers the same, and what contributed to each answer beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint

from app.config import Config
from app.errors import BodyError
from app.protocols import describe, explanations, tables
from app.protocols.classification import PREDICT_PROBA, has_classes
from app.protocols.describe import JSON
from app.protocols.endpoint import Answer, Decoded, Endpoint, Request
from app.protocols.explanations import Explain
from app.protocols.views import Views
from app.serving.current import Serving
from app.web import refusal
from app.web.body import parse_json
from app.web.reply import Reply, to_json
from model import Artifact, Matrix, Schema

SIGNATURE = "serving_default"

_EXPLAIN = "explain"
_READY = {"type": "object", "required": ["name", "ready"]}


def blueprint(serving: Serving, views: Views) -> Blueprint:
    """Return the routes of V1 but for predictions. Every bad request is 400 with `{"error": …}`."""
    routes = Blueprint("v1", __name__, url_prefix="/v1")
    refusal.register(routes, refusal.refuse_in_one_message)

    @routes.get("/models")
    @views.describe(describe.get(describe.V1, "The loaded models", describe.NAMES))
    def models() -> dict[str, list[str]]:
        """List the loaded models."""
        return {"models": list(serving.loaded.models)}

    @routes.get("/models/<name>")
    @routes.get("/models/<name>/versions/<version>")
    @views.probe
    @views.describe(describe.get(describe.V1, "whether it is ready", _READY, unready=_READY))
    def status(name: str, version: str | None = None) -> tuple[dict[str, object], int, dict[str, str]]:
        """Report whether a model is ready: `ready` for KServe's client, `model_version_status` for TensorFlow's."""
        loaded = serving.loaded
        model = loaded.get(name, version)
        state = "UNLOADING" if serving.draining else "AVAILABLE"
        statuses = [
            {"version": str(each.version), "state": state, "status": {"error_code": "OK", "error_message": ""}}
            for each in (loaded.versions(name) if version is None else [model])
        ]
        ready = not serving.draining
        return refusal.readiness({"name": model.name, "ready": ready, "model_version_status": statuses}, ready=ready)

    return routes


def endpoints() -> tuple[Endpoint, Endpoint]:
    """Return V1's endpoints. Every bad request is 400 with `{"error": …}`, which lists every problem."""

    def endpoint(
        verb: str, encode: Callable[[Answer], Reply], describe: Callable[[Artifact, Config], Mapping[str, Any]]
    ) -> Endpoint:
        return Endpoint(
            name=f"v1.{verb}",
            rules=(f"/v1/models/<name>:{verb}", f"/v1/models/<name>/versions/<version>:{verb}"),
            decode=_decode,
            encode=encode,
            refuse=refusal.refuse_in_one_message,
            describe=describe,
            may_block=lambda environ: verb == _EXPLAIN,
        )

    return endpoint("predict", _encode, _describe), endpoint(_EXPLAIN, _encode_explained, _describe_explained)


def _decode(request: Request) -> Decoded:
    """Keep the key of the reply, `predictions` for `instances` and `outputs` for `inputs`, and the signature."""
    key, signature, X = decode(request.body, request.schema, max_rows=request.max_rows)
    return Decoded(X, (key, signature))


def _encode(answer: Answer) -> Reply:
    return to_json(_fields(answer))


def _encode_explained(answer: Answer) -> Reply:
    """Return the predictions, and beside them `explanations` in the form of the native API."""
    return to_json(_fields(answer) | explanations.fields(answer, Explain()))


def _fields(answer: Answer) -> JSON:
    key, signature = answer.detail
    return {key: answer.probabilities if signature == PREDICT_PROBA else answer.predictions}


def decode(body: bytes, schema: Schema, *, max_rows: int) -> tuple[str, str | None, Matrix]:
    """Return the key of the reply, the signature, and the rows as `(n_rows, n_features)` float64.

    Raises `BodyError`, `TooManyRowsError`, or `SchemaError` with every problem.
    """
    document = parse_json(body, max_values=schema.max_values(max_rows))
    if not isinstance(document, dict) or ("instances" in document) == ("inputs" in document):
        raise BodyError("the request is not a JSON object with either instances or inputs")
    signature = document.get("signature_name")
    signatures = (SIGNATURE, PREDICT_PROBA) if has_classes(schema) else (SIGNATURE,)
    if signature not in (None, *signatures):
        raise BodyError(f"signature_name is not {' or '.join(map(repr, signatures))}; send that or leave it out")
    if "instances" in document:
        return "predictions", signature, tables.from_instances(document["instances"], schema, max_rows=max_rows)
    return "outputs", signature, tables.from_inputs(document["inputs"], schema, max_rows=max_rows)


def _describe(model: Artifact, config: Config) -> JSON:
    return _described("Predictions", model, {})


def _describe_explained(model: Artifact, config: Config) -> JSON:
    properties, _ = explanations.described(model)
    return _described("Explained predictions", model, properties)


def _described(what: str, model: Artifact, more: JSON) -> JSON:
    """Return an operation whose replies have more properties beside the predictions."""
    schema = {
        "type": "object",
        "properties": {
            "instances": describe.shared(model, "instances"),
            "inputs": describe.shared(model, "inputs"),
            "signature_name": {"enum": [SIGNATURE, *([PREDICT_PROBA] if model.manifest.classes else []), None]},
        },
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    }
    content = {"application/json": {"schema": schema, "example": {"instances": [describe.example(model)]}}}
    replies = [describe.predictions(model, key) for key in ("predictions", "outputs")]
    for reply in replies:
        reply["properties"] |= more
    return describe.post(describe.V1, f"{what} of {model.name}", content, {"anyOf": replies}, describe.MESSAGE)
