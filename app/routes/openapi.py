"""The OpenAPI 3.1 document of the service, made from the schemas of the loaded models.

Every model has paths of its own, with its features, their ranges and an example that works.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from app.config import Config
from app.protocols import v2_tensors
from app.protocols.mlflow import FORMS
from app.protocols.v1 import SIGNATURE
from app.protocols.v2 import JSON_LENGTH
from app.routes.feedback import MAX_ROW, MAX_TRUTH
from app.serving.loaded import Serving
from app.telemetry.metrics import OUTCOMES
from app.version import VERSION
from app.web.middleware import REQUEST_ID
from model import Artifact, Feature

JSON = dict[str, Any]

NATIVE, V2, V1 = "Native", "Open Inference Protocol V2", "KServe V1 and TensorFlow Serving"
MLFLOW, VERTEX, SERVICE = "MLflow and SageMaker", "Vertex AI", "Service"

_NATIVE_ERROR = {"$ref": "#/components/schemas/Error"}
_MESSAGE = {"$ref": "#/components/schemas/Message"}
_MLFLOW_ERROR = {"$ref": "#/components/schemas/MLflowError"}

_COMPONENTS: JSON = {
    "Error": {
        "type": "object",
        "required": ["error", "status", "details"],
        "properties": {
            "error": {"type": "string"},
            "status": {"type": "integer"},
            "details": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["row", "feature", "reason"],
                    "properties": {
                        "row": {"type": ["integer", "null"], "description": "from 0; null for a whole column"},
                        "feature": {"type": ["string", "null"], "description": "null for a whole row"},
                        "reason": {"type": "string"},
                    },
                },
            },
        },
    },
    "Message": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    "MLflowError": {
        "type": "object",
        "required": ["error_code", "message"],
        "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
    },
}

_TEXT_TYPES: Sequence[str] = ("text/plain", "application/openmetrics-text")
_FAILURES = {
    "400": "the body does not match its content type, or the model's inputs",
    "404": "model or version not found",
    "413": "too many bytes or rows",
    "415": "the content type or encoding is not supported",
    "503": "not ready, or overloaded; try again after Retry-After seconds",
}
_UNFIT = {"422": "the rows do not fit the model's schema"}
_NAMES = {"type": "object", "required": ["models"], "properties": {"models": {"type": "array"}}}
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
_INFER_REQUEST = {
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
        "outputs": {
            "type": ["array", "null"],
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"const": v2_tensors.OUTPUT}, "parameters": _PARAMETERS},
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
                "properties": {"data": {"type": "array", "items": {"type": "number"}}},
            },
        },
    },
}


def document(serving: Serving, config: Config, *, prefix: str = "") -> JSON:
    """Return the document of the loaded models, with `prefix` before all paths."""
    default = [model for model in serving.models.values() if model.name == serving.default_name]
    parts = [_health_paths(), _v2_paths(), _v1_paths(), _mlflow_paths()]
    parts += [_invocations(model, config) for model in default]
    parts += [part for model in default for part in _vertex_paths(model, config)]
    parts += [{"/predict": _predict(model)} for model in default]
    parts += [_model_paths(model) for model in serving.models.values()]
    parts += [_feedback_path(config)]
    parts += [_pages(), {"/models": _get(NATIVE, "The loaded models, and which is the default", _NAMES)}]
    paths: JSON = {}
    for part in parts:
        for path, operations in part.items():  # as with routes, the first of a path and method wins
            paths[path] = operations | paths.get(path, {})
    for path, operations in paths.items():
        for method, operation in operations.items():
            # The name of a link to the operation, and of a generated client's function.
            operation["operationId"] = re.sub(r"\W+", "_", f"{method}{path}").strip("_")
    components = dict(_COMPONENTS)
    for model in serving.models.values():
        components[f"{model.name}.row"] = _row(model)
        components[f"{model.name}.native"] = _native(model, config.max_rows)
        components[f"{model.name}.instances"] = _instances(model, config.max_rows)
        components[f"{model.name}.inputs"] = _inputs(model, config.max_rows)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tabserve",
            "version": VERSION,
            "description": "Serves exactly the models that were trained, to the last bit, over many protocols.",
        },
        "servers": [{"url": prefix or "/"}],
        "tags": [{"name": name} for name in (NATIVE, V2, V1, MLFLOW, VERTEX, SERVICE)],
        "paths": paths,
        "components": {"schemas": components},
    }


def _health_paths() -> JSON:
    return {
        "/livez": _get(SERVICE, "Whether the process is alive", _flags("live")),
        "/readyz": _get(SERVICE, "Whether the server is ready for requests", _flags("ready"), unready=_flags("ready")),
        "/metrics": _get(SERVICE, "Metrics of all workers, for Prometheus", None, text=True),
    }


def _feedback_path(config: Config) -> JSON:
    truth = {"type": "number", "minimum": -MAX_TRUTH, "maximum": MAX_TRUTH}
    request_id = {"type": "string", "pattern": f"^{REQUEST_ID.pattern}$"}
    replace = {"type": "boolean", "default": False, "description": "whether it replaces an earlier truth"}
    one = {
        "type": "object",
        "required": ["request_id", "truth"],
        "properties": {
            "request_id": request_id,
            "row": {"type": "integer", "minimum": 0, "maximum": MAX_ROW, "description": "in the request, from 0"},
            "truth": truth,
            "replace": replace,
        },
        "additionalProperties": False,
        "examples": [{"request_id": "0123456789abcdef0123456789abcdef", "row": 0, "truth": 24.0}],
    }
    rows = {
        "type": "object",
        "required": ["request_id", "truth"],
        "description": "all rows of a request, null where the truth is not known",
        "properties": {
            "request_id": request_id,
            "truth": {
                "type": "array",
                "items": {**truth, "type": ["number", "null"]},
                "contains": truth,
                "maxItems": config.max_rows,
            },
            "replace": replace,
        },
        "additionalProperties": False,
    }
    item = {"anyOf": [one, rows]}
    many = {"type": "array", "items": item, "minItems": 1, "maxItems": config.max_rows}
    rows_of = {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["request_id", "row"],
            "properties": {"request_id": {"type": "string"}, "row": {"type": "integer"}},
        },
    }
    reply = {
        "type": "object",
        "required": [*OUTCOMES, "conflicting_rows", "unknown_rows"],
        "properties": {
            **{name: {"type": "integer", "minimum": 0} for name in OUTCOMES},
            "conflicting_rows": rows_of,
            "unknown_rows": rows_of,
        },
    }
    content = {"application/json": {"schema": {"anyOf": [item, many]}}}
    summary = "Report the true values of predictions"
    failures = {
        "404": "none of the predictions is known, or the server keeps no prediction log",
        "422": "malformed request ids, rows or true values, or values far beyond the target's range in training",
    }
    return {"/feedback": _post(NATIVE, summary, content, reply, _NATIVE_ERROR, unfit=failures)}


def _pages() -> JSON:
    alive = {"type": "object", "required": ["status"], "properties": {"status": {"const": "alive"}}}
    return {
        "/": _get(SERVICE, "The models as a web page, or as JSON whether the process is alive", alive, html=True),
        "/docs/": _get(SERVICE, "These pages", None, html=True),
        "/openapi.json": _get(SERVICE, "This document", {"type": "object"}),
    }


def _v2_paths() -> JSON:
    """Return V2's paths without a model."""
    ready = _flags("live", "ready")
    index = _post(
        V2,
        "The configured models, and their state",
        {"application/json": {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}},
        {"type": "array", "items": {"type": "object", "required": ["name", "version", "state", "reason"]}},
        _MESSAGE,
    )
    index["post"]["requestBody"]["required"] = False
    return {
        "/v2": _get(V2, "The server and its extensions", {"type": "object"}),
        "/v2/health/live": _get(V2, "Whether the process is alive", _flags("live")),
        "/v2/health/ready": _get(V2, "Whether the server is ready for requests", ready, unready=ready),
        "/v2/models": _get(V2, "The loaded models", _NAMES),
        "/v2/models/stats": _get(V2, "Statistics of all models", _STATISTICS),
        "/v2/repository/index": index,
    }


