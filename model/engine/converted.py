"""Check graphs that a general converter made, or that somebody brings along.

They are not of the form that `graph.py` knows to the last field. So a list says which operators may occur; none of
them runs a loop, a function or a graph of its own, and no tensor lies in a file beside the server. The splits of trees
are followed, since ONNX Runtime neither ends a cycle nor looks whether a row has the feature that a split names. So
that it does, trees read what a Gather takes by number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.engine import steps
from model.engine.chunks import in_chunks
from model.engine.columns import Columns
from model.engine.graph import (
    GRAPH,
    INPUT_NAME,
    MAX_GRAPH_BYTES,
    MAX_LAYER_WIDTH,
    MAX_TREES,
    OPSET,
    OUTPUT_NAME,
    check_levels,
    matrix_width,
)
from model.engine.protobuf import BYTES, FLOAT, INT, Message, parse, single, text
from model.engine.runtime import session
from model.engine.steps import Step
from model.schema.features import Matrix

_ROWS_AT_ONCE = 256  # some operators compare each row with every row of the training table
MAX_NODES = 2**18  # of the trees of one operator, leaves included
_MAX_OPSET = {"": 21, "ai.onnx.ml": 3, "com.microsoft": 1}

_MODEL: Message = {
    1: ("ir_version", INT, 1),
    2: ("producer_name", BYTES, 1),
    3: ("producer_version", BYTES, 1),
    7: ("graph", BYTES, 1),
    8: ("opset_import", BYTES, len(_MAX_OPSET)),
}
_NODE: Message = {
    1: ("input", BYTES, 64),
    2: ("output", BYTES, 64),
    3: ("name", BYTES, 1),
    4: ("op_type", BYTES, 1),
    5: ("attribute", BYTES, 32),
    7: ("domain", BYTES, 1),
}
_ATTRIBUTE: Message = {
    1: ("name", BYTES, 1),
    2: ("f", FLOAT, 1),
    3: ("i", INT, 1),
    4: ("s", BYTES, 1),
    5: ("t", BYTES, 1),
    7: ("floats", FLOAT, 2**22),
    8: ("ints", INT, MAX_NODES),
    9: ("strings", BYTES, MAX_NODES),
    20: ("type", INT, 1),
}
_TENSOR: Message = {
    1: ("dims", INT, 4),
    2: ("data_type", INT, 1),
    4: ("float_data", BYTES, 1),
    5: ("int32_data", BYTES, 1),
    6: ("string_data", BYTES, MAX_LAYER_WIDTH),
    7: ("int64_data", BYTES, 1),
    8: ("name", BYTES, 1),
    9: ("raw_data", BYTES, 1),
    10: ("double_data", BYTES, 1),
}

# ONNX Runtime crashes where the smallest whole number is divided by -1. The first operators give whole numbers,
# whatever they take; the next give none; the last, as Reduce… does, take positions or shapes beside the first input.
_WHOLE = ("ArgMax", "ArgMin", "Shape", "LabelEncoder")
_NOT_WHOLE = ("And", "Equal", "Greater", "GreaterOrEqual", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor")
_BY_FIRST = (
    "ArrayFeatureExtractor",
    "Gather",
    "GatherElements",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "TopK",
    "Unsqueeze",
)
_INTEGER_TYPES = (2, 3, 4, 5, 6, 7, 12, 13)  # of tensors

TREES = ("TreeEnsembleRegressor", "TreeEnsembleClassifier")
"""The operators that have trees."""
# fmt: off
_OPERATORS: Mapping[str, frozenset[str]] = {
    "": frozenset((
        "Abs", "Add", "And", "ArgMax", "ArgMin", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip",
        "Concat", "Constant", "ConstantOfShape", "Cos", "CumSum", "Div", "Elu", "Equal", "Erf", "Exp", "Expand",
        "Flatten", "Floor", "Gather", "GatherElements", "Gelu", "Gemm", "Greater", "GreaterOrEqual", "HardSigmoid",
        "HardSwish", "Identity", "IsInf", "IsNaN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log",
        "LogSoftmax", "MatMul", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "Not", "OneHot", "Or", "PRelu",
        "Pow", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
        "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "Selu", "Shape",
        "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Softplus", "Softsign", "Split", "Sqrt", "Squeeze", "Sub",
        "Sum", "Tanh", "ThresholdedRelu", "TopK", "Transpose", "Unsqueeze", "Where", "Xor",
    )),
    "ai.onnx.ml": frozenset((
        "ArrayFeatureExtractor", "Binarizer", "FeatureVectorizer", "Imputer", "LabelEncoder", "LinearClassifier",
        "LinearRegressor", "Normalizer", "OneHotEncoder", "SVMClassifier", "SVMRegressor", "Scaler",
        *TREES,
    )),
    "com.microsoft": frozenset(("CDist",)),
}
# fmt: on


class ConvertedEngine:
    """Runs a converted graph on the columns that a program makes of features, and steps behind it."""

    def __init__(
        self,
        content: bytes,
        columns: Columns,
        n_classes: int,
        allowed_difference: float,
        of_answers: Sequence[Step] = (),
    ) -> None:
        """Take a graph that turns the columns into a number, or into answers for `n_classes`, if there are any.

        Its answers may be apart from the trained model's by `allowed_difference`. Raises `ValueError` for a graph that
        is not served, or does not load.
        """
        check(content, columns.n_columns, 1 + n_classes)
        self.columns, self._n_classes, self.allowed_difference = columns, n_classes, allowed_difference
        self._steps = tuple(of_answers)
        self._session = session(content)

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64.

        A classifier returns `(n_rows, 1 + n_classes)`: the position of the label, then the probability of each class.
        """
        return in_chunks(self._predict, X, _ROWS_AT_ONCE)

    def _predict(self, X: Matrix) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self._session.run((OUTPUT_NAME,), {INPUT_NAME: self.columns.run(X)})[0]
        if not self._n_classes:
            return steps.run(self._steps, found)[:, 0]
        if not np.isin(found[:, 0], np.arange(self._n_classes)).all():  # -1 would be the last class
            raise ValueError("the graph gives a label that is none of the model's")
        return found

    def allowed(self, X: Matrix) -> NDArray[np.float64]:
        """Return how far the trained model's answers may be from `predict(X)`, in its shape.

        Any label is allowed where the two largest probabilities are closer than that.
        """
        found = self.predict(X)
        allowed = np.full(found.shape, self.allowed_difference)
        if self._n_classes:
            second, first = np.sort(found[:, 1:], axis=1)[:, -2:].T
            allowed[:, 0] = np.where(first - second <= 2 * self.allowed_difference, np.inf, 0.0)
        return allowed


