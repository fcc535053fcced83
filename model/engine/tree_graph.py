"""Writes the ONNX graph of trees: what ONNX Runtime is given to run them.

Protocol Buffers are written by hand, since the onnx package is not among what a server installs. Field numbers are
those of onnx.proto (ONNX 1.23); the operator is TreeEnsemble of ai.onnx.ml 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.engine.graph import INPUT_NAME, OUTPUT_NAME
from model.engine.trees import Trees

_INT, _BYTES = 0, 2  # wire types
_FLOAT, _UINT8, _DOUBLE = 1, 2, 11  # TensorProto.DataType
_DTYPES = {_FLOAT: "<f4", _UINT8: "u1", _DOUBLE: "<f8"}
_LEQ, _MEMBER = 0, 6  # modes of TreeEnsemble
_IR_VERSION, _OPSET, _ML_OPSET = 10, 21, 5


class Result(Enum):
    """What the graph returns for a row: sums in float64 or float32, or the number of the leaf in each tree."""

    FLOAT64 = _DOUBLE
    FLOAT32 = _FLOAT
    LEAVES = 0


def result_of(trees: Trees) -> Result:
    """Return the cheapest result of a graph that gives the bits of the trees' sums.

    ONNX Runtime adds one number a leaf, in the precision in which it compares. So leaves of several numbers are added
    outside the graph, and so are those of float32, unless rounding a value to float32 changes none of its branches.
    With categories and several outputs it adds a constant tree twice if another output's is equal (seen in 1.31.1).
    """
    if trees.leaves.shape[1] > 1 or (trees.n_outputs > 1 and len(trees.codes)):
        return Result.LEAVES
    if trees.leaves.dtype == np.float64:
        return Result.FLOAT64
    thresholds = trees.threshold[(trees.feature >= 0) & (trees.n_codes == 0)]
    with np.errstate(over="ignore"):
        rounded, above = thresholds.astype(np.float32), np.nextafter(thresholds, np.inf).astype(np.float32)
    return Result.FLOAT32 if ((rounded < above) | (thresholds == np.inf)).all() else Result.LEAVES


def to_graph(trees: Trees, n_features: int, result: Result) -> bytes:
    """Return the graph of the trees: `X` `(n_rows, n_features)` float64 to `y` `(n_rows, width)`.

    The width is the number of outputs, or for `Result.LEAVES` the number of trees.
    """
    kind = _FLOAT if result is Result.FLOAT32 else _DOUBLE
    is_leaf = trees.is_leaf
    # TreeEnsemble numbers splits and leaves separately and requires a split in each tree: in a tree of one leaf the
    # leaf is also a split, both of whose children are the leaf.
    is_split = ~is_leaf
    is_split[trees.roots] = True
    child = np.where(is_leaf, np.cumsum(is_leaf), np.cumsum(is_split)) - 1
    true, false = trees.left[is_split], trees.right[is_split]
    has_codes = trees.n_codes[is_split] > 0
    tree_of_leaf = trees.tree[is_leaf]
    targets: NDArray[Any]
    weights: NDArray[Any]
    if result is Result.LEAVES:
        targets, weights, width = tree_of_leaf, np.arange(len(trees.leaves)), len(trees.roots)
    else:
        targets, weights, width = trees.output[tree_of_leaf], trees.leaves[:, 0], trees.n_outputs
    attributes = [
        _attribute("aggregate_function", 1),  # SUM
        _attribute("n_targets", width),
        _attribute("post_transform", 0),  # NONE
        _attribute("tree_roots", np.cumsum(is_split)[trees.roots] - 1),
        _attribute("nodes_modes", _tensor("nodes_modes", _UINT8, np.where(has_codes, _MEMBER, _LEQ))),
        _attribute("nodes_featureids", np.maximum(trees.feature[is_split], 0)),
        _attribute("nodes_splits", _tensor("nodes_splits", kind, trees.threshold[is_split])),
        _attribute("nodes_truenodeids", child[true]),
        _attribute("nodes_trueleafs", is_leaf[true]),
        _attribute("nodes_falsenodeids", child[false]),
        _attribute("nodes_falseleafs", is_leaf[false]),
        _attribute("nodes_missing_value_tracks_true", _missing_left(trees, weights)[is_split]),
        _attribute("leaf_targetids", targets),
        _attribute("leaf_weights", _tensor("leaf_weights", kind, weights)),
    ]
    if has_codes.any():
        members = _tensor("membership_values", kind, _members(trees))
        attributes.append(_attribute("membership_values", members))
    nodes = [_node("TreeEnsemble", INPUT_NAME, OUTPUT_NAME, "ai.onnx.ml", attributes)]
    if kind == _FLOAT:
        nodes = [
            _node("Cast", INPUT_NAME, "rounded", "", [_attribute("to", _FLOAT)]),
            _node("TreeEnsemble", "rounded", OUTPUT_NAME, "ai.onnx.ml", attributes),
        ]
    graph = b"".join(
        [
            *nodes,
            _message(2, "trees"),
            _value(11, INPUT_NAME, _DOUBLE, n_features),
            _value(12, OUTPUT_NAME, kind, width),
        ]
    )
    return b"".join(
        [
            _integer(1, _IR_VERSION),
            _message(2, "tabserve"),
            _message(7, graph),
            _message(8, _message(1, ""), _integer(2, _OPSET)),
            _message(8, _message(1, "ai.onnx.ml"), _integer(2, _ML_OPSET)),
        ]
    )


def _missing_left(trees: Trees, weights: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether a missing value goes left at each node, `(n_nodes,)`, with the same result as in the trees.

    `weights` `(n_leaves,)` are those of the leaves in the graph.

    ONNX Runtime joins splits of one category that follow each other on the right and have equal left leaves. It keeps
    what the first says of missing values (seen in 1.31.1). A missing value that reaches the leaf of a later one may as
    well take the first.
    """
    missing_left, left, right = trees.missing_left.copy(), trees.left, trees.right
    is_leaf, has_codes = trees.is_leaf, trees.n_codes > 0
    leaf = np.where(is_leaf, weights[np.cumsum(is_leaf) - 1], np.nan)
    joined = has_codes & has_codes[right] & (trees.feature == trees.feature[right]) & (leaf[left] == leaf[left[right]])
    nodes = np.flatnonzero(joined)
    while (changed := nodes[missing_left[right[nodes]] & ~missing_left[nodes]]).size:
        missing_left[changed] = True
    return missing_left