def _v1_paths() -> JSON:
    """Return V1's path without a model."""
    return {"/v1/models": _get(V1, "The loaded models", _NAMES)}


def _mlflow_paths() -> JSON:
    """Return MLflow's and SageMaker's paths, without predictions."""
    parameters = ["MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"]
    return {
        "/ping": _get(MLFLOW, "Whether the server is ready for requests", {}, unready=_MLFLOW_ERROR),
        "/health": _get(MLFLOW, "The same", {}, unready=_MLFLOW_ERROR),
        "/version": _get(MLFLOW, "The version of the server", None, text=True),
        "/execution-parameters": _get(
            MLFLOW,
            "The limits of a SageMaker batch transform's requests",
            {"type": "object", "required": parameters},
            unready=_MLFLOW_ERROR,
        ),
    }


def _invocations(model: Artifact, config: Config) -> JSON:
    example, rows = _example(model), {"$ref": f"#/components/schemas/{model.name}.row"}
    lists = _lists(model, config.max_rows, in_order=False)
    forms = {
        "dataframe_split": {
            "type": "object",
            "required": ["data"],
            "properties": {"columns": _columns(model), "data": lists},
        },
        "dataframe_records": {"type": "array", "items": rows, "minItems": 1, "maxItems": config.max_rows},
        "instances": {"$ref": f"#/components/schemas/{model.name}.instances"},
        "inputs": {"$ref": f"#/components/schemas/{model.name}.inputs"},
    }
    schema = {
        "type": "object",
        "properties": forms | {"params": {}},
        "oneOf": [{"required": [form]} for form in FORMS],
    }
    split = {"columns": list(model.schema.names), "data": [list(example.values())]}
    content = {
        "application/json": {"schema": schema, "example": {"dataframe_split": split}},
        "text/csv": {"schema": {"type": "string"}, "example": _csv(example)},
    }
    more = {"text/csv": {"schema": {"type": "string"}}}
    summary = f"Predictions of {model.name}"
    return {"/invocations": _post(MLFLOW, summary, content, _predictions("predictions"), _MLFLOW_ERROR, more=more)}


