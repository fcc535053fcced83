"""A model as a tool of the Model Context Protocol: its description, the rows of a call, and the answer to it.

A call is one more request for predictions: the endpoint here has no path, and `mcp.py` gives its calls to the runner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from app.config import Config
from app.errors import BodyError
from app.protocols import describe, explanations, native, tables
from app.protocols.describe import JSON
from app.protocols.endpoint import Answer, Decoded, Endpoint, Request
from app.protocols.explanations import EXPLAIN, EXPLAINED, EXPLANATIONS, Explain
from app.protocols.intervals import DEFAULT_LEVEL, INTERVAL, LOWER, UPPER, level_of
from app.protocols.json_rpc import INTERNAL_ERROR, INVALID_PARAMS
from app.protocols.native import Asked
from app.web.refusal import Refusal, refuser
from app.web.reply import Reply, to_json
from model import AS_MISSING, CATEGORY, DATE, Artifact, Feature, Intervals, Matrix, described, shortened

ARGUMENTS = "tabserve.mcp.arguments"  # of a call in the environment of its request
ROWS = "rows"


class Wanted(NamedTuple):
    """The level of the intervals in an answer, if there are any, and whether it explains; None if it may."""

    level: float | None
    explains: bool | None


def endpoint() -> Endpoint:
    """Return the endpoint of calls. Its replies are what a tool answers, and its `describe` is the tool itself."""
    return Endpoint(name="mcp.call", rules=(), decode=_decode, encode=_encode, refuse=_refuse, describe=_describe)


def _render(refusal: Refusal) -> dict[str, Any]:
    code = INTERNAL_ERROR if refusal.status >= 500 else INVALID_PARAMS
    return {"code": code, "message": refusal.full_message()}


_refuse = refuser(_render, unfit=422)


def _decode(request: Request) -> Decoded:
    """Return the rows of a call, and which intervals and explanations the answer is to have."""
    arguments = request.environ[ARGUMENTS]
    if not isinstance(arguments, dict) or not isinstance(arguments.get(ROWS), list):
        raise BodyError(f"the arguments are not an object with {ROWS}, a list of objects with the model's features")
    unknown = [shortened(name) for name in arguments if name not in (ROWS, INTERVAL, EXPLAIN)]
    if unknown:
        raise BodyError(f"{unknown[0]!r} is not an argument; put features into the objects in {ROWS}")
    X = tables.from_records(arguments[ROWS], request.schema, max_rows=request.max_rows)
    level = arguments.get(INTERVAL)
    if level is not None:
        level = level_of(level, request.intervals, request.schema)
    elif request.intervals:
        level = _default_level(request.intervals)
    explains = arguments.get(EXPLAIN)
    if explains is not None and not isinstance(explains, bool):
        raise BodyError(f"{EXPLAIN} is neither true nor false")
    return Decoded(X, Wanted(level, explains))


def _default_level(intervals: Intervals) -> float | None:
    return DEFAULT_LEVEL if DEFAULT_LEVEL in intervals.half_widths else None


def _encode(answer: Answer) -> Reply:
    """Return an object with a prediction for each row, what it is about, and what to mind about the row."""
    model = answer.model
    level, explains = answer.detail
    rows: list[JSON] = [{"prediction": each} for each in np.asarray(answer.predictions).tolist()]
    if model.manifest.classes:
        for row, shares in zip(rows, native.probabilities(answer._replace(detail=Asked()))):
            row["probabilities"] = shares
    if level is not None and model.manifest.intervals:
        for row, *ends in zip(rows, *model.manifest.intervals.around(answer.y, level)):
            row[INTERVAL] = {"level": level, **dict(zip((LOWER, UPPER), map(float, ends)))}
    for row, warnings in zip(rows, _warnings(model, answer.X)):
        row["warnings"] = warnings
    target = model.schema.target
    about: JSON = {"target": target.name, "unit": target.unit, "model": model.name, "version": model.version}
    if _is_offered(model, len(rows)) if explains is None else explains:
        found = explanations.fields(answer, Explain())
        about[EXPLAINED] = found[EXPLAINED]
        for row, explanation in zip(rows, found[EXPLANATIONS]):
            row["explanation"] = explanation
    return to_json({"predictions": rows, **about, "request_id": answer.request_id})


def _is_offered(model: Artifact, n_rows: int) -> bool:
    """Return whether a model explains so many rows at once."""
    offer = model.manifest.explanations
    return offer is not None and n_rows <= offer.most_rows(offer.methods[0])


def _warnings(model: Artifact, X: Matrix) -> Iterator[list[str]]:
    """Yield for each row of `X` `(n_rows, n_features)` in which features it is unlike the rows of the training."""
    features = model.schema.features
    flags = np.column_stack([_is_strange(feature, column) for feature, column in zip(features, X.T)])
    for row, flagged in zip(X.tolist(), flags):
        yield [_warning(features[each], row[each]) for each in np.flatnonzero(flagged)]


def _is_strange(feature: Feature, column: Matrix) -> Any:
    """Return which values `(n_rows,)` are missing, an unseen category, or outside the training range.

    New dates are later than those of the training by nature.
    """
    missing = np.isnan(column)
    if feature.type == CATEGORY:
        return missing | (column >= len(feature.categories))
    return missing if feature.type == DATE else missing | (column < feature.minimum) | (column > feature.maximum)


def _warning(feature: Feature, number: float) -> str:
    """Return what is strange about a feature's number in the matrix."""
    if math.isnan(number):
        what = "is missing, or a category that training did not have" if feature.unseen == AS_MISSING else "is missing"
    elif feature.type == CATEGORY:
        what = "is a category that training did not have"
    else:
        what = f"is {number:g}, outside of what training had"
    return f"{feature.name} {what}: {described(feature)}"


