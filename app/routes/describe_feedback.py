"""How POST /feedback describes itself in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence

from app.config import Config
from app.protocols import describe
from app.protocols.describe import JSON
from app.serving.loaded import Loaded
from app.web.exchange import REQUEST_ID
from model import listed


def describe_feedback(
    config: Config, loaded: Loaded, *, max_row: int, max_truth: float, outcomes: Sequence[str]
) -> JSON:
    """Return the operation that takes true values of the loaded models."""
    models = loaded.models.values()
    types = sorted({describe.label_type(model) for model in models} | {"number"})
    truth: JSON = {"type": types if len(types) > 1 else types[0], "minimum": -max_truth, "maximum": max_truth}
    if labels := {model.name: model.manifest.classes for model in models if model.manifest.classes}:
        known = "; ".join(f"{listed(classes)} for {name}" for name, classes in labels.items())
        truth["description"] = f"a number, or a label of the classifier: {known}"
    request_id = {"type": "string", "pattern": f"^{REQUEST_ID.pattern}$"}
    replace = {"type": "boolean", "default": False, "description": "whether it replaces an earlier truth"}
    one = {
        "type": "object",
        "required": ["request_id", "truth"],
        "properties": {
            "request_id": request_id,
            "row": {"type": "integer", "minimum": 0, "maximum": max_row, "description": "in the request, from 0"},
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
                "items": {**truth, "type": [*types, "null"]},
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
        "required": [*outcomes, "conflicting_rows", "unknown_rows"],
        "properties": {
            **{name: {"type": "integer", "minimum": 0} for name in outcomes},
            "conflicting_rows": rows_of,
            "unknown_rows": rows_of,
        },
    }
    content = {"application/json": {"schema": {"anyOf": [item, many]}}}
    summary = "Report the true values of predictions"
    failures = {
        "404": "none of the predictions is known, or the server keeps no prediction log",
        "422": "malformed request ids, rows or true values, values far beyond the target's range in training, or "
        "labels that the classifier does not have",
    }
    return describe.post(describe.NATIVE, summary, content, reply, describe.NATIVE_ERROR, unfit=failures)