def _vertex_paths(model: Artifact, config: Config) -> list[JSON]:
    """Return the operations of Vertex AI's two routes, which may have the same path."""
    instances = {"$ref": f"#/components/schemas/{model.name}.instances"}
    schema = {"type": "object", "required": ["instances"], "properties": {"instances": instances, "parameters": {}}}
    content = {"application/json": {"schema": schema, "example": {"instances": [_example(model)]}}}
    health = _get(VERTEX, "Whether the server is ready for requests", _flags("ready"), unready=_flags("ready"))
    predict = _post(VERTEX, f"Predictions of {model.name}", content, _predictions("predictions"), _MESSAGE)
    routes = [(config.aip_health_route, health), (config.aip_predict_route, predict)]
    return [{str(path): operations} for path, operations in routes if path]


def _model_paths(model: Artifact) -> JSON:
    """Return the paths that name a model, and those that name its version too."""
    paths = {f"/models/{model.name}/predict": _predict(model)}
    ready = {"type": "object", "required": ["name", "ready"]}
    for path in (model.name, f"{model.name}/versions/{model.version}"):
        v1, v2, title = f"/v1/models/{path}", f"/v2/models/{path}", f"{model.name}: "
        paths |= {
            v2: _get(V2, title + "its tensors", _METADATA),
            f"{v2}/ready": _get(V2, title + "whether it is ready", ready, unready=ready),
            f"{v2}/config": _get(V2, title + "Triton's configuration", {"type": "object"}),
            f"{v2}/stats": _get(V2, title + "statistics", _STATISTICS),
            f"{v2}/infer": _infer(model),
            v1: _get(V1, title + "whether it is ready", ready, unready=ready),
            f"{v1}:predict": _predict_v1(model),
        }
    return paths