def _describe(model: Artifact, config: Config) -> JSON:
    """Return the tool of a model, as `tools/list` has it."""
    target, manifest = model.schema.target, model.manifest
    unit = f" ({target.unit})" if target.unit else ""
    purpose = manifest.document.get("purpose")
    predicts = f"{target.name}, {target.description}{unit}" if target.description else f"{target.name}{unit}"
    about = [f"{manifest.title}. Predicts {predicts}.", str(purpose or ""), manifest.limits]
    return {
        "name": model.name,
        "title": manifest.title,
        "description": " ".join(filter(None, about)),
        "inputSchema": _input(model, config.max_rows),
        "outputSchema": _output(model),
        "annotations": {"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False},
    }


def _input(model: Artifact, max_rows: int) -> JSON:
    rows = {
        "type": "array",
        "description": "one object for each prediction",
        "items": describe.row(model),
        "minItems": 1,
        "maxItems": max_rows,
    }
    properties: JSON = {ROWS: rows}
    if intervals := model.manifest.intervals:
        properties[INTERVAL] = {"description": "the level of the prediction intervals", "enum": intervals.levels}
        if default := _default_level(intervals):
            properties[INTERVAL]["default"] = default
    if model.manifest.explanations:
        what = "whether the answer says what each feature contributed to it"
        properties[EXPLAIN] = {"type": "boolean", "description": what, "default": True}
    return {"type": "object", "required": [ROWS], "properties": properties, "additionalProperties": False}


def _output(model: Artifact) -> JSON:
    number = {"type": "number"}
    row: JSON = {
        "prediction": describe.prediction(model),
        "warnings": {
            "type": "array",
            "description": "in which features the row is unlike the rows of the training",
            "items": {"type": "string"},
        },
    }
    if model.manifest.classes:
        row["probabilities"] = {"type": "object", "additionalProperties": number}
    elif model.manifest.intervals:
        parts = dict.fromkeys(("level", LOWER, UPPER), number)
        row[INTERVAL] = {"type": "object", "required": list(parts), "properties": parts}
    explained, _ = explanations.described(model)
    if explained:
        row["explanation"] = explained[EXPLANATIONS]["items"]
    properties = {
        "predictions": {
            "type": "array",
            "items": {"type": "object", "required": ["prediction", "warnings"], "properties": row},
        },
        "target": {"const": model.schema.target.name},
        "unit": {"const": model.schema.target.unit},
        "model": {"const": model.name},
        "version": {"type": "integer"},
        "request_id": {"type": "string", "description": "with it, true values are sent to /feedback"},
    }
    required = list(properties)
    if explained:
        properties[EXPLAINED] = explained[EXPLAINED]
    return {"type": "object", "required": required, "properties": properties}
