"""Graphs of a general converter are served only if their operators are known and their trees are trees."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from model.engine import converted
from model.engine.columns import Columns

N_COLUMNS = 3
CHILDREN = {"nodes_truenodeids": [1, 0, 3, 0, 0], "nodes_falsenodeids": [2, 0, 4, 0, 0]}


def tree(**changed: Any) -> dict[str, Any]:
    """Return the attributes of one tree of two splits and three leaves."""
    return {
        "n_targets": 1,
        "nodes_treeids": [0] * 5,
        "nodes_nodeids": [0, 1, 2, 3, 4],
        "nodes_featureids": [0, 0, 2, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [0.5, 0.0, 1.5, 0.0, 0.0],
        **CHILDREN,
        "target_treeids": [0, 0, 0],
        "target_nodeids": [1, 3, 4],
        "target_ids": [0, 0, 0],
        "target_weights": [1.0, 2.0, 3.0],
        **changed,
    }


def model(*, nodes: list[onnx.NodeProto] | None = None, opset: int = 21, **changed: Any) -> onnx.ModelProto:
    """Return a graph whose trees read the input as float32, or one of other operators."""
    trees = helper.make_node("TreeEnsembleRegressor", ["taken"], ["sum"], domain="ai.onnx.ml", **tree(**changed))
    nodes = nodes or [
        helper.make_node("Cast", ["X"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["floats", "three"], ["taken"], axis=1),
        trees,
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.DOUBLE),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("X", TensorProto.DOUBLE, ["n", N_COLUMNS])],
            [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 1])],
            [numpy_helper.from_array(np.arange(n), name) for n, name in ((2, "two"), (3, "three"))],
        ),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)],
    )


def refusal(found: onnx.ModelProto) -> str:
    """Return why a graph is refused."""
    with pytest.raises(ValueError, match=r"its|it has|it needs|it divides") as error:
        converted.check(found.SerializeToString(), N_COLUMNS, 1)
    return str(error.value)


def test_trees_are_accepted() -> None:
    """A graph of known operators and proper trees is accepted, for the width that it has alone."""
    content = model().SerializeToString()
    converted.check(content, N_COLUMNS, 1)
    with pytest.raises(ValueError, match="its input is not 2 wide"):
        converted.check(content, 2, 1)
    with pytest.raises(ValueError, match="its output is not 4 wide"):
        converted.check(content, N_COLUMNS, 4)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"nodes_featureids": [0, 0, 3, 0, 0]}, "name a column that does not exist"),
        ({"nodes_featureids": [-1, 0, 0, 0, 0]}, "name a column that does not exist"),
        ({"nodes_truenodeids": [1, 0, 0, 0, 0]}, "are not trees"),
        ({"nodes_truenodeids": [1, 0, 2, 0, 0]}, "are not trees"),
        ({"nodes_truenodeids": [1, 0, 9, 0, 0]}, "a node that does not exist"),
        ({"nodes_nodeids": [0, 1, 1, 3, 4]}, "a node twice"),
        ({"nodes_nodeids": [0, 1, 2, 3, 2**60]}, "numbers out of range"),
        ({"nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_MEMBER", "LEAF", "LEAF"]}, "an unknown kind"),
        ({"nodes_modes": ["LEAF"] * 4}, "different lengths"),
        ({"target_nodeids": [1, 3, 9]}, "a node that does not exist"),
        ({"target_nodeids": [1, 3, 2]}, "its splits have weights"),
        ({"target_ids": [0, 0, -1]}, "its leaves have numbers out of range"),
        ({"target_weights": [1.0]}, "its leaves have lists of different lengths"),
    ],
)
def test_trees_that_are_none_are_refused(changed: dict[str, Any], reason: str) -> None:
    """Nothing in the trees leads out of them, or out of the row."""
    assert reason in refusal(model(**changed))


def loop() -> onnx.NodeProto:
    """Return an operator that runs a graph of its own."""
    body = helper.make_graph([], "body", [], [])
    return helper.make_node("If", ["X"], ["y"], then_branch=body, else_branch=body)


def from_file() -> onnx.NodeProto:
    """Return a constant whose values are in a file."""
    values = numpy_helper.from_array(np.zeros(3), "values")
    values.ClearField("raw_data")
    values.external_data.add(key="location", value="/etc/hostname")
    values.data_location = TensorProto.EXTERNAL
    return helper.make_node("Constant", [], ["y"], value=values)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([loop()], "the operator 'If'"),
        ([from_file()], "its tensor has the field 1"),
        ([helper.make_node("Identity", ["X"], ["y"], domain="own")], "the operator 'Identity' of 'own'"),
        (
            [
                helper.make_node("Reshape", ["X", "two"], ["other"]),
                helper.make_node("TreeEnsembleRegressor", ["other"], ["y"], domain="ai.onnx.ml", **tree()),
            ],
            "a value whose width is not known",
        ),
        (
            [
                helper.make_node("Gather", ["X", "two"], ["other"], axis=1),
                helper.make_node("TreeEnsembleRegressor", ["other"], ["y"], domain="ai.onnx.ml", **tree()),
            ],
            "name a column that does not exist",
        ),
        (
            [
                helper.make_node("Cast", ["X"], ["whole"], to=TensorProto.INT64),
                helper.make_node("Reshape", ["whole", "two"], ["other"]),
                helper.make_node("Div", ["two", "other"], ["y"]),
            ],
            "it divides whole numbers",
        ),
        ([helper.make_node("Mod", ["X", "X"], ["y"])], "the operator 'Mod'"),
    ],
    ids=["subgraph", "file", "domain", "width", "narrower", "whole numbers", "remainders"],
)
def test_operators_that_could_do_harm_are_refused(nodes: list[onnx.NodeProto], reason: str) -> None:
    """No operator runs a graph of its own, reads a file or another process's code, or reads beyond a row."""
    assert reason in refusal(model(nodes=nodes))


def test_functions_and_new_operators_are_refused() -> None:
    """A model has no functions of its own, and no operators that are newer than those that were looked at."""
    assert "it needs the operators 'ai.onnx' in version 99" in refusal(model(opset=99))
    own = model()
    own.functions.add(name="f")
    assert "its model has the field 25" in refusal(own)


@settings(max_examples=300)
@given(st.data())
def test_any_bytes_are_accepted_or_refused(data: st.DataObject) -> None:
    """Whatever the bytes are, the check ends, and raises nothing but `ValueError`."""
    content = bytearray(model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    with contextlib.suppress(ValueError):
        converted.check(bytes(content), N_COLUMNS, 1)


@pytest.mark.parametrize("position", [-1.0, 2.0, 0.5, np.nan])
def test_label_that_is_none_is_an_error(position: float) -> None:
    """An answer with a position beyond the classes is an error, and never another class."""
    nodes = [
        helper.make_node("Gather", ["X", "three"], ["taken"], axis=1),
        helper.make_node("Identity", ["taken"], ["y"]),
    ]
    found = model(nodes=nodes)
    found.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    engine = converted.ConvertedEngine(found.SerializeToString(), Columns(N_COLUMNS, []), 2, 1e-6)

    assert engine.predict(np.array([[1.0, 0.25, 0.75]])).tolist() == [[1.0, 0.25, 0.75]]
    with pytest.raises(ValueError, match="none of the model's"):
        engine.predict(np.array([[1.0, 0.25, 0.75], [position, 0.25, 0.75]]))