def _infer(model: Artifact) -> JSON:
    inputs = [
        {"name": name, "shape": [1], "datatype": v2_tensors.DATATYPE, "data": [value]}
        for name, value in _example(model).items()
    ]
    content = {
        "application/json": {"schema": _INFER_REQUEST, "example": {"inputs": inputs}},
        "application/octet-stream": {},
    }
    more: JSON = {"application/octet-stream": {}}
    summary = f"Predictions of {model.name}"
    operation = _post(V2, summary, content, _INFER_REPLY, _MESSAGE, more=more)
    operation["post"]["parameters"] = [
        {
            "name": JSON_LENGTH,
            "in": "header",
            "description": "bytes of JSON, where binary tensors follow it",
            "schema": {"type": "integer", "minimum": 1},
        }
    ]
    return operation


def _predict_v1(model: Artifact) -> JSON:
    schema = {
        "type": "object",
        "properties": {
            "instances": {"$ref": f"#/components/schemas/{model.name}.instances"},
            "inputs": {"$ref": f"#/components/schemas/{model.name}.inputs"},
            "signature_name": {"enum": [SIGNATURE, None]},
        },
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    }
    content = {"application/json": {"schema": schema, "example": {"instances": [_example(model)]}}}
    reply = {"anyOf": [_predictions("predictions"), _predictions("outputs")]}
    return _post(V1, f"Predictions of {model.name}", content, reply, _MESSAGE)


def _predict(model: Artifact) -> JSON:
    example = _example(model)
    reply = {
        "type": "object",
        "required": ["prediction", "model", "version", "request_id"],
        "properties": {
            "prediction": {"type": "array", "items": {"type": "number"}, "minItems": 1},
            "model": {"const": model.name},
            "version": {"const": model.version},
            "request_id": {"type": "string"},
        },
    }
    content = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{model.name}.native"}, "example": example},
        "text/csv": {"schema": {"type": "string"}, "example": _csv(example)},
    }
    return _post(NATIVE, f"Predictions of {model.name}", content, reply, _NATIVE_ERROR, unfit=_UNFIT)


def _row(model: Artifact) -> JSON:
    return {
        "type": "object",
        "description": f"{model.manifest['title']}: one row",
        "required": list(model.schema.names),
        "properties": {feature.name: _number(feature) for feature in model.schema.features},
        "additionalProperties": False,
        "examples": [_example(model)],
    }


def _native(model: Artifact, max_rows: int) -> JSON:
    row = {"$ref": f"#/components/schemas/{model.name}.row"}
    columns = {
        feature.name: {"type": "object", "additionalProperties": _number(feature), "minProperties": 1}
        for feature in model.schema.features
    }
    return {
        "anyOf": [
            {**row, "description": "one record"},
            {"type": "array", "items": row, "minItems": 1, "maxItems": max_rows},
            {
                "type": "object",
                "description": "columns, as DataFrame.to_json() writes them",
                "required": list(columns),
                "properties": columns,
                "additionalProperties": False,
            },
            {
                "type": "object",
                "description": "a table",
                "required": ["columns", "data"],
                "properties": {
                    "columns": _columns(model),
                    "data": _lists(model, max_rows, in_order=False),
                    "index": {},
                },
                "additionalProperties": False,
            },
        ]
    }


def _instances(model: Artifact, max_rows: int) -> JSON:
    row = {"$ref": f"#/components/schemas/{model.name}.row"}
    forms = [{"type": "array", "items": row, "minItems": 1, "maxItems": max_rows}, _lists(model, max_rows)]
    if len(model.schema.names) == 1:
        forms.append({"type": "array", "items": _number(model.schema.features[0]), "minItems": 1, "maxItems": max_rows})
    return {"anyOf": forms}


