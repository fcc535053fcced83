"""Make graphs that are served from what a general converter made, and from files of ONNX.

A graph that is served turns `X` `(n_rows, n_columns)` float64 into `y` `(n_rows, 1)`, or into the position of the label
and the probability of each class. What others write has inputs and outputs of other types and names, and operators
that make dictionaries; operators around it make up for that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from model.engine import converted
from model.engine.graph import INPUT_NAME, OUTPUT_NAME
from model.errors import ExportError, first_line
from model.schema.feature import Category

CONVERTER = "skl2onnx"
_OPSETS = {"": 21, "ai.onnx.ml": 3}  # of the operators that the converter may use
_PREFIX = "served_"  # of the names that are added here
_CLASS = re.compile(r"<class '(?:[^']*\.)?(\w+)'>")  # which an error of the converter names
_DISTANCES = (KNeighborsRegressor, KNeighborsClassifier, GaussianProcessRegressor)


def convert(estimator: Any, n_columns: int, classes: Sequence[Category], *, in_float32: bool) -> bytes:
    """Return the graph of a fitted estimator of scikit-learn, which skl2onnx makes.

    Raises `ExportError` if it cannot.
    """
    if find_spec(CONVERTER) is None:
        raise ExportError(
            f'the engine onnx needs {CONVERTER}, which is not installed; run make install EXTRAS="{CONVERTER}"'
        )
    import skl2onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    # Distances are computed without a loop, which is not served.
    options: dict[Any, dict[str, Any]] = {kind: {"optim": "cdist"} for kind in _DISTANCES}
    if classes:
        options[id(estimator)] = {"zipmap": False, **options.get(type(estimator), {})}
    kind = FloatTensorType if in_float32 else DoubleTensorType
    try:
        model = skl2onnx.convert_sklearn(
            estimator,
            initial_types=[(INPUT_NAME, kind([None, n_columns]))],
            options=options,
            target_opset=_OPSETS,
        )
    except Exception as error:  # it raises many classes
        raise ExportError(f"skl2onnx cannot convert {type(estimator).__name__} ({_reason(error)})") from None
    return adopt(model, n_columns, classes)


def adopt(
    model: onnx.ModelProto,
    n_columns: int,
    classes: Sequence[Category],
    categories: Mapping[int, Sequence[str]] | None = None,
) -> bytes:
    """Return a graph of one input `(n_rows, n_columns)`, or of one for each column, in the form that is served.

    Its outputs are one number a row, or the label, which is one of `classes`, and their probabilities. `categories` are
    the strings that the places of some columns stand for. Raises `ExportError` for a graph that is not served.
    """
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    for field in ("value_info", "doc_string", "metadata_props", "quantization_annotation"):
        graph.ClearField(field)
    for node in graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    constants = {each.name for each in graph.initializer}
    given = [each for each in graph.input if each.name not in constants]
    if len(given) == 1 and n_columns > 1:
        nodes = [_cast(INPUT_NAME, _name("input"), given[0].type.tensor_type.elem_type)]
        _rename(graph, given[0].name, _name("input"))
    else:
        nodes = []
        for number, each in enumerate(given):
            nodes += _of_column(graph, number, each, (categories or {}).get(number, ()))
    _bound(graph)
    outputs = _without_dictionaries(graph)
    if classes:
        label, probabilities = outputs[:2]
        last = _classes(graph, label, probabilities, classes)
    else:
        last = _column(graph, outputs[0].name)
    graph.node.append(helper.make_node("Identity", [last], [OUTPUT_NAME]))
    n_outputs = 1 + len(classes) if classes else 1
    whole = helper.make_graph(
        [*nodes, *graph.node],
        "converted",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.DOUBLE, ["n_rows", n_columns])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.DOUBLE, ["n_rows", n_outputs])],
        list(graph.initializer),
    )
    opsets = {each.domain: each.version for each in model.opset_import}
    # Version 3 differs from the older ones in LabelEncoder alone.
    if opsets.get("ai.onnx.ml", 3) < 3 and not any(node.op_type == "LabelEncoder" for node in model.graph.node):
        opsets["ai.onnx.ml"] = 3
    opsets.setdefault("ai.onnx.ml", 3)
    used = {node.domain for node in whole.node}
    served = helper.make_model(
        whole,
        producer_name="tabserve",
        ir_version=min(model.ir_version, 10),
        opset_imports=[
            helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items()) if domain in used
        ],
    )
    content = bytes(served.SerializeToString(deterministic=True))
    try:
        converted.check(content, n_columns, n_outputs)
    except ValueError as error:
        raise ExportError(f"the graph cannot be served: {error}") from None
    return content


def _reason(error: Exception) -> str:
    """Return what an error of the converter says, without the graph that it may print."""
    first = first_line(error)
    if unknown := _CLASS.search(first):
        return f"it does not know {unknown[1]}"
    return re.split(r" with name=|\. ", first)[0].rstrip(" .,:")


def _name(name: str) -> str:
    return _PREFIX + name


def _cast(old: str, new: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [old], [new], to=kind)


def _of_column(
    graph: onnx.GraphProto, number: int, value: onnx.ValueInfoProto, categories: Sequence[str]
) -> list[onnx.NodeProto]:
    """Return what makes an input of one column of the matrix: numbers, or the strings that its places stand for."""
    index, column, typed = (_name(f"{part}_{number}") for part in ("index", "column", "input"))
    graph.initializer.append(numpy_helper.from_array(np.array([number]), index))
    nodes = [helper.make_node("Gather", [INPUT_NAME, index], [column], axis=1)]
    kind = value.type.tensor_type.elem_type
    if kind == TensorProto.STRING:
        place, places = _name(f"place_{number}"), range(len(categories))
        nodes.append(_cast(column, place, TensorProto.INT64))
        strings = {"keys_int64s": list(places), "values_strings": list(categories), "default_string": ""}
        nodes.append(helper.make_node("LabelEncoder", [place], [typed], domain="ai.onnx.ml", **strings))
    else:
        nodes.append(_cast(column, typed, kind))
    if len(value.type.tensor_type.shape.dim) == 1:
        flat, shape = _name(f"flat_{number}"), _name(f"shape_{number}")
        graph.initializer.append(numpy_helper.from_array(np.array([-1]), shape))
        nodes.append(helper.make_node("Reshape", [typed, shape], [flat]))
        typed = flat
    _rename(graph, value.name, typed)
    return nodes


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def _bound(graph: onnx.GraphProto) -> None:
    """Let trees read the columns up to the last one that they name, by number, so that a row has every one of them."""
    nodes = []
    for number, node in enumerate(graph.node):
        if node.op_type in converted.TREES:
            columns = next(each.ints for each in node.attribute if each.name == "nodes_featureids")
            index, taken = _name(f"columns_{number}"), _name(f"taken_{number}")
            graph.initializer.append(numpy_helper.from_array(np.arange(max(columns) + 1), index))
            nodes.append(helper.make_node("Gather", [node.input[0], index], [taken], axis=1))
            node.input[0] = taken
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _without_dictionaries(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the graph's outputs, with the probabilities in front of a ZipMap in place of its dictionaries."""
    before = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "ZipMap"}
    kept = [node for node in graph.node if node.op_type != "ZipMap"]
    del graph.node[:]
    graph.node.extend(kept)
    return [
        helper.make_tensor_value_info(before[each.name], TensorProto.FLOAT, None) if each.name in before else each
        for each in graph.output
    ]


