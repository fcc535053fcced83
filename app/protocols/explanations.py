"""How a request asks why the model answers so, and how a reply says it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from app.errors import BodyError
from app.protocols.endpoint import Answer
from app.web.exchange import exchange_of
from model import EXPLAINED_BY, Artifact, Category, Explained, Matrix

EXPLAIN, TOP = "explain", "top"
EXPLAINED, EXPLANATIONS = "explained", "explanations"
OTHERS = "others"
JSON = dict[str, Any]


class Explain(NamedTuple):
    """Which explanations a request asks for: by which method, the usual one if None, and how many contributions."""

    method: str | None = None
    top: int | None = None


def asked(query: Mapping[str, Sequence[str]]) -> Explain | None:
    """Return what the parameters of a query ask for, None for no explanations. Raises `BodyError`."""
    sent = query[EXPLAIN][-1] if EXPLAIN in query else "false"
    if sent not in ("true", "false", *EXPLAINED_BY):
        raise BodyError(f"{EXPLAIN} in the query is none of: true, false, {', '.join(EXPLAINED_BY)}")
    top = None
    if TOP in query:
        digits = query[TOP][-1]
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 10 and int(digits)):
            raise BodyError(f"{TOP} in the query is not a whole number of at least 1")
        if sent == "false":
            raise BodyError(f"{TOP} in the query is a number of contributions; send {EXPLAIN}=true with it")
        top = int(digits)
    return None if sent == "false" else Explain(None if sent == "true" else sent, top)


def explain(answer: Answer, method: str | None = None) -> Explained:
    """Return what contributed to an answer, and have it counted. Raises `ExplanationError`."""
    exchange, started = exchange_of(answer.environ), time.perf_counter()
    found = exchange.explained = answer.model.explanations.explain(answer.X, method)
    if exchange.trace:
        exchange.trace.explained_seconds = time.perf_counter() - started
    return found


def fields(answer: Answer, wanted: Explain) -> JSON:
    """Return the fields of a reply in JSON: what is explained, and the explanation of each row.

    Raises `ExplanationError` if the model does not offer what is asked for.
    """
    found = explain(answer, wanted.method)
    offer = answer.model.manifest.explanations
    assert offer is not None
    return {EXPLAINED: offer.explains, EXPLANATIONS: rows(found, answer.model.manifest.classes, wanted.top)}


def rows(found: Explained, classes: Sequence[Category], top: int | None = None) -> list[JSON]:
    """Return the explanation of each row as an object; with `top` the largest contributions, and the sum of others.

    Base, contributions, others and residual, added from left to right, are the value.
    """
    names, of_rows = found.names, found.contributions
    if top is not None and top < len(names):
        explained = [_largest(*each, names, top) for each in zip(found.bases.tolist(), of_rows, found.values.tolist())]
    else:
        each_row = zip(found.bases.tolist(), of_rows.tolist(), found.residuals.tolist(), found.values.tolist())
        explained = [
            {"base": base, "contributions": dict(zip(names, numbers)), "residual": residual, "value": value}
            for base, numbers, residual, value in each_row
        ]
    if found.positions is not None:
        for row, position in zip(explained, found.positions.tolist()):
            row["class"] = classes[position]
    return explained


def _largest(base: float, numbers: Matrix, value: float, names: Sequence[str], top: int) -> JSON:
    order = np.argsort(-np.abs(numbers), kind="stable")
    shown = {names[place]: float(numbers[place]) for place in order[:top].tolist()}
    others = 0.0
    for place in order[top:].tolist():
        others += float(numbers[place])
    total = base
    for number in (*shown.values(), others):
        total += number
    return {"base": base, "contributions": shown, OTHERS: others, "residual": value - total, "value": value}


def described(model: Artifact) -> tuple[JSON, list[JSON]]:
    """Return the properties of a reply, and the parameters of a query, in the OpenAPI document; none if not offered."""
    offer = model.manifest.explanations
    if offer is None:
        return {}, []
    number: JSON = {"type": "number"}
    row: JSON = {
        "type": "object",
        "description": "base, contributions, others and residual, added from left to right in float64, are the value",
        "required": ["base", "contributions", "residual", "value"],
        "properties": {
            **dict.fromkeys(("base", "residual", "value", OTHERS), number),
            "contributions": {"type": "object", "additionalProperties": number},
        },
    }
    if model.manifest.classes:
        row["properties"]["class"] = {"description": "whose number is explained", "enum": list(model.manifest.classes)}
    properties = {
        EXPLAINED: {"const": offer.explains},
        EXPLANATIONS: {"type": "array", "items": row, "minItems": 1},
    }
    parameters: list[JSON] = [
        {
            "name": EXPLAIN,
            "in": "query",
            "description": f"whether the reply says what contributed to each answer; true is {offer.methods[0]}",
            "schema": {"enum": ["true", "false", *offer.methods], "default": "false"},
        },
        {
            "name": TOP,
            "in": "query",
            "description": f"how many contributions are given, the largest first; needs {EXPLAIN}",
            "schema": {"type": "integer", "minimum": 1},
        },
    ]
    return properties, parameters