def _inputs(model: Artifact, max_rows: int) -> JSON:
    columns = {feature.name: _column(feature, max_rows) for feature in model.schema.features}
    return {
        "anyOf": [
            {"type": "object", "required": list(columns), "properties": columns, "additionalProperties": False},
            {"$ref": f"#/components/schemas/{model.name}.instances"},
        ]
    }


def _column(feature: Feature, max_rows: int) -> JSON:
    """Return the schema of a column of shape `[n]` or `[n, 1]`."""
    cell = _number(feature)
    forms = [cell, {"type": "array", "items": cell, "minItems": 1, "maxItems": 1}]
    return {"anyOf": [{"type": "array", "items": form, "minItems": 1, "maxItems": max_rows} for form in forms]}


def _columns(model: Artifact) -> JSON:
    names = list(model.schema.names)
    return {
        "type": "array",
        "items": {"enum": names},
        "uniqueItems": True,
        "minItems": len(names),
        "maxItems": len(names),
    }


def _lists(model: Artifact, max_rows: int, *, in_order: bool = True) -> JSON:
    """Return the schema of rows as lists, in the schema's order or in one that the request gives."""
    width = len(model.schema.names)
    row: JSON = {"type": "array", "items": {"type": "number"}, "minItems": width, "maxItems": width}
    if in_order:
        row["prefixItems"] = [_number(feature) for feature in model.schema.features]
    return {"type": "array", "items": row, "minItems": 1, "maxItems": max_rows}


def _number(feature: Feature) -> JSON:
    """Return the schema of a feature: its limits are those of the model, its description has the training range."""
    seen = f"{feature.minimum} to {feature.maximum} in training"
    parts = [feature.description, feature.unit and f"({feature.unit})", seen]
    limits = {"minimum": feature.lowest, "maximum": feature.highest}
    return {
        "type": "number",
        "description": " ".join(filter(None, parts)),
        **{name: limit for name, limit in limits.items() if math.isfinite(limit)},
    }


def _example(model: Artifact) -> dict[str, float]:
    return dict(zip(model.schema.names, model.golden_rows[0].tolist()))


def _csv(row: Mapping[str, float]) -> str:
    return ",".join(row) + "\n" + ",".join(map(repr, row.values())) + "\n"


def _flags(*names: str) -> JSON:
    return {"type": "object", "required": list(names), "properties": {name: {"type": "boolean"} for name in names}}


def _predictions(key: str) -> JSON:
    values = {"type": "array", "items": {"type": "number"}, "minItems": 1}
    return {"type": "object", "required": [key], "properties": {key: values}, "additionalProperties": False}


def _get(
    tag: str, summary: str, schema: JSON | None, *, html: bool = False, text: bool = False, unready: JSON | None = None
) -> JSON:
    content: JSON = {} if schema is None else {"application/json": {"schema": schema}}
    content |= {"text/html": {"schema": {"type": "string"}}} if html else {}
    content |= {name: {"schema": {"type": "string"}} for name in _TEXT_TYPES} if text else {}
    responses: JSON = {"200": {"description": "success", "content": content}}
    if unready:
        responses["503"] = {"description": "not ready", "content": {"application/json": {"schema": unready}}}
    return {"get": {"tags": [tag], "summary": summary, "responses": responses}}


def _post(
    tag: str,
    summary: str,
    content: JSON,
    reply: JSON,
    error: JSON,
    *,
    more: Mapping[str, JSON] | None = None,
    unfit: Mapping[str, str] | None = None,
) -> JSON:
    responses: JSON = {
        "200": {"description": "success", "content": {"application/json": {"schema": reply}, **(more or {})}}
    }
    for status, description in {**_FAILURES, **(unfit or {})}.items():
        responses[status] = {"description": description, "content": {"application/json": {"schema": error}}}
    body = {"required": True, "content": content}
    return {"post": {"tags": [tag], "summary": summary, "requestBody": body, "responses": responses}}
