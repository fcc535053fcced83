"""/v2: the Open Inference Protocol over REST, as in KServe, Triton and MLServer, with extensions of Triton.

The extensions are binary tensors, model configuration and statistics, as Triton's Python client uses them, and request
bodies in gzip and deflate. Parameters about sequences, priorities and time-outs are ignored.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from wsgiref.types import WSGIEnvironment

from flask import Blueprint, request

from app.config import Config
from app.errors import BodyError
from app.protocols import describe, v2_tensors
from app.protocols.describe import JSON
from app.protocols.endpoint import Answer, Decoded, Endpoint, Request
from app.protocols.intervals import INTERVAL, LOWER, UPPER
from app.protocols.views import Views
from app.serving.current import Serving
from app.telemetry.metrics import Metrics, Statistics
from app.telemetry.recorder import Recorder
from app.version import VERSION
from app.web import body, refusal
from app.web.reply import Reply, compress
from model import Artifact

EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics"]
PLATFORM = "onnxruntime_onnx"
JSON_LENGTH = "Inference-Header-Content-Length"
_SERVER_READY = describe.flags("live", "ready")
_MODEL_READY = {"type": "object", "required": ["name", "ready"]}
_TENSOR = {"type": "object", "required": ["name", "datatype", "shape"]}
_METADATA = {
    "type": "object",
    "required": ["name", "versions", "platform", "inputs", "outputs"],
    "properties": {
        "name": {"type": "string"},
        "versions": {"type": "array", "items": {"type": "string"}},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_STATISTICS = {"type": "object", "required": ["model_stats"], "properties": {"model_stats": {"type": "array"}}}
_PARAMETERS = {"type": ["object", "null"]}
_INFER_REQUEST: JSON = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": ["string", "null"]},
        "parameters": _PARAMETERS,
        "inputs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"type": "string"},
                    "shape": {
                        "type": "array",
                        "items": {"type": "integer", "minimum": 1},
                        "minItems": 1,
                        "maxItems": 2,
                    },
                    "datatype": {"enum": list(v2_tensors.DATATYPES)},
                    "parameters": _PARAMETERS,
                    "data": {"type": "array"},
                },
            },
        },
    },
}
_INFER_REPLY = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape", "data"],
                "properties": {"data": {"type": "array", "items": {"type": ["number", "string", "boolean"]}}},
            },
        },
    },
}
_MAX_INDEX_BYTES = 1_024  # the longest request is `{"ready": true}`


def blueprint(serving: Serving, views: Views, metrics: Metrics, recorder: Recorder) -> Blueprint:
    """Return the routes of V2 but for predictions. Every bad request is 400 with `{"error": …}`."""
    routes = Blueprint("v2", __name__, url_prefix="/v2")
    refusal.register(routes, refusal.refuse_in_one_message)

    @routes.get("")
    @views.describe(describe.get(describe.V2, "The server and its extensions", {"type": "object"}))
    def server() -> dict[str, object]:
        """Return the server's name, version and extensions."""
        return {"name": "tabserve", "version": VERSION, "extensions": EXTENSIONS}

    @routes.get("/health/live")
    @views.probe
    @views.describe(describe.get(describe.V2, "Whether the process is alive", describe.flags("live")))
    def live() -> dict[str, bool]:
        """Report that the process is alive."""
        return {"live": True}

    @routes.get("/health/ready")
    @views.probe
    @views.describe(
        describe.get(describe.V2, "Whether the server is ready for requests", _SERVER_READY, unready=_SERVER_READY)
    )
    def ready() -> tuple[dict[str, object], int, dict[str, str]]:
        """Report whether the server is ready. Clients use the status, or read `live` or `ready`."""
        ready = not serving.unready
        return refusal.readiness({"live": True, "ready": ready}, ready=ready)

    @routes.get("/models")
    @views.describe(describe.get(describe.V2, "The loaded models", describe.NAMES))
    def models() -> dict[str, list[str]]:
        """List the loaded models, as KServe does."""
        return {"models": list(serving.loaded.models)}

    @routes.post("/repository/index")
    @views.describe(_describe_index())
    def index() -> list[dict[str, str]]:
        """List the configured models with their states; `{"ready": true}` leaves out those that are not ready."""
        content = body.read(request.environ, max_bytes=_MAX_INDEX_BYTES)
        options = body.parse_json(content) if content else {}
        if not isinstance(options, dict) or not isinstance(options.get("ready", False), bool):
            raise BodyError("the request is not a JSON object in which ready is true or false")
        state, reason = ("UNAVAILABLE", "the server is stopping") if serving.draining else ("READY", "")
        loaded = serving.loaded
        models = [
            {"name": model.name, "version": str(model.version), "state": state, "reason": reason}
            for model in loaded.all_versions
        ]
        models += [
            {"name": name, "version": "", "state": "UNAVAILABLE", "reason": "; ".join(loaded.problems)}
            for name in loaded.requested
            if name not in loaded.models
        ]
        models += [
            {
                "name": reference.partition("@")[0],
                "version": reference.partition("@")[2],
                "state": "UNAVAILABLE",
                "reason": why,
            }
            for reference, why in loaded.absent.items()
        ]
        return [model for model in models if model["state"] == "READY"] if options.get("ready") else models

    @routes.get("/models/<name>")
    @routes.get("/models/<name>/versions/<version>")
    @views.describe(describe.get(describe.V2, "its tensors", _METADATA))
    def metadata(name: str, version: str | None = None) -> dict[str, object]:
        """Return a model's input and output tensors."""
        loaded = serving.loaded
        model = loaded.get(name, version)
        versions = [str(each.version) for each in loaded.versions(name)]
        facts = {"name": model.name, "versions": versions, "platform": PLATFORM}
        return {**facts, **v2_tensors.metadata(model)}

    @routes.get("/models/<name>/ready")
    @routes.get("/models/<name>/versions/<version>/ready")
    @views.probe
    @views.describe(describe.get(describe.V2, "whether it is ready", _MODEL_READY, unready=_MODEL_READY))
    def model_ready(name: str, version: str | None = None) -> tuple[dict[str, object], int, dict[str, str]]:
        """Report whether a model is loaded and the server is not stopping."""
        loaded = serving.loaded
        ready = name not in loaded.requested or loaded.find(name, version) is not None or name in loaded.models
        if ready:
            name, ready = loaded.get(name, version).name, not serving.draining
        return refusal.readiness({"name": name, "ready": ready}, ready=ready)

    @routes.get("/models/<name>/config")
    @routes.get("/models/<name>/versions/<version>/config")
    @views.describe(describe.get(describe.V2, "Triton's configuration", {"type": "object"}))
    def config(name: str, version: str | None = None) -> dict[str, object]:
        """Return a model's configuration (Triton's extension_model_configuration.md)."""
        model = serving.loaded.get(name, version)
        described = v2_tensors.metadata(model)
        return {
            "name": model.name,
            "platform": PLATFORM,
            "backend": "onnxruntime",
            "version_policy": {"specific": {"versions": [model.version]}},
            "max_batch_size": 0,  # the number of rows is a dimension like any other
            "input": [_config(tensor) for tensor in described["inputs"]],
            "output": [_config(tensor) for tensor in described["outputs"]],
        }

    @routes.get("/models/stats")
    @views.describe(describe.get(describe.V2, "Statistics of all models", _STATISTICS))
    def all_statistics() -> dict[str, object]:
        """Return the statistics of all versions of all models."""
        recorder.flush()
        counted = metrics.statistics()
        return {"model_stats": [_statistics(model, counted) for model in serving.loaded.all_versions]}

    @routes.get("/models/<name>/stats")
    @routes.get("/models/<name>/versions/<version>/stats")
    @views.describe(describe.get(describe.V2, "statistics", _STATISTICS))
    def statistics(name: str, version: str | None = None) -> dict[str, object]:
        """Return a model's statistics since the start, of all its versions (Triton's extension_statistics.md)."""
        loaded = serving.loaded
        model = loaded.get(name, version)
        recorder.flush()
        counted = metrics.statistics()
        return {
            "model_stats": [
                _statistics(each, counted) for each in (loaded.versions(name) if version is None else [model])
            ]
        }

    return routes


