"""The form of every compiled graph, and the graph of trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from model.engine.graph import INPUT_NAME, OUTPUT_NAME
from model.train.compile.trees import Trees

# The highest IR version that requires nothing newer than ai.onnx.ml 5, so that older runtimes load the graphs, too.
_IR_VERSION = 10
_ONNX_OPSET = 21
_ONNX_ML_OPSET = 5


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


def trees_to_onnx(name: str, trees: Trees) -> bytes:
    """Return trees as one ONNX graph with a single TreeEnsemble, as `to_onnx` does."""
    is_leaf = trees.is_leaf
    # TreeEnsemble numbers splits and leaves separately and requires a split in each tree: in a tree of one leaf the
    # leaf is also a split, both of whose children are the leaf.
    is_split = ~is_leaf
    is_split[trees.roots] = True
    number_of_split, number_of_leaf = np.cumsum(is_split) - 1, np.cumsum(is_leaf) - 1
    true, false = trees.left[is_split], trees.right[is_split]
    node = onnx.helper.make_node(
        "TreeEnsemble",
        [INPUT_NAME],
        [OUTPUT_NAME],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function=1,  # SUM
        post_transform=0,  # NONE
        tree_roots=number_of_split[trees.roots].tolist(),
        nodes_modes=_vector("nodes_modes", onnx.TensorProto.UINT8, [0] * len(true)),  # BRANCH_LEQ
        nodes_featureids=trees.feature[is_split].tolist(),
        nodes_splits=_vector("nodes_splits", onnx.TensorProto.DOUBLE, trees.threshold[is_split].tolist()),
        nodes_truenodeids=np.where(is_leaf, number_of_leaf, number_of_split)[true].tolist(),
        nodes_trueleafs=is_leaf[true].astype(int).tolist(),
        nodes_falsenodeids=np.where(is_leaf, number_of_leaf, number_of_split)[false].tolist(),
        nodes_falseleafs=is_leaf[false].astype(int).tolist(),
        leaf_targetids=[0] * int(is_leaf.sum()),
        leaf_weights=_vector("leaf_weights", onnx.TensorProto.DOUBLE, trees.value[is_leaf].tolist()),
    )
    return to_onnx(name, [node], n_features=trees.n_features, opsets={"ai.onnx.ml": _ONNX_ML_OPSET})


def _vector(name: str, kind: int, values: Sequence[float]) -> onnx.TensorProto:
    return onnx.helper.make_tensor(name, kind, [len(values)], values)
