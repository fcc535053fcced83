"""Check ONNX graphs: only graphs of the kind that our exports write are served.

The bytes are parsed here before the runtime gets them. ONNX Runtime would load tensors from files beside the server
(`external_data`), run loops and functions, follow a chain of splits until its stack overflows, and read a feature index
outside the row from the memory behind it. So every field, operator and attribute that is not listed here is refused,
and so are trees and tensors that need more time or memory than a tabular model does.

Field numbers are those of onnx.proto (ONNX 1.23). Knows nothing about files or the runtime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.engine.protobuf import BYTES, INT, Message, parse, single, text, varints

INPUT_NAME = "X"
OUTPUT_NAME = "y"

# The example has 400 trees of 3 levels and 0.1 MiB. About the largest graphs of both kinds within these limits loaded
# and replayed 1,000 golden rows in 8 s of CPU and 370 MiB. Without limits a graph of 4 MiB took 18 s to load, and one
# of 1 MiB crashed the process.
MAX_GRAPH_BYTES = 2**26
MAX_TREES = 2**14
MAX_SPLITS = 2**18
MAX_DEPTH = 2**10
MAX_LAYER_WIDTH = 2**13  # 4,096 rows then take 256 MiB per layer
_MAX_NODES = 2**10

_MODEL: Message = {
    1: ("ir_version", INT, 1),
    2: ("producer_name", BYTES, 1),
    7: ("graph", BYTES, 1),
    8: ("opset_import", BYTES, 2),
}
OPSET: Message = {1: ("domain", BYTES, 1), 2: ("version", INT, 1)}
GRAPH: Message = {
    1: ("node", BYTES, _MAX_NODES),
    2: ("name", BYTES, 1),
    5: ("initializer", BYTES, 2 * _MAX_NODES),
    11: ("input", BYTES, 1),
    12: ("output", BYTES, 1),
}
_NODE: Message = {
    1: ("input", BYTES, 3),
    2: ("output", BYTES, 1),
    3: ("name", BYTES, 1),
    4: ("op_type", BYTES, 1),
    5: ("attribute", BYTES, 13),
    7: ("domain", BYTES, 1),
}
_ATTRIBUTE: Message = {
    1: ("name", BYTES, 1),
    3: ("i", INT, 1),
    5: ("t", BYTES, 1),
    8: ("ints", INT, MAX_SPLITS + MAX_TREES),  # the largest number of leaves
    20: ("type", INT, 1),
}
_TENSOR: Message = {
    1: ("dims", INT, 2),
    2: ("data_type", INT, 1),
    5: ("int32_data", BYTES, 1),
    8: ("name", BYTES, 1),
    9: ("raw_data", BYTES, 1),
    10: ("double_data", BYTES, 1),
}
_VALUE: Message = {1: ("name", BYTES, 1), 2: ("type", BYTES, 1)}
_TYPE: Message = {1: ("tensor_type", BYTES, 1)}
_TENSOR_TYPE: Message = {1: ("elem_type", INT, 1), 2: ("shape", BYTES, 1)}
_SHAPE: Message = {1: ("dim", BYTES, 2)}
_DIMENSION: Message = {1: ("dim_value", INT, 1), 2: ("dim_param", BYTES, 1)}

_OPSETS = {("", 21), ("ai.onnx.ml", 5)}

# Attribute types (AttributeProto.AttributeType) by the field of the value, and tensor types (TensorProto.DataType).
_ATTRIBUTE_TYPES = {"i": 2, "t": 4, "ints": 7}
_UINT8, _DOUBLE = 2, 11
_TYPE_NAMES = {1: "float", 2: "uint8", 10: "float16", 11: "double"}

_TREES = ("ai.onnx.ml", "TreeEnsemble")
_OPERATORS: Mapping[tuple[str, str], Mapping[str, str]] = {
    _TREES: {
        "aggregate_function": "i",
        "n_targets": "i",
        "post_transform": "i",
        "tree_roots": "ints",
        "nodes_modes": "t",
        "nodes_featureids": "ints",
        "nodes_splits": "t",
        "nodes_truenodeids": "ints",
        "nodes_trueleafs": "ints",
        "nodes_falsenodeids": "ints",
        "nodes_falseleafs": "ints",
        "leaf_targetids": "ints",
        "leaf_weights": "t",
    },
    ("", "Sub"): {},
    ("", "Div"): {},
    ("", "Mul"): {},
    ("", "Add"): {},
    ("", "Relu"): {},
    ("", "Gemm"): {"transB": "i"},
}
"""The operators by domain and type, with their required attributes and the field of each value."""
_N_CONSTANTS = {"Sub": 1, "Div": 1, "Mul": 1, "Add": 1, "Relu": 0, "Gemm": 2}


class _Node(NamedTuple):
    """An operator: its domain and type, the names of its inputs and outputs, and its attributes."""

    kind: tuple[str, str]
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


def check(content: bytes, n_outputs: int = 1) -> None:
    """Raise `ValueError` for a graph that our exports do not write, or that needs too much time or memory.

    A network has `n_outputs` numbers a row, trees have one.
    """
    if len(content) > MAX_GRAPH_BYTES:
        raise ValueError(f"it has {len(content)} bytes; at most {MAX_GRAPH_BYTES} are allowed")
    model = parse(memoryview(content), _MODEL, "model")
    for opset in model["opset_import"]:
        fields = parse(opset, OPSET, "opset")
        opset_id = text(fields["domain"]), single(fields["version"], "opset's version")
        if opset_id not in _OPSETS:
            raise ValueError(f"it needs the operators {opset_id[0] or 'ai.onnx'!r} in version {opset_id[1]}")
    graph = parse(single(model["graph"], "graph"), GRAPH, "graph")
    n_features = matrix_width(single(graph["input"], "input"), INPUT_NAME, "input")
    if matrix_width(single(graph["output"], "output"), OUTPUT_NAME, "output") != n_outputs:
        raise ValueError(_not_outputs(n_outputs))
    nodes = [_node(node) for node in graph["node"]]
    constants: dict[str, NDArray[Any]] = {}
    for tensor in graph["initializer"]:
        name, values = _tensor(tensor, _DOUBLE)
        if name in constants or not np.isfinite(values).all():
            raise ValueError(f"its constant {name!r} is repeated, or is not finite")
        constants[name] = values
    if [node.kind for node in nodes] == [_TREES] and n_outputs == 1:
        _check_trees(nodes[0], n_features)
    else:
        _check_layers(nodes, constants, n_features, n_outputs)


def _not_outputs(n_outputs: int) -> str:
    return f"it returns {'more than one number' if n_outputs == 1 else f'not {n_outputs} numbers'} per row"


def _check_layers(
    nodes: Sequence[_Node], constants: Mapping[str, NDArray[Any]], n_features: int, n_outputs: int
) -> None:
    """Check that the operators form a chain, each with constants that fit the output before it."""
    value, width = INPUT_NAME, n_features
    for node in nodes:
        operator = node.kind[1]
        _check_chained(node, value, is_last=node is nodes[-1])
        if len(node.inputs) != 1 + _N_CONSTANTS.get(operator, -1) or not set(node.inputs[1:]) <= constants.keys():
            raise ValueError(f"its operator {operator} does not read one value and its constants")
        (value,) = node.outputs
        values = [constants[name] for name in node.inputs[1:]]
        if operator == "Gemm":
            weight, bias = values
            if node.attributes["transB"] != 1 or bias.ndim != 1 or weight.shape != (len(bias), width):
                raise ValueError("the weights of a layer do not fit the layer before it")
            width = len(bias)
            if width > MAX_LAYER_WIDTH:
                raise ValueError(f"it has a layer of width {width}; at most {MAX_LAYER_WIDTH} is allowed")
        elif values and values[0].shape not in ((), (1,), (width,)):
            raise ValueError(f"a constant of its operator {operator} does not fit the layer before it")
        elif operator == "Div" and not values[0].all():
            raise ValueError("it divides by 0")
    if not nodes or width != n_outputs:
        raise ValueError(_not_outputs(n_outputs))


def _check_trees(node: _Node, n_features: int) -> None:
    """Check that the splits form trees of existing features that are not too deep."""
    attributes = node.attributes
    _check_chained(node, INPUT_NAME, is_last=True)
    _, modes = _tensor(attributes["nodes_modes"], _UINT8)
    _, thresholds = _tensor(attributes["nodes_splits"], _DOUBLE)
    _, weights = _tensor(attributes["leaf_weights"], _DOUBLE)
    ints = {
        name: np.array(numbers, dtype=np.int64) for name, numbers in attributes.items() if isinstance(numbers, list)
    }
    n_splits, n_leaves, roots = len(thresholds), len(weights), ints["tree_roots"]
    if (attributes["n_targets"], attributes["aggregate_function"], attributes["post_transform"]) != (1, 1, 0):
        raise ValueError("its trees are not summed to one number")
    lengths = {len(values) for name, values in ints.items() if name.startswith("nodes_")} | {modes.size}
    if thresholds.ndim != 1 or weights.ndim != 1 or lengths != {n_splits} or len(ints["leaf_targetids"]) != n_leaves:
        raise ValueError("its trees have lists of different lengths")
    if not (0 < len(roots) <= MAX_TREES and n_splits <= MAX_SPLITS):
        raise ValueError(
            f"it has {len(roots)} trees with {n_splits} splits; 1 to {MAX_TREES} trees with {MAX_SPLITS} are allowed"
        )
    if modes.any() or ints["leaf_targetids"].any() or np.isnan(thresholds).any():
        raise ValueError("its splits are not of the kind x <= threshold")
    with np.errstate(over="ignore"):
        if not np.isfinite(np.abs(weights).sum()):
            raise ValueError("its leaves do not add up to a finite number")
    _check_within(ints["nodes_featureids"], n_features, "feature")
    _check_within(roots, n_splits, "split")
    children = []
    for side in ("true", "false"):
        is_leaf, number = ints[f"nodes_{side}leafs"], ints[f"nodes_{side}nodeids"]
        _check_within(is_leaf, 2, "kind of branch")
        _check_within(number[is_leaf == 1], n_leaves, "leaf")
        _check_within(number[is_leaf == 0], n_splits, "split")
        children.append(np.where(is_leaf == 1, -1, number))
    if (np.bincount(np.concatenate([roots, *(side[side >= 0] for side in children)]), minlength=n_splits) != 1).any():
        raise ValueError("its splits are not trees: one has no split above it, or several")
    check_levels(roots, np.array(children))


def check_levels(roots: NDArray[np.int64], children: NDArray[np.int64]) -> None:
    """Check that every node is reached from the roots, in levels that are not too many.

    `children` `(2, n_nodes)` are those of each node, negative where there is none. No node has several parents.
    """
    level, depth, n_reached = roots, 0, 0
    while level.size:
        depth, n_reached = depth + 1, n_reached + level.size
        if depth > MAX_DEPTH:
            raise ValueError(f"it has a tree of more than {MAX_DEPTH} levels")
        below = children[:, level].ravel()
        level = below[below >= 0]
    if n_reached != children.shape[1]:
        raise ValueError("its splits are not trees: some form a cycle")


def _check_within(numbers: NDArray[np.int64], bound: int, kind: str) -> None:
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < bound:
        raise ValueError(f"its trees name a {kind} that does not exist")


def _check_chained(node: _Node, value: str, *, is_last: bool) -> None:
    """Check that the operator's first input is the previous output, and that only the last one writes the result."""
    if node.inputs[:1] != [value] or len(node.outputs) != 1 or (node.outputs == [OUTPUT_NAME]) != is_last:
        raise ValueError(f"its operators are not one chain from {INPUT_NAME} to {OUTPUT_NAME}")


