"""POST /predict and /models/<name>/predict: the native API."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, request

from app import payload
from app.config import Config
from app.door import visit
from app.errors import OverloadedError
from app.metrics import Metrics
from app.serving import Serving
from model import REASONS, Artifact, SchemaError


def blueprint(serving: Serving, config: Config, metrics: Metrics, in_flight: Callable[[], int]) -> Blueprint:
    """Routes that answer predictions; `in_flight` says how many requests this worker has taken on."""
    routes = Blueprint("predict", __name__)

    @routes.post("/predict")
    def predict() -> Response:
        """Answer with the default model, in whichever native format the body is."""
        return answer(serving.get(None))

    @routes.post("/models/<name>/predict")
    def predict_with(name: str) -> Response:
        """Answer with one of several models."""
        return answer(serving.get(name))

    @routes.get("/models")
    def models() -> dict[str, object]:
        """List the loaded models; the default one answers `/predict`."""
        return {
            "models": [{"name": model.name, "version": model.version} for model in serving.models.values()],
            "default": serving.default_name,
        }

    def answer(model: Artifact) -> Response:
        guest = visit(request.environ)
        guest.model, guest.version = model.name, model.version
        if in_flight() > config.max_in_flight:
            raise OverloadedError(f"more than {config.max_in_flight} requests are waiting here")
        try:
            body = payload.read_body(request, max_bytes=config.max_body_bytes)
            rows = payload.decode(body, request.mimetype, model.schema, max_rows=config.max_rows)
        except SchemaError as error:
            for reason, n_rows in rejected_rows(error).items():
                metrics.count_rejected(model, n_rows, reason)
            raise
        prediction = model.predict(rows)
        guest.rows = len(rows)
        metrics.count_rows(model, len(rows))
        return payload.encode(prediction, model, request_id=guest.request_id)

    return routes


def rejected_rows(error: SchemaError) -> dict[str, int]:
    """Return how many rows were refused for each reason; a whole column's problem concerns every row."""
    rows: dict[str, set[int | None]] = {}
    for problem in error.problems:
        rows.setdefault(problem.reason if problem.reason in REASONS else "shape", set()).add(problem.row)
    return {reason: error.n_rows if None in found else len(found) for reason, found in rows.items()}
