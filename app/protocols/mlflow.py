"""/ping, /version and /invocations: MLflow's scoring server, with the additions of Amazon SageMaker.

Sources: mlflow 3.17, pyfunc/scoring_server; SageMaker's "custom inference code" for endpoints and batch transforms.
Parquet, which MLflow reads if pyarrow is installed, is not read: the size of a decompressed page cannot be bounded
beforehand. Arrow's stream, which can, is read instead.

A classifier answers labels, as MLflow's flavour for scikit-learn does. `"params": {"predict_method": "predict_proba"}`
asks for the probabilities of each row, in the order of the classes.

SageMaker's header X-Amzn-SageMaker-Enable-Explanations has an expression of JMESPath, such as "`true`" or "[0]>`0.8`",
which says of the numbers or the label that are answered for a row whether it is explained. The reply then has the form
of SageMaker Clarify, with exact values in place of those of Kernel SHAP. Source: "Online explainability" in SageMaker's
developer guide.
"""

from __future__ import annotations

import os
import re
from typing import Any

from flask import Blueprint

from app.config import Config
from app.errors import BodyError, NotReadyError
from app.protocols import clarify, describe, formats, tables
from app.protocols.classification import wants_probabilities
from app.protocols.describe import JSON
from app.protocols.endpoint import Answer, Decoded, Endpoint, Request
from app.protocols.views import Views
from app.serving.current import Serving
from app.version import VERSION
from app.web import refusal
from app.web.body import ARROW_TYPE, CSV_TYPE, NPY_TYPE, parse_json
from app.web.refusal import Refusal
from app.web.reply import JSON_TYPE, Reply, to_json
from model import Artifact, Matrix, Schema

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_ERROR = describe.MLFLOW_ERROR
_PARAMETERS = {"type": "object", "required": ["MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"]}
_CUSTOM_ATTRIBUTES = re.compile(r"[ -~]{1,1024}")
_ERROR_CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}


