"""Transformed targets: how scikit-learn turns a regressor's predictions back into the table's, as steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)

from model.engine.steps import Step
from model.errors import ExportError

_FUNCTIONS: Mapping[Any, str] = {
    np.exp: "exp",
    np.exp2: "exp2",
    np.expm1: "expm1",
    np.log: "log",
    np.log1p: "log1p",
    np.sqrt: "sqrt",
    np.square: "square",
    np.cbrt: "cbrt",
}


def steps_back(transformer: Any) -> tuple[Step, ...]:
    """Return the steps from predictions of a fitted transformer's targets to those of the table.

    Raises `ExportError` for a transformer that no step repeats.
    """
    if isinstance(transformer, Pipeline):
        return tuple(step for _, each in reversed(transformer.steps) for step in steps_back(each))
    kind = type(transformer)
    if kind is FunctionTransformer and not transformer.inv_kw_args:
        function = transformer.inverse_func
        if function is None:
            return ()
        if function in _FUNCTIONS:
            return ((_FUNCTIONS[function], ()),)
        name = getattr(function, "__name__", type(function).__name__)
        raise ExportError(
            f"the target is turned back by the function {name!r}, which cannot be compiled; use one of numpy's: "
            f"{', '.join(each.__name__ for each in _FUNCTIONS)}"
        )
    if kind in (StandardScaler, RobustScaler, MaxAbsScaler):
        scale = transformer.scale_  # None, too, without scaling
        middle = getattr(transformer, "mean_" if kind is StandardScaler else "center_", None)
        return (
            *(() if scale is None else (("multiply", (float(scale[0]),)),)),
            *(() if middle is None else (("add", (float(middle[0]),)),)),
        )
    if kind is MinMaxScaler:
        return (("add", (-float(transformer.min_[0]),)), ("divide", (float(transformer.scale_[0]),)))
    if kind is PowerTransformer and transformer.method == "yeo-johnson":
        scaled = steps_back(transformer._scaler) if transformer.standardize else ()
        return (*scaled, ("yeo-johnson back", (float(transformer.lambdas_[0]),)))
    raise ExportError(
        f"the target is turned back by {kind.__name__}, which cannot be compiled; use a function of numpy, such as "
        "func=numpy.log1p with inverse_func=numpy.expm1, StandardScaler, MinMaxScaler or PowerTransformer()"
    )