def endpoint() -> Endpoint:
    """Return V2's endpoint. Every bad request is 400 with `{"error": …}`, which lists every problem."""
    return Endpoint(
        name="v2.infer",
        rules=("/v2/models/<name>/infer", "/v2/models/<name>/versions/<version>/infer"),
        decode=_decode,
        encode=_encode,
        refuse=refusal.refuse_in_one_message,
        describe=_describe,
        may_block=_may_ask_for_contributions,
    )


def _may_ask_for_contributions(environ: WSGIEnvironment) -> bool:
    """Return whether the name of that output is in a small body."""
    body = environ.get("wsgi.input")
    return isinstance(body, io.BytesIO) and v2_tensors.CONTRIBUTIONS.encode() in body.getvalue()


def _decode(request: Request) -> Decoded:
    """Ignore the content type: Triton's client sends none."""
    json_length = request.environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH")
    infer_request = v2_tensors.decode(
        request.body, json_length, request.schema, max_rows=request.max_rows, intervals=request.intervals
    )
    return Decoded(infer_request.rows, infer_request)


def _encode(answer: Answer) -> Reply:
    content, length = v2_tensors.encode(answer)
    reply = Reply(content)
    if length is not None:
        reply = Reply(content, "application/octet-stream", headers=[(JSON_LENGTH, str(length))])
    return compress(reply, answer.environ)


