"""POST /predict and /models/<name>/predict: the native API."""

from __future__ import annotations

from functools import partial

from flask import Blueprint, Response, request

from app import payload
from app.body import CSV_TYPE, JSON_TYPE, content_type, csv_header
from app.door import visit
from app.inference import Inference
from app.serving import Serving
from model import Artifact


def blueprint(serving: Serving, inference: Inference) -> Blueprint:
    """Routes that answer predictions in the native formats."""
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
        kind, parameters = content_type(request.environ, (JSON_TYPE, CSV_TYPE))
        header = csv_header(parameters, unsaid=True)
        decode = partial(payload.decode, kind=kind, schema=model.schema, max_rows=inference.max_rows, header=header)
        prediction = inference.predict(model, inference.decode(model, decode))
        return payload.encode(prediction, model, request_id=visit(request.environ).request_id)

    return routes
