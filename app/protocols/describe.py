"""How endpoints describe themselves in the OpenAPI document: schemas of rows, and operations."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from csv import writer
from typing import Any

from app.protocols.classification import PREDICT, PREDICT_PROBA
from app.web.body import ARROW_TYPE, CSV_TYPE, JSON_LINES_TYPES, NPY_TYPE
from model import BOOLEAN, CATEGORY, DATE, ERROR, INTEGER, MAX_LISTED, Artifact, Feature, described

JSON = dict[str, Any]

NATIVE, V2, V1 = "Native", "Open Inference Protocol V2", "KServe V1 and TensorFlow Serving"
MLFLOW, VERTEX, MCP, SERVICE = "MLflow and SageMaker", "Vertex AI", "Model Context Protocol", "Service"

NATIVE_ERROR = {"$ref": "#/components/schemas/Error"}
MESSAGE = {"$ref": "#/components/schemas/Message"}
MLFLOW_ERROR = {"$ref": "#/components/schemas/MLflowError"}
RPC_ERROR = {"$ref": "#/components/schemas/RpcError"}

_TEXT_TYPES = ("text/plain", "application/openmetrics-text")
MAX_ENUM = 200  # categories; a longer list is described
_MAX_WHOLE = 2**53 - 1  # up to which every whole number is a float64 of its own
NAMES: JSON = {"type": "object", "required": ["models"], "properties": {"models": {"type": "array"}}}
_FAILURES = {
    "400": "the body does not match its content type, or the model's inputs",
    "404": "model or version not found",
    "413": "too many bytes or rows",
    "415": "the content type or encoding is not supported",
    "503": "not ready, or overloaded; try again after Retry-After seconds",
}


def shared(model: Artifact, part: str) -> JSON:
    """Return a reference to one of the schemas of a model that several operations share."""
    return {"$ref": f"#/components/schemas/{model.name}.{part}"}


def row(model: Artifact) -> JSON:
    """Return the schema of one row as an object."""
    return {
        "type": "object",
        "description": f"{model.manifest.title}: one row{_derived(model)}",
        "required": [feature.name for feature in model.schema.features if not feature.missing],
        "properties": {feature.name: cell(feature) for feature in model.schema.features},
        "additionalProperties": False,
        "examples": [example(model)],
    }


def _derived(model: Artifact) -> str:
    """Return which features the model computes itself, as the end of a sentence; nothing if there are none."""
    found = "; ".join(f"{each.name} = {each.formula}" for each in model.manifest.derived)
    return f". The model computes {found}" if found else ""


def instances(model: Artifact, max_rows: int) -> JSON:
    """Return the schema of rows as a list of objects or of lists."""
    row = shared(model, "row")
    forms = [{"type": "array", "items": row, "minItems": 1, "maxItems": max_rows}, lists(model, max_rows)]
    if len(model.schema.names) == 1:
        forms.append({"type": "array", "items": cell(model.schema.features[0]), "minItems": 1, "maxItems": max_rows})
    return {"anyOf": forms}


def inputs(model: Artifact, max_rows: int) -> JSON:
    """Return the schema of rows as columns, or as `instances`."""
    columns = {feature.name: column(feature, max_rows) for feature in model.schema.features}
    return {
        "anyOf": [
            {"type": "object", "required": list(columns), "properties": columns, "additionalProperties": False},
            shared(model, "instances"),
        ]
    }


def column(feature: Feature, max_rows: int) -> JSON:
    """Return the schema of a column of shape `[n]` or `[n, 1]`."""
    bare = cell(feature)
    forms = [bare, {"type": "array", "items": bare, "minItems": 1, "maxItems": 1}]
    return {"anyOf": [{"type": "array", "items": form, "minItems": 1, "maxItems": max_rows} for form in forms]}


def columns(model: Artifact) -> JSON:
    """Return the schema of a list of all column names."""
    names = list(model.schema.names)
    return {
        "type": "array",
        "items": {"enum": names},
        "uniqueItems": True,
        "minItems": len(names),
        "maxItems": len(names),
    }


def lists(model: Artifact, max_rows: int, *, in_order: bool = True) -> JSON:
    """Return the schema of rows as lists, in the schema's order or in one that the request gives."""
    width = len(model.schema.names)
    cells = [cell(feature) for feature in model.schema.features]
    types = sorted({name for each in cells for name in _types(each)})
    items = {"type": types if len(types) > 1 else types[0]}
    row: JSON = {"type": "array", "items": items, "minItems": width, "maxItems": width}
    if in_order:
        row["prefixItems"] = cells
    return {"type": "array", "items": row, "minItems": 1, "maxItems": max_rows}


def cell(feature: Feature) -> JSON:
    """Return the schema of a feature's cells: its limits are those of the model, which for dates are in words."""
    types = [feature.type]  # as JSON calls all but categories
    limits = {"minimum": feature.lowest, "maximum": feature.highest}
    if feature.type == DATE:
        types, limits = ["string"], {}
    elif feature.type == CATEGORY:
        types = ["string" if feature.has_text else "number"]
    elif feature.type == BOOLEAN:  # or one of the numbers 0 and 1
        types, limits = [BOOLEAN, INTEGER], {"minimum": 0, "maximum": 1}
    elif feature.type == INTEGER:  # that limit says nothing of the model
        limits = {name: limit for name, limit in limits.items() if abs(limit) < _MAX_WHOLE}
    types += ["null"] if feature.missing else []
    parts = [feature.description, feature.unit and f"({feature.unit})", described(feature)]
    schema: JSON = {
        "type": types if len(types) > 1 else types[0],
        "description": " ".join(filter(None, parts)),
        **{name: limit for name, limit in limits.items() if abs(limit) < sys.float_info.max},
    }
    if feature.type == DATE and not feature.format:
        return {**schema, "anyOf": [{"format": "date"}, {"format": "date-time"}]}
    known: list[Any] = list(feature.categories)
    if known and feature.unseen == ERROR and len(known) <= MAX_ENUM:
        return {**schema, "enum": [*known, None] if feature.missing else known}
    return {**schema, "examples": known[:MAX_LISTED]} if known else schema


