"""Explanations as SageMaker Clarify gives them: which rows an expression of JMESPath chooses, and the reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import BodyError
from app.protocols import explanations, formats, tables
from app.protocols.endpoint import Answer
from app.web.body import CSV_TYPE
from app.web.reply import JSON_TYPE, Reply, to_json
from model import BOOLEAN, CATEGORY, Category

HEADER = "X-Amzn-SageMaker-Enable-Explanations"
KEY = "HTTP_X_AMZN_SAGEMAKER_ENABLE_EXPLANATIONS"  # in a request's environment
# Parts of a condition. Others make lists and objects, which a short expression can make very long.
_CONDITIONS = {
    *("comparator", "and_expression", "or_expression", "not_expression", "field", "current", "identity", "literal"),
    *("index", "index_expression", "subexpression", "function_expression"),
}
_MAX_LENGTH = 64  # of an expression, as SageMaker has it
PARAMETER = {
    "name": HEADER,
    "in": "header",
    "description": "an expression of JMESPath that chooses the rows to explain by their answers; `true` for all",
    "schema": {"type": "string", "minLength": 1, "maxLength": _MAX_LENGTH},
}


def encode(answer: Answer, predictions: NDArray[np.float64] | list[Category], expression: str) -> Reply:
    """Return the predictions as text in CSV or JSON, and the contributions of the rows that the expression chooses.

    Raises `BodyError` for an expression that cannot be evaluated, `ExplanationError` if nothing is offered.
    """
    listed = predictions.tolist() if isinstance(predictions, np.ndarray) else predictions
    records = [each if isinstance(each, list) else [each] for each in listed]
    chosen = _chosen(records, expression)
    explained: list[Any] = [None] * len(records)
    if chosen:
        found = explanations.explain(answer._replace(X=answer.X[chosen]))
        kinds = {
            feature.name: "categorical" if feature.type in (CATEGORY, BOOLEAN) else "numerical"
            for feature in answer.model.schema.features
        }
        heads = [{"feature_header": name, "feature_type": kinds.get(name, "numerical")} for name in found.names]
        for row, numbers in zip(chosen, found.contributions.tolist()):
            explained[row] = [
                {**head, "attributions": [{"attribution": [number]}]} for head, number in zip(heads, numbers)
            ]
    as_csv = formats.reply_type(answer.environ, (JSON_TYPE, CSV_TYPE)) == CSV_TYPE
    text = tables.to_csv(predictions) if as_csv else to_json({"predictions": predictions}).body.decode()
    kind = CSV_TYPE if as_csv else JSON_TYPE
    return to_json(
        {
            "version": "1.0",
            "predictions": {"content_type": kind, "data": text},
            "explanations": {"kernel_shap": explained},
        }
    )


def _chosen(records: Sequence[list[Any]], expression: str) -> list[int]:
    """Return the numbers of the rows for whose answers the expression is true."""
    import jmespath  # here, since few requests need it

    if not 0 < len(expression) <= _MAX_LENGTH:
        raise BodyError(f"{HEADER} has {len(expression)} characters, not 1 to {_MAX_LENGTH}")
    chosen = []
    try:
        compiled = jmespath.compile(expression)
        is_condition = _parts(compiled.parsed) <= _CONDITIONS
        for number, record in enumerate(records):
            found = compiled.search(record) if is_condition else None
            if type(found) is not bool:
                raise BodyError(f"{HEADER} is not a condition that is true or false for a row, such as [0]>`0.8`")
            chosen += [number] if found else []
    except (jmespath.exceptions.JMESPathError, ValueError, TypeError, RecursionError) as error:
        raise BodyError(f"{HEADER} is not an expression of JMESPath that can be evaluated: {error}") from None
    return chosen


def _parts(parsed: Any) -> set[str]:
    """Return the kinds of parts of a parsed expression."""
    return {parsed["type"]}.union(*(_parts(child) for child in parsed["children"]))
