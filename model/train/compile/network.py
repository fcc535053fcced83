"""Networks, made into graphs of their weights alone: without PyTorch, which fitted them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx
from numpy.typing import NDArray

from model.engine.graph import INPUT_NAME, OUTPUT_NAME
from model.engine.steps import Step
from model.schema.features import Matrix
from model.train.compile import linear
from model.train.compile.onnx import to_onnx

ALGORITHM = "standardised multilayer perceptron (PyTorch)"
PACKAGES = ("joblib", "safetensors", "scikit-learn", "scipy", "torch")  # that determine the bits
SOFTMAX: Step = ("numpy softmax by column", ())
DECISION = "largest sum"


@runtime_checkable
class FittedNetwork(Protocol):
    """A fitted estimator that is a network: its weights as safetensors, and its architecture as in the manifest.

    `device_` is what it was fitted on, as facts for the manifest.
    """

    weights_: bytes
    architecture_: Mapping[str, Any]
    device_: Mapping[str, Any]

    def facts(self) -> dict[str, Any]:
        """Return its hyperparameters and the history of its training, for the manifest."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A network in the form that is served, on the columns that it sees. `x_mean` and `x_scale` are `(n_columns,)`."""

    content: bytes
    x_mean: NDArray[np.float64]
    x_scale: NDArray[np.float64]

    def scaled(self, block: Matrix) -> Matrix:
        """Return columns `(n_rows, n_columns)` as the first layer takes them."""
        with np.errstate(over="ignore"):
            found: Matrix = (block - self.x_mean) / self.x_scale
        return found


def owns(estimator: Any) -> bool:
    """Return whether a fitted estimator is a network."""
    return isinstance(estimator, FittedNetwork)


def columns(estimator: Any, table: Any) -> Matrix:
    """Return the columns of what the estimator's `predict` takes, `(n_rows, n_columns)`.

    Raises `ExportError` for columns of text.
    """
    return linear.columns(estimator, table)


def to_graph(weights: bytes, n_outputs: int) -> Graph:
    """Return a network as one ONNX graph, `X` `(n_rows, n_columns)` float64 to `y` `(n_rows, n_outputs)`.

    It has the network's operations in the same order, in float64.
    """
    from safetensors import numpy as safetensors

    values: dict[str, NDArray[np.float64]] = safetensors.load(weights)
    nodes, constants = [], []

    def constant(name: str, value: NDArray[np.float64]) -> str:
        constants.append(onnx.numpy_helper.from_array(value, name))
        return name

    def add(operator: str, *inputs: str, output: str, **attributes: int) -> str:
        nodes.append(onnx.helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    Z = add("Sub", INPUT_NAME, constant("x_mean", values["x_mean"]), output="centred")
    Z = add("Div", Z, constant("x_scale", values["x_scale"]), output="Z")
    n_layers = sum(name.endswith(".weight") for name in values)
    for number in range(n_layers):
        if number:
            Z = add("Relu", Z, output=f"relu_{number}")
        weight = constant(f"weight_{number}", values[f"layers.{number}.weight"])
        bias = constant(f"bias_{number}", values[f"layers.{number}.bias"])
        Z = add("Gemm", Z, weight, bias, output=f"layer_{number}", transB=1)
    Z = add("Mul", Z, constant("y_scale", values["y_scale"]), output="unscaled")
    add("Add", Z, constant("y_mean", values["y_mean"]), output=OUTPUT_NAME)
    n_columns = len(values["x_mean"])
    content = to_onnx("mlp", nodes, n_features=n_columns, n_outputs=n_outputs, constants=constants)
    return Graph(content, values["x_mean"], values["x_scale"])
