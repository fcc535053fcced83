"""/v2: the Open Inference Protocol over REST, as in KServe, Triton and MLServer, with extensions of Triton.

The extensions are binary tensors, model configuration and statistics, as Triton's Python client uses them, and request
bodies in gzip and deflate. Parameters about sequences, priorities and time-outs are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from wsgiref.types import WSGIEnvironment

import numpy as np
from flask import Blueprint, request
from numpy.typing import NDArray

from app.errors import BodyError
from app.protocols import fast_path, v2_tensors
from app.serving.inference import Inference
from app.serving.loaded import Serving
from app.telemetry.metrics import Metrics, Statistics
from app.telemetry.recorder import Recorder
from app.version import VERSION
from app.web import body, refusal
from app.web.reply import Reply
from model import Artifact

EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics"]
PLATFORM = "onnxruntime_onnx"
JSON_LENGTH = "Inference-Header-Content-Length"
_MAX_INDEX_BYTES = 1_024  # the longest request is `{"ready": true}`


def blueprint(serving: Serving, inference: Inference, metrics: Metrics, recorder: Recorder) -> Blueprint:
    """Return the routes of V2. Every bad request is 400 with `{"error": …}`, which lists every problem."""
    routes = Blueprint("open_inference", __name__, url_prefix="/v2")
    refuse = refusal.refuser(refusal.message, unfit=400)
    refusal.register(routes, refuse)

    @routes.get("")
    def server() -> dict[str, object]:
        """Return the server's name, version and extensions."""
        return {"name": "tabserve", "version": VERSION, "extensions": EXTENSIONS}

    @routes.get("/health/live")
    @fast_path.probe
    def live() -> dict[str, bool]:
        """Report that the process is alive."""
        return {"live": True}

    @routes.get("/health/ready")
    @fast_path.probe
    def ready() -> tuple[dict[str, object], int, dict[str, str]]:
        """Report whether the server is ready. Clients use the status, or read `live` or `ready`."""
        ready = not serving.unready
        return refusal.readiness({"live": True, "ready": ready}, ready=ready)

    @routes.get("/models")
    def models() -> dict[str, list[str]]:
        """List the loaded models, as KServe does."""
        return {"models": list(serving.models)}

    @routes.post("/repository/index")
    def index() -> list[dict[str, str]]:
        """List the configured models with their states; `{"ready": true}` leaves out those that are not ready."""
        content = body.read(request.environ, max_bytes=_MAX_INDEX_BYTES)
        options = body.parse_json(content) if content else {}
        if not isinstance(options, dict) or not isinstance(options.get("ready", False), bool):
            raise BodyError("the request is not a JSON object in which ready is true or false")
        state, reason = ("UNAVAILABLE", "the server is stopping") if serving.draining else ("READY", "")
        loaded = [
            {"name": model.name, "version": str(model.version), "state": state, "reason": reason}
            for model in serving.models.values()
        ]
        missing = [
            {"name": name, "version": "", "state": "UNAVAILABLE", "reason": "; ".join(serving.problems)}
            for name in serving.requested
            if name not in serving.models
        ]
        models = loaded + missing
        return [model for model in models if model["state"] == "READY"] if options.get("ready") else models

    @routes.get("/models/<name>")
    @routes.get("/models/<name>/versions/<version>")
    def metadata(name: str, version: str | None = None) -> dict[str, object]:
        """Return a model's input and output tensors."""
        model = serving.get(name, version)
        facts = {"name": model.name, "versions": [str(model.version)], "platform": PLATFORM}
        return {**facts, **v2_tensors.metadata(model.schema)}

    @routes.get("/models/<name>/ready")
    @routes.get("/models/<name>/versions/<version>/ready")
    @fast_path.probe
    def model_ready(name: str, version: str | None = None) -> tuple[dict[str, object], int, dict[str, str]]:
        """Report whether a model is loaded and the server is not stopping."""
        ready = name not in serving.requested or name in serving.models
        if ready:
            name, ready = serving.get(name, version).name, not serving.draining
        return refusal.readiness({"name": name, "ready": ready}, ready=ready)

    def infer(environ: WSGIEnvironment, model: Artifact) -> fast_path.Decoded:
        """Predict. The content type is ignored: Triton's client sends none."""
        json_length = environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH")
        decode = partial(v2_tensors.decode, json_length=json_length, schema=model.schema, max_rows=inference.max_rows)
        infer_request = inference.decode(environ, model, decode)

        def encode(prediction: NDArray[np.float64]) -> Reply:
            content, length = v2_tensors.encode(prediction, model, infer_request)
            reply = Reply(content)
            if length is not None:
                reply = Reply(content, "application/octet-stream", headers=[(JSON_LENGTH, str(length))])
            return body.compress(reply, environ)

        return infer_request.rows, encode

    fast_path.add(
        routes, serving, inference, infer, refuse, "/models/<name>/infer", "/models/<name>/versions/<version>/infer"
    )

    @routes.get("/models/<name>/config")
    @routes.get("/models/<name>/versions/<version>/config")
    def config(name: str, version: str | None = None) -> dict[str, object]:
        """Return a model's configuration (Triton's extension_model_configuration.md)."""
        model = serving.get(name, version)
        described = v2_tensors.metadata(model.schema)
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
    def all_statistics() -> dict[str, object]:
        """Return the statistics of all models."""
        recorder.flush()
        counted = metrics.statistics()
        return {"model_stats": [_statistics(model, counted) for model in serving.models.values()]}

    @routes.get("/models/<name>/stats")
    @routes.get("/models/<name>/versions/<version>/stats")
    def statistics(name: str, version: str | None = None) -> dict[str, object]:
        """Return a model's statistics since the start (Triton's extension_statistics.md)."""
        model = serving.get(name, version)
        recorder.flush()
        return {"model_stats": [_statistics(model, metrics.statistics())]}

    return routes


def _config(tensor: dict[str, object]) -> dict[str, object]:
    return {"name": tensor["name"], "data_type": f"TYPE_{v2_tensors.DATATYPE}", "dims": tensor["shape"]}


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
