"""A model in a file of ONNX, which any converter may have written: asked as the file has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
from onnx import TensorProto

from model.errors import ExportError
from model.schema.features import Matrix

_DTYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.INT64: np.int64,
    TensorProto.STRING: object,
}
PACKAGES: tuple[str, ...] = ()  # beside the runtime, which every model is served by
_NAMES = {TensorProto.FLOAT: "float", TensorProto.DOUBLE: "double", TensorProto.INT64: "int64"}


class OnnxModel:
    """A model in a file of ONNX: one input of all columns, or one for each; a number a row, or label and probabilities.

    `classes_` are there for a classifier alone. Runs in one thread, as a server does.
    """

    def __init__(self, content: bytes) -> None:
        """Read the file's content. Raises `ExportError` for inputs or outputs of another kind."""
        self.model = onnx.load_model_from_string(content)
        constants = {each.name for each in self.model.graph.initializer}
        self.inputs = [each for each in self.model.graph.input if each.name not in constants]
        for each in self.inputs:
            if each.type.tensor_type.elem_type not in _DTYPES or not 1 <= len(_shape(each)) <= 2:
                raise ExportError(
                    f"its input {each.name!r} is {_described(each)}; numbers of float, double or int64 (n_rows, "
                    "n_columns) can be served, or one input (n_rows, 1) for each column, which may be a string, too"
                )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        widths = [shape[1] if len(shape := _shape(each)) == 2 else 1 for each in self.inputs]
        self.is_matrix = len(self.inputs) == 1 and widths != [1]
        if not self.is_matrix:
            self.feature_names_in_ = [each.name for each in self.inputs]
        elif widths[0]:
            self.n_features_in_ = widths[0]
        if len(self.model.graph.output) > 1:
            self.classes_ = self._classes()

    def _classes(self) -> Sequence[Any]:
        """Return the labels of a classifier, of the operator that gives its dictionaries or, last, its labels."""
        graph = self.model.graph
        makers = {name: node for node in graph.node for name in node.output}
        label, probabilities = makers.get(graph.output[0].name), makers.get(graph.output[1].name)
        while label and label.op_type in ("Identity", "Cast", "Reshape"):
            label = makers.get(label.input[0])
        zipped = probabilities if probabilities and probabilities.op_type == "ZipMap" else None
        for node in filter(None, (zipped, label)):
            for attribute in node.attribute:
                labels = [each.decode() for each in attribute.strings] or list(attribute.ints)
                if attribute.name.startswith("classlabels") and labels:
                    return labels
        raise ExportError(
            "it has several outputs, and neither dictionaries of probabilities nor an operator with the labels behind "
            "the first; give it one output, or convert it with the option zipmap"
        )

    def predict(self, table: Any) -> Any:
        """Return a number, or a label, for each row of a frame or an array `(n_rows, n_columns)`."""
        return np.asarray(self._run(table)[0]).reshape(-1)

    def predict_proba(self, table: Any) -> Matrix:
        """Return the probability of each class, `(n_rows, n_classes)`."""
        found = self._run(table)[1]
        if isinstance(found, list):  # a dictionary for each row
            found = [[row[label] for label in self.classes_] for row in found]
        return np.asarray(found, dtype=np.float64)

    def _run(self, table: Any) -> list[Any]:
        if self.is_matrix:
            (each,) = self.inputs
            cells = table.to_numpy(dtype=np.float64, na_value=np.nan) if isinstance(table, pd.DataFrame) else table
            return list(self._session.run(None, {each.name: _typed(cells, each)}))
        columns = {each.name: table[each.name].to_numpy(dtype=object) for each in self.inputs}
        return list(
            self._session.run(
                None, {each.name: _typed(columns[each.name].reshape(-1, 1), each) for each in self.inputs}
            )
        )


def load(path: Path) -> OnnxModel:
    """Return the model in a file. Raises `ExportError` for one of another kind."""
    try:
        return OnnxModel(path.read_bytes())
    except ExportError as error:
        raise ExportError(f"{path.name} cannot be served: {error}") from None


def columns(model: OnnxModel, table: Any) -> Matrix:
    """Return the model's answers for a table, by which unseen categories are told apart."""
    found = model.predict_proba(table) if hasattr(model, "classes_") else model.predict(table)
    return np.asarray(found, dtype=np.float64).reshape(len(table), -1)


def _typed(cells: Any, value: onnx.ValueInfoProto) -> Any:
    """Return cells as an input takes them. Raises `ValueError` for a missing value that it has no place for."""
    kind = value.type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, TensorProto.DOUBLE) and pd.isna(cells).any():
        raise ValueError(f"{value.name} is missing in a row")
    with np.errstate(over="ignore"):
        typed = np.asarray(cells).astype(_DTYPES[kind])
    return typed if len(_shape(value)) == 2 else typed.reshape(-1)


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Return the shape of a value, 0 for a dimension of any size."""
    return [each.dim_value for each in value.type.tensor_type.shape.dim]


def _described(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    return f"{_NAMES.get(kind, TensorProto.DataType.Name(kind).lower())} {_shape(value)}"