def _types(cell: JSON) -> list[str]:
    found: str | list[str] = cell["type"]
    return [found] if isinstance(found, str) else found


def prediction(model: Artifact) -> JSON:
    """Return the schema of one prediction: a number, or one of the labels."""
    classes = list(model.manifest.classes)
    schema: JSON = {"type": label_type(model)}
    if not classes:
        return schema
    return {**schema, "enum": classes} if len(classes) <= MAX_ENUM else {**schema, "examples": classes[:MAX_LISTED]}


def label_type(model: Artifact) -> str:
    """Return what JSON calls the type of a model's predictions."""
    target = model.schema.target
    if target.type == BOOLEAN:
        return BOOLEAN
    return "string" if target.has_text else "number"


def example(model: Artifact) -> dict[str, Any]:
    """Return a row that works."""
    cells = zip(model.schema.names, model.schema.cells, model.golden_rows[0].tolist())
    return {name: kind.cell(number) for name, kind, number in cells}


def csv(row: Mapping[str, Any]) -> str:
    """Return a row as a CSV table."""
    written = io.StringIO()
    writer(written, lineterminator="\n").writerows([row.keys(), map(_text, row.values())])
    return written.getvalue()


def table_bodies(model: Artifact, row: Mapping[str, Any]) -> JSON:
    """Return the content of requests in the formats for tables; those of Arrow and NumPy are binary.

    Of lines of JSON a document can only describe one, which is a row.
    """
    binary = {"schema": {"type": "string", "format": "binary"}}
    lines = {"schema": {"anyOf": [{"type": "string"}, shared(model, "row")]}, "example": f"{json.dumps(row)}\n"}
    as_csv = {"schema": {"type": "string"}, "example": csv(row)}
    return {CSV_TYPE: as_csv, ARROW_TYPE: binary, NPY_TYPE: binary, **dict.fromkeys(JSON_LINES_TYPES, lines)}


def table_replies() -> JSON:
    """Return the content of replies to clients that prefer Arrow or NumPy."""
    return {name: {"schema": {"type": "string", "format": "binary"}} for name in (ARROW_TYPE, NPY_TYPE)}


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    return repr(cell).lower() if isinstance(cell, bool) else str(cell)


def flags(*names: str) -> JSON:
    """Return the schema of an object of booleans."""
    return {"type": "object", "required": list(names), "properties": {name: {"type": "boolean"} for name in names}}


def predictions(model: Artifact, key: str) -> JSON:
    """Return the schema of predictions under a key: those of a classifier are labels, or probabilities on request."""
    each = prediction(model)
    if n_classes := len(model.manifest.classes):
        share = {"type": "number", "minimum": 0, "maximum": 1}
        of_row = {"type": "array", "items": share, "minItems": n_classes, "maxItems": n_classes}
        each = {"anyOf": [each, of_row]}
    values = {"type": "array", "items": each, "minItems": 1}
    return {"type": "object", "required": [key], "properties": {key: values}, "additionalProperties": False}


def method(model: Artifact) -> JSON:
    """Return the schema of a request's parameters, which may be an object that names the method."""
    methods: JSON = {"const": PREDICT}
    if model.manifest.classes:
        methods = {"enum": [PREDICT, PREDICT_PROBA], "description": "labels, or the probabilities of the classes"}
    return {"properties": {"predict_method": methods}}  # whatever is no object is ignored


def get(
    tag: str,
    summary: str,
    schema: JSON | None = None,
    *,
    html: bool = False,
    text: bool = False,
    unready: JSON | None = None,
) -> JSON:
    """Return an operation that reads nothing; `unready` is the schema of its 503."""
    content: JSON = {} if schema is None else {"application/json": {"schema": schema}}
    content |= {"text/html": {"schema": {"type": "string"}}} if html else {}
    content |= {name: {"schema": {"type": "string"}} for name in _TEXT_TYPES} if text else {}
    responses: JSON = {"200": {"description": "success", "content": content}}
    if unready:
        responses["503"] = {"description": "not ready", "content": {"application/json": {"schema": unready}}}
    return {"tags": [tag], "summary": summary, "responses": responses}


def post(
    tag: str,
    summary: str,
    content: JSON,
    reply: JSON,
    error: JSON,
    *,
    more: Mapping[str, JSON] | None = None,
    unfit: Mapping[str, str] | None = None,
) -> JSON:
    """Return an operation that reads a body; `more` are other types of reply, `unfit` further failures."""
    responses: JSON = {
        "200": {"description": "success", "content": {"application/json": {"schema": reply}, **(more or {})}}
    }
    for status, description in {**_FAILURES, **(unfit or {})}.items():
        responses[status] = {"description": description, "content": {"application/json": {"schema": error}}}
    body = {"required": True, "content": content}
    return {"tags": [tag], "summary": summary, "requestBody": body, "responses": responses}
