"""How a request asks for a classifier's probabilities, in protocols in which it says a method's name."""

from __future__ import annotations

from typing import Any

from app.errors import BodyError
from model import BOOLEAN, CATEGORY, Schema

PREDICT, PREDICT_PROBA = "predict", "predict_proba"  # as scikit-learn and the servers around it call them


def has_classes(schema: Schema) -> bool:
    """Return whether a model is a classifier."""
    return schema.target.type in (CATEGORY, BOOLEAN)


def wants_probabilities(parameters: Any, schema: Schema) -> bool:
    """Return whether the parameters of a request have `predict_method` `predict_proba`; all others are ignored.

    Raises `BodyError` for a method that the model does not have.
    """
    method = parameters.get("predict_method", PREDICT) if isinstance(parameters, dict) else PREDICT
    if method == PREDICT:
        return False
    if not has_classes(schema):
        raise BodyError("predict_method is not 'predict', and the model is a regression, which has no other")
    if method != PREDICT_PROBA:
        raise BodyError("predict_method is neither 'predict' nor 'predict_proba'")
    return True