def _node(content: memoryview) -> _Node:
    fields = parse(content, _NODE, "operator")
    kind = text(fields["domain"]), text(fields["op_type"])
    if kind not in _OPERATORS:
        raise ValueError(f"it has the operator {kind[1]!r} of {kind[0] or 'ai.onnx'!r}, which our exports do not use")
    attributes: dict[str, Any] = {}
    for attribute in fields["attribute"]:
        values = parse(attribute, _ATTRIBUTE, "attribute")
        name, expected_field = text(values["name"]), _OPERATORS[kind].get(text(values["name"]))
        value_fields = [field for field in _ATTRIBUTE_TYPES if values[field]]
        if (
            name in attributes
            or value_fields != [expected_field]
            or values["type"] != [_ATTRIBUTE_TYPES[value_fields[0]]]
        ):
            raise ValueError(f"its attribute {name!r} is not one that our exports give to {kind[1]}, or is repeated")
        attributes[name] = values["ints"] if expected_field == "ints" else values[value_fields[0]][0]
    if attributes.keys() != _OPERATORS[kind].keys():
        raise ValueError(f"its operator {kind[1]} does not have the attributes that our exports give it")
    inputs, outputs = ([text([name]) for name in fields[side]] for side in ("input", "output"))
    return _Node(kind, inputs, outputs, attributes)


