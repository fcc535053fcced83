"""The form of a network's graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from model.engine.graph import INPUT_NAME, OUTPUT_NAME

# An IR version that older runtimes load, too.
_IR_VERSION = 10
_ONNX_OPSET = 21


def to_onnx(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    *,
    n_features: int,
    n_outputs: int = 1,
    constants: Sequence[onnx.TensorProto] = (),
) -> bytes:
    """Return nodes as one checked ONNX graph, `X` `(n_rows, n_features)` float64 to `y` `(n_rows, n_outputs)`."""
    double = onnx.TensorProto.DOUBLE
    graph = onnx.helper.make_graph(
        nodes,
        name,
        [onnx.helper.make_tensor_value_info(INPUT_NAME, double, ["n_rows", n_features])],
        [onnx.helper.make_tensor_value_info(OUTPUT_NAME, double, ["n_rows", n_outputs])],
        constants,
    )
    model = onnx.helper.make_model(
        graph,
        producer_name="tabserve",
        ir_version=_IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", _ONNX_OPSET)],
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