def _column(graph: onnx.GraphProto, name: str) -> str:
    """Add what makes a value of one number a row `(n_rows, 1)` float64, and return its name."""
    shape = _name(f"shape_of_{name}")
    graph.initializer.append(numpy_helper.from_array(np.array([-1, 1]), shape))
    graph.node.append(_cast(name, _name(f"double_{name}"), TensorProto.DOUBLE))
    graph.node.append(helper.make_node("Reshape", [_name(f"double_{name}"), shape], [_name(f"column_{name}")]))
    return _name(f"column_{name}")


def _classes(
    graph: onnx.GraphProto,
    label: onnx.ValueInfoProto,
    probabilities: onnx.ValueInfoProto,
    classes: Sequence[Category],
) -> str:
    """Add what makes a label its position among the classes, beside their probabilities; return its name."""
    keys: dict[str, Any]
    if label.type.tensor_type.elem_type == TensorProto.STRING:
        keys = {"keys_strings": [str(each) for each in classes]}
    else:
        keys = {"keys_int64s": [int(each) for each in classes]}
        graph.node.append(_cast(label.name, _name("label"), TensorProto.INT64))
    graph.node.append(
        helper.make_node(
            "LabelEncoder",
            [_name("label") if "keys_int64s" in keys else label.name],
            [_name("position")],
            domain="ai.onnx.ml",
            values_int64s=list(range(len(classes))),
            default_int64=-1,
            **keys,
        )
    )
    position = _column(graph, _name("position"))
    graph.node.append(_cast(probabilities.name, _name("probabilities"), TensorProto.DOUBLE))
    graph.node.append(helper.make_node("Concat", [position, _name("probabilities")], [_name("answers")], axis=1))
    return _name("answers")
