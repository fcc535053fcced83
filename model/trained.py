"""The candidate that every algorithm passes to the export, and the common form of their ONNX graphs.

Knows no algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from model.bit_vectors import Forest
from model.engine import Predict
from model.graph import INPUT_NAME, OUTPUT_NAME
from model.schema import Matrix

# The highest IR version that requires nothing newer than ai.onnx.ml 5, so that older runtimes load the graphs, too.
_IR_VERSION = 10
_ONNX_OPSET = 21


@dataclass(frozen=True, slots=True)
class Candidate:
    """A fitted model of any library, with its compiled graph.

    `predict` is the fitted model and `graph` the compiled one. Their predictions may differ by the relative
    `tolerance`; at 0 they have the same bits. `lowest` and `highest` `(n_features,)` are the limits of accepted values.
    `split_rows` `(n_rows, n_features)` are rows where the two would differ first, if there are any. `forest` has the
    same trees for large batches, if they fit. `summary` describes the model's size, `packages` determine its bits.
    `files` go into the artifact, `facts` into its manifest.
    """

    algorithm: str
    summary: str
    predict: Predict
    graph: bytes
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    split_rows: Matrix
    packages: tuple[str, ...]
    files: Mapping[str, bytes]
    facts: Mapping[str, Any]
    forest: Forest | None = None
    tolerance: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)


def to_onnx(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    *,
    n_features: int,
    constants: Sequence[onnx.TensorProto] = (),
    opsets: Mapping[str, int] | None = None,
) -> bytes:
    """Return nodes as one checked ONNX graph, `X` `(n_rows, n_features)` float64 to `y` `(n_rows, 1)`.

    `opsets` are those of domains other than ONNX's own.
    """
    double = onnx.TensorProto.DOUBLE
    graph = onnx.helper.make_graph(
        nodes,
        name,
        [onnx.helper.make_tensor_value_info(INPUT_NAME, double, ["n_rows", n_features])],
        [onnx.helper.make_tensor_value_info(OUTPUT_NAME, double, ["n_rows", 1])],
        constants,
    )
    model = onnx.helper.make_model(
        graph,
        producer_name="tabserve",
        ir_version=_IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid(*item) for item in {"": _ONNX_OPSET, **(opsets or {})}.items()],
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