def _members(trees: Trees) -> NDArray[np.float64]:
    """Return the categories of each split that has any, with NaN after each split's."""
    counts = trees.n_codes[trees.n_codes > 0]
    members = np.full(len(trees.codes) + len(counts), np.nan)
    is_code = np.ones(len(members), dtype=bool)
    is_code[np.cumsum(counts + 1) - 1] = False
    members[is_code] = trees.codes
    return members


def _varints(values: ArrayLike) -> bytes:
    """Return integers that are not negative as Protocol Buffers' varints, one after the other."""
    numbers = np.asarray(values).astype(np.uint64)
    n_bytes = np.ones(len(numbers), dtype=np.intp)
    for i in range(1, 10):
        n_bytes += numbers >= np.uint64(1) << np.uint64(7 * i)
    ends = np.cumsum(n_bytes)
    written = np.zeros(n_bytes.sum(), dtype=np.uint8)
    for i in range(n_bytes.max(initial=0)):
        longer = n_bytes > i
        septets = (numbers[longer] >> np.uint64(7 * i)).astype(np.uint8) & 127
        written[(ends - n_bytes)[longer] + i] = septets | np.where(n_bytes[longer] > i + 1, 128, 0).astype(np.uint8)
    return written.tobytes()


def _integer(field: int, value: int) -> bytes:
    return _varints([field << 3 | _INT, value])


def _message(field: int, *parts: bytes | str) -> bytes:
    content = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return _varints([field << 3 | _BYTES, len(content)]) + content


def _attribute(name: str, value: int | bytes | NDArray[np.generic]) -> bytes:
    """Return an attribute: an integer, a tensor or integers."""
    if isinstance(value, int):
        return _message(5, _message(1, name), _integer(3, value), _integer(20, 2))
    if isinstance(value, bytes):
        return _message(5, _message(1, name), _message(5, value), _integer(20, 4))
    return _message(5, _message(1, name), _message(8, _varints(value)), _integer(20, 7))


def _tensor(name: str, kind: int, values: NDArray[np.generic]) -> bytes:
    raw = values.astype(_DTYPES[kind])
    return _integer(1, len(raw)) + _integer(2, kind) + _message(8, name) + _message(9, raw.tobytes())


def _node(operator: str, input_name: str, output_name: str, domain: str, attributes: Sequence[bytes]) -> bytes:
    return _message(
        1, _message(1, input_name), _message(2, output_name), _message(4, operator), *attributes, _message(7, domain)
    )


def _value(field: int, name: str, kind: int, width: int) -> bytes:
    shape = _message(2, _message(1, _message(2, "n_rows")), _message(1, _integer(1, width)))
    return _message(field, _message(1, name), _message(2, _message(1, _integer(1, kind), shape)))