def _describe(model: Artifact, config: Config) -> JSON:
    inputs = [
        {"name": feature.name, "shape": [1], "datatype": v2_tensors.datatype(feature), "data": [cell]}
        for feature, cell in zip(model.schema.features, describe.example(model).values())
    ]
    names = [output["name"] for output in v2_tensors.metadata(model)["outputs"]]
    more_properties: JSON = {}
    if intervals := model.manifest.intervals:
        names += [LOWER, UPPER]
        level = {"enum": intervals.levels, "description": f"the level of {LOWER} and {UPPER}"}
        more_properties["parameters"] = {**_PARAMETERS, "properties": {INTERVAL: level}}
    names += [v2_tensors.CONTRIBUTIONS] if model.manifest.explanations else []
    outputs = {
        "type": ["array", "null"],
        "maxItems": len(names),
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"enum": names}, "parameters": _PARAMETERS},
        },
    }
    properties = {**_INFER_REQUEST["properties"], "outputs": outputs, **more_properties}
    schema = {**_INFER_REQUEST, "properties": properties}
    content = {
        "application/json": {"schema": schema, "example": {"inputs": inputs}},
        "application/octet-stream": {},
    }
    more: JSON = {"application/octet-stream": {}}
    summary = f"Predictions of {model.name}"
    operation = describe.post(describe.V2, summary, content, _INFER_REPLY, describe.MESSAGE, more=more)
    operation["parameters"] = [
        {
            "name": JSON_LENGTH,
            "in": "header",
            "description": "bytes of JSON, where binary tensors follow it",
            "schema": {"type": "integer", "minimum": 1},
        }
    ]
    return operation


def _describe_index() -> JSON:
    operation = describe.post(
        describe.V2,
        "The configured models, and their state",
        {"application/json": {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}},
        {"type": "array", "items": {"type": "object", "required": ["name", "version", "state", "reason"]}},
        describe.MESSAGE,
    )
    operation["requestBody"]["required"] = False
    return operation


def _config(tensor: dict[str, object]) -> dict[str, object]:
    datatype = "STRING" if tensor["datatype"] == v2_tensors.BYTES else tensor["datatype"]
    return {"name": tensor["name"], "data_type": f"TYPE_{datatype}", "dims": tensor["shape"]}


def _statistics(model: Artifact, counted: Mapping[tuple[str, str], Statistics]) -> dict[str, object]:
    """Return a model's statistics in Triton's format; steps without a measurement of their own have a count of 0."""
    found = counted.get((model.name, str(model.version)), Statistics())

    def duration(count: float, seconds: float) -> dict[str, int]:
        return {"count": int(count), "ns": int(seconds * 1e9)}

    return {
        "name": model.name,
        "version": str(model.version),
        "inference_count": int(found.rows),
        "execution_count": int(found.engine_runs),
        "inference_stats": {
            "success": duration(found.successes, found.success_seconds),
            "fail": duration(found.failures, found.failure_seconds),
            "queue": duration(0, 0),
            "compute_input": duration(0, 0),
            "compute_infer": duration(found.engine_runs, found.engine_seconds),
            "compute_output": duration(0, 0),
        },
        "batch_stats": [],
    }