def check(content: bytes, n_columns: int, n_outputs: int) -> None:
    """Raise `ValueError` for a graph that is not served.

    It turns `X` `(n_rows, n_columns)` float64 into `y` `(n_rows, n_outputs)` float64.
    """
    if len(content) > MAX_GRAPH_BYTES:
        raise ValueError(f"it has {len(content)} bytes; at most {MAX_GRAPH_BYTES} are allowed")
    model = parse(memoryview(content), _MODEL, "model")
    for opset in model["opset_import"]:
        fields = parse(opset, OPSET, "opset")
        domain, version = text(fields["domain"]), single(fields["version"], "opset's version")
        if not 1 <= version <= _MAX_OPSET.get(domain, 0):
            raise ValueError(f"it needs the operators {domain or 'ai.onnx'!r} in version {version}")
    graph = parse(single(model["graph"], "graph"), GRAPH, "graph")
    for side, name, width in (("input", INPUT_NAME, n_columns), ("output", OUTPUT_NAME, n_outputs)):
        if matrix_width(single(graph[side], side), name, side) != width:
            raise ValueError(f"its {side} is not {width} wide")
    constants = [parse(content, _TENSOR, "tensor") for content in graph["initializer"]]
    known = _Known(
        shapes={text(each["name"]): each["dims"] for each in constants},
        whole={text(each["name"]) for each in constants if single(each["data_type"], "type") in _INTEGER_TYPES},
    )
    for node in graph["node"]:
        _check_operator(parse(node, _NODE, "operator"), known)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of values by name: the shapes of constants, widths, and which may be whole numbers."""

    shapes: Mapping[str, list[int]]
    whole: set[str]
    width: dict[str, int] = field(default_factory=dict)


def _check_operator(node: dict[str, list[Any]], known: _Known) -> None:
    """Check an operator and its trees, and note what is known of its results."""
    domain, operator = text(node["domain"]), text(node["op_type"])
    if operator not in _OPERATORS.get("" if domain == "ai.onnx" else domain, ()):
        raise ValueError(f"it has the operator {operator!r} of {domain or 'ai.onnx'!r}, which is not served")
    attributes = {}
    for content in node["attribute"]:
        fields = parse(content, _ATTRIBUTE, "attribute")
        attributes[text(fields["name"])] = fields
        for tensor in fields["t"]:
            parse(tensor, _TENSOR, "tensor")
    inputs, outputs = ([text([name]) for name in node[side]] for side in ("input", "output"))
    if operator in TREES:
        if inputs[0] not in known.width:
            raise ValueError("its trees read a value whose width is not known")
        _check_trees(attributes, known.width[inputs[0]])
    if operator == "Gather" and "axis" in attributes and attributes["axis"]["i"] == [1]:
        shape = known.shapes.get(inputs[1], [])
        if len(shape) == 1:  # ONNX Runtime refuses numbers that no column has
            known.width[outputs[0]] = shape[0]
    if operator == "Cast":
        is_whole = attributes["to"]["i"][0] in _INTEGER_TYPES if "to" in attributes else True
    elif operator == "Constant":
        tensors = [parse(each, _TENSOR, "tensor") for fields in attributes.values() for each in fields["t"]]
        is_whole = any(each["data_type"] and each["data_type"][0] in _INTEGER_TYPES for each in tensors)
        is_whole |= any(name.startswith("value_int") for name in attributes)
    else:
        read = inputs[:1] if operator in _BY_FIRST or operator.startswith("Reduce") else inputs
        is_whole = operator not in _NOT_WHOLE and (operator in _WHOLE or any(name in known.whole for name in read))
    if operator == "Div" and is_whole:
        raise ValueError("it divides whole numbers, which is not served")
    if is_whole:
        known.whole.update(outputs)
    elif operator == "TopK":  # the second are positions
        known.whole.update(outputs[1:])


def _check_trees(attributes: Mapping[str, dict[str, list[Any]]], n_columns: int) -> None:
    """Check that the splits form trees of existing columns that are not too deep, and that every leaf is theirs."""

    def ints(name: str) -> NDArray[np.int64]:
        return np.array(attributes[name]["ints"] if name in attributes else [], dtype=np.int64)

    if "base_values" in attributes and len(attributes["base_values"]["floats"]) > MAX_LAYER_WIDTH:
        raise ValueError("its trees have too many outputs")
    tree, number, column = ints("nodes_treeids"), ints("nodes_nodeids"), ints("nodes_featureids")
    true, false = ints("nodes_truenodeids"), ints("nodes_falsenodeids")
    modes = [bytes(mode) for mode in attributes["nodes_modes"]["strings"]] if "nodes_modes" in attributes else []
    if not 0 < len(tree) == len(number) == len(column) == len(true) == len(false) == len(modes) <= MAX_NODES:
        raise ValueError(f"its trees have no nodes, lists of different lengths, or more than {MAX_NODES} nodes")
    is_split = np.array([mode != b"LEAF" for mode in modes])
    if not {*modes} <= {b"LEAF", b"BRANCH_LEQ", b"BRANCH_LT", b"BRANCH_GTE", b"BRANCH_GT", b"BRANCH_EQ", b"BRANCH_NEQ"}:
        raise ValueError("its trees have nodes of an unknown kind")
    if column[is_split].size and not 0 <= column[is_split].min() <= column[is_split].max() < n_columns:
        raise ValueError("its trees name a column that does not exist")
    if min(tree.min(), number.min()) < 0 or max(tree.max(), number.max()) >= MAX_NODES:
        raise ValueError("its trees have numbers out of range")
    key = tree * MAX_NODES + number
    order = np.argsort(key, kind="stable")
    if (np.diff(key[order]) == 0).any() or len(np.unique(tree)) > MAX_TREES:
        raise ValueError(f"its trees have a node twice, or are more than {MAX_TREES}")

    def place(trees: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.intp]:
        wanted = trees * MAX_NODES + numbers
        found: NDArray[np.intp] = order[np.searchsorted(key, wanted, sorter=order).clip(max=len(key) - 1)]
        if (numbers < 0).any() or (numbers >= MAX_NODES).any() or (key[found] != wanted).any():
            raise ValueError("its trees name a node that does not exist")
        return found

    children = [place(tree[is_split], side[is_split]) for side in (true, false)]
    n_parents = np.bincount(np.concatenate(children), minlength=len(key))
    first = order[np.append(True, np.diff(tree[order]) != 0)]
    if n_parents.max() > 1 or (np.flatnonzero(n_parents == 0) != np.sort(first)).any():
        raise ValueError("its splits are not trees: one has no split above it, or several")
    child = np.full((2, len(key)), -1)
    child[:, is_split] = children
    check_levels(first, child)
    for kind in ("target", "class"):
        leaf_trees, leaf_nodes, outputs = (ints(f"{kind}_{name}") for name in ("treeids", "nodeids", "ids"))
        n_weights = len(attributes.get(f"{kind}_weights", {"floats": []})["floats"])
        if not len(leaf_trees) == len(leaf_nodes) == len(outputs) == n_weights <= MAX_NODES:
            raise ValueError("its leaves have lists of different lengths")
        if len(outputs) and not 0 <= outputs.min() <= outputs.max() < MAX_LAYER_WIDTH:
            raise ValueError("its leaves have numbers out of range")
        if leaf_trees.size and (leaf_trees.min() < 0 or leaf_trees.max() >= MAX_NODES):
            raise ValueError("its leaves have numbers out of range")
        if is_split[place(leaf_trees, leaf_nodes)].any():
            raise ValueError("its splits have weights, which leaves alone have")
