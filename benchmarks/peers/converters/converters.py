"""The converters: each takes a fitted model and returns how to predict with what it made of it, on one thread."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

Predict = Callable[[Any], Any]
Convert = Callable[[Any, Any], Predict]  # takes a fitted model, and rows of the type that it is to take


def onnx(fitted: Any, rows: Any) -> Predict:
    """Convert with skl2onnx, onnxmltools, or by CatBoost itself, and run by ONNX Runtime."""
    import onnxmltools
    import skl2onnx
    from onnxmltools.convert.common import data_types
    from skl2onnx.common import data_types as sklearn_types

    family = type(fitted).__module__.partition(".")[0]
    kinds = sklearn_types if family == "sklearn" else data_types
    kind = kinds.DoubleTensorType if rows.dtype == np.float64 else kinds.FloatTensorType
    types = [("X", kind([None, rows.shape[1]]))]
    if family == "sklearn":
        options = {"zipmap": False} if hasattr(fitted, "classes_") else None
        graph = skl2onnx.convert_sklearn(fitted, initial_types=types, options=options).SerializeToString()
    elif family == "lightgbm":
        graph = onnxmltools.convert_lightgbm(fitted, initial_types=types, zipmap=False).SerializeToString()
    elif family == "xgboost":
        graph = onnxmltools.convert_xgboost(fitted, initial_types=types).SerializeToString()
    else:  # onnxmltools calls CatBoost with values that it does not take any more
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            fitted.save_model(file.name, format="onnx")
            graph = file.read()
    session = run_by_onnxruntime(graph)
    name, result = session.get_inputs()[0].name, session.get_outputs()[-1].name

    def predict(X: Any) -> Any:
        found = session.run([result], {name: X})[0]
        return np.array([list(row.values()) for row in found]) if isinstance(found, list) else found

    return predict


def treelite(fitted: Any, rows: Any) -> Predict:
    """Convert to Treelite's form, and predict by GTIL."""
    import treelite
    from treelite import gtil

    family = type(fitted).__module__.partition(".")[0]
    if family == "sklearn":
        model = treelite.sklearn.import_model(fitted)
    elif family == "lightgbm":
        model = treelite.frontend.from_lightgbm(fitted.booster_)
    elif family == "xgboost":
        model = treelite.frontend.from_xgboost(fitted.get_booster())
    else:
        raise TypeError(f"Treelite has no converter for {type(fitted).__name__}")
    return lambda X: gtil.predict(model, X, nthread=1)


def hummingbird(fitted: Any, rows: Any) -> Predict:
    """Convert to tensor operations of PyTorch."""
    import torch
    from hummingbird.ml import constants, convert

    torch.set_num_threads(1)
    model = convert(fitted, "pytorch", rows[:1], extra_config={constants.TREE_OP_PRECISION_DTYPE: str(rows.dtype)})
    return model.predict_proba if hasattr(fitted, "classes_") else model.predict


def run_by_onnxruntime(graph: bytes) -> Any:
    """Return a session of ONNX Runtime with one thread, as Tabserve's engine has it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


CONVERTERS: dict[str, Convert] = {
    "onnx": onnx,
    "treelite": treelite,
    "hummingbird": hummingbird,
}