def matrix_width(content: memoryview, name: str, side: str) -> int:
    """Return the number of columns of a graph's input or output, which must be a double matrix called `name`."""
    value = parse(content, _VALUE, "value")
    tensor = parse(
        single(parse(single(value["type"], "type"), _TYPE, "type")["tensor_type"], "type"), _TENSOR_TYPE, "type"
    )
    kind = single(tensor["elem_type"], "element's type")
    if kind != _DOUBLE:
        raise ValueError(f"its {side} is tensor({_TYPE_NAMES.get(kind, kind)}) and not tensor(double)")
    dimensions = parse(single(tensor["shape"], "shape"), _SHAPE, "shape")["dim"]
    if text(value["name"]) != name or len(dimensions) != 2:
        raise ValueError(f"its {side} is not a matrix {name}")
    width = parse(dimensions[1], _DIMENSION, "dimension")["dim_value"]
    parse(dimensions[0], _DIMENSION, "dimension")
    return int(single(width, f"width of {name}"))


def _tensor(content: memoryview, kind: int) -> tuple[str, NDArray[Any]]:
    """Return the name and the values of a tensor, which must all be inside the graph."""
    fields = parse(content, _TENSOR, "tensor")
    name = text(fields["name"])
    if single(fields["data_type"], "tensor's type") != kind:
        raise ValueError(f"its tensor {name!r} is not of {_TYPE_NAMES[kind]}")
    data = [field for field in ("int32_data", "raw_data", "double_data") if fields[field]]
    dtype = "<f8" if kind == _DOUBLE else "u1"
    if data == ["int32_data"] and kind == _UINT8:
        values = np.array(varints(fields["int32_data"][0], MAX_SPLITS), dtype=np.int64)
    elif data == ["raw_data"] or (data == ["double_data"] and kind == _DOUBLE):
        raw = fields[data[0]][0]
        if len(raw) % np.dtype(dtype).itemsize:
            raise ValueError(f"its tensor {name!r} ends in the middle of a number")
        values = np.frombuffer(raw, dtype=dtype)
    else:
        raise ValueError(f"its tensor {name!r} has no values of its type in the graph itself")
    shape = tuple(fields["dims"])
    if min(shape, default=0) < 0 or math.prod(shape) != values.size:
        raise ValueError(f"its tensor {name!r} has {values.size} values in the shape {shape}")
    return name, values.reshape(shape)