def blueprint(serving: Serving, views: Views, config: Config) -> Blueprint:
    """Return routes of MLflow and SageMaker but for predictions; errors are `{"error_code": …, "message": …}`."""
    routes = Blueprint("mlflow", __name__)
    refusal.register(routes, _refuse)

    @routes.get("/ping")
    @routes.get("/health")
    @views.probe
    @views.describe(describe.get(describe.MLFLOW, "Whether the server is ready for requests", {}, unready=_ERROR))
    def ping() -> Reply:
        """Report whether the server is ready; if not, raise `NotReadyError`, which is 503."""
        if serving.unready:
            raise NotReadyError(serving.unready)
        return Reply(b"\n")

    @routes.get("/version")
    @views.describe(describe.get(describe.MLFLOW, "The version of the server", text=True))
    def version() -> Reply:
        """Return the version of the server."""
        return Reply(VERSION.encode(), "text/plain; charset=utf-8")

    @routes.get("/execution-parameters")
    @views.describe(
        describe.get(
            describe.MLFLOW, "The limits of a SageMaker batch transform's requests", _PARAMETERS, unready=_ERROR
        )
    )
    def execution_parameters() -> dict[str, object]:
        """Return the limits of a SageMaker batch transform's requests; SageMaker sends at most 100 MB in all at once.

        With MULTI_RECORD it fills requests up to the payload limit. So this needs a row limit that such a request
        cannot exceed, at two bytes a cell or more.
        """
        megabytes = min(max(1, config.max_body_bytes // 2**20), 100)
        concurrent = min(2 * (os.cpu_count() or 1), 100 // megabytes)  # two a core keep all cores busy
        bytes_per_row = 2 * len(serving.loaded.get(None).schema.names)
        fits = megabytes * 2**20 // bytes_per_row <= config.max_rows
        return {
            "MaxConcurrentTransforms": concurrent,
            "BatchStrategy": "MULTI_RECORD" if fits else "SINGLE_RECORD",
            "MaxPayloadInMB": megabytes,
        }

    return routes


def endpoint() -> Endpoint:
    """Return the endpoint of MLflow and SageMaker, for the default model."""
    return Endpoint(
        name="mlflow.invocations",
        rules=("/invocations",),
        media_types=(JSON_TYPE, *formats.TABLE_TYPES),
        decode=_decode,
        encode=_encode,
        refuse=_refuse,
        describe=_describe,
        may_block=lambda environ: clarify.KEY in environ,
    )


def _decode(request: Request) -> Decoded:
    if request.media_type != JSON_TYPE:
        return Decoded(formats.decode(request, header=None), False)
    return Decoded(*decode(request.body, request.schema, max_rows=request.max_rows))


def _encode(answer: Answer) -> Reply:
    """Return `{"predictions": […]}`, or the format that the client prefers to JSON: CSV, an array or Arrow."""
    predictions = answer.probabilities if answer.detail else answer.predictions
    expression = answer.environ.get(clarify.KEY)
    if expression is not None:
        return _with_attributes(clarify.encode(answer, predictions, expression), answer)
    wanted = formats.reply_type(answer.environ, (JSON_TYPE, CSV_TYPE, NPY_TYPE, ARROW_TYPE))
    if wanted == CSV_TYPE:
        reply = Reply(tables.to_csv(predictions).encode(), f"{CSV_TYPE}; charset=utf-8")
    elif wanted == NPY_TYPE:
        reply = Reply(tables.to_npy(predictions), NPY_TYPE)
    elif wanted == ARROW_TYPE:
        from app.protocols import arrow_stream  # here, since it imports pyarrow

        reply = arrow_stream.encode(answer, has_probabilities=answer.detail)
    else:
        reply = to_json({"predictions": predictions})
    return _with_attributes(reply, answer)


def _with_attributes(reply: Reply, answer: Answer) -> Reply:
    """Return a reply with the custom attributes that SageMaker sent."""
    attributes = answer.environ.get("HTTP_X_AMZN_SAGEMAKER_CUSTOM_ATTRIBUTES", "")
    if _CUSTOM_ATTRIBUTES.fullmatch(attributes):
        reply.headers.append((CUSTOM_ATTRIBUTES, attributes))
    return reply


def decode(body: bytes, schema: Schema, *, max_rows: int) -> tuple[Matrix, bool]:
    """Return the rows of MLflow's JSON as `(n_rows, n_features)` float64, and whether to answer probabilities.

    Raises `BodyError`, `TooManyRowsError`, or `SchemaError` with every problem.
    """
    document = parse_json(body, max_values=schema.max_values(max_rows))
    forms = [form for form in FORMS if form in document] if isinstance(document, dict) else []
    if len(forms) != 1:
        raise BodyError(f"the request is not a JSON object with exactly one of {', '.join(FORMS)}")
    return _rows(forms[0], document[forms[0]], schema, max_rows), wants_probabilities(document.get("params"), schema)


def _rows(form: str, value: Any, schema: Schema, max_rows: int) -> Matrix:
    if form == "instances":
        return tables.from_instances(value, schema, max_rows=max_rows)
    if form == "inputs":
        return tables.from_inputs(value, schema, max_rows=max_rows)
    if form == "dataframe_records":
        if not isinstance(value, list):
            raise BodyError("dataframe_records is not a list")
        return tables.from_records(value, schema, max_rows=max_rows)
    data, columns = (value.get("data"), value.get("columns", list(schema.names))) if isinstance(value, dict) else (0, 0)
    if not isinstance(data, list) or not isinstance(columns, list):
        raise BodyError("dataframe_split is not an object with the lists columns and data")
    return tables.from_rows(data, columns, schema, max_rows=max_rows)


def _error(refusal: Refusal) -> dict[str, str]:
    return {"error_code": _ERROR_CODES.get(refusal.status, "BAD_REQUEST"), "message": refusal.full_message()}


_refuse = refusal.refuser(_error, unfit=400)


def _describe(model: Artifact, config: Config) -> JSON:
    example, max_rows = describe.example(model), config.max_rows
    forms = {
        "dataframe_split": {
            "type": "object",
            "required": ["data"],
            "properties": {
                "columns": describe.columns(model),
                "data": describe.lists(model, max_rows, in_order=False),
            },
        },
        "dataframe_records": {
            "type": "array",
            "items": describe.shared(model, "row"),
            "minItems": 1,
            "maxItems": max_rows,
        },
        "instances": describe.shared(model, "instances"),
        "inputs": describe.shared(model, "inputs"),
    }
    schema = {
        "type": "object",
        "properties": forms | {"params": describe.method(model)},
        "oneOf": [{"required": [form]} for form in FORMS],
    }
    split = {"columns": list(model.schema.names), "data": [list(example.values())]}
    content = {
        "application/json": {"schema": schema, "example": {"dataframe_split": split}},
        **describe.table_bodies(model, example),
    }
    more = {CSV_TYPE: {"schema": {"type": "string"}}, **describe.table_replies()}
    summary, reply = f"Predictions of {model.name}", describe.predictions(model, "predictions")
    operation = describe.post(describe.MLFLOW, summary, content, reply, describe.MLFLOW_ERROR, more=more)
    operation["parameters"] = [clarify.PARAMETER]
    return operation
