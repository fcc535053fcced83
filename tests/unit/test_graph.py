"""A graph is served only if our exports could have written it, which is checked before the runtime gets it."""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from app import create_app
from app.config import Config
from model.engine.runtime import Engine
from model.errors import ArtifactError
from model.store import artifact
from model.train.compile.onnx import to_onnx
from tests.support.service import HOUSE, rewrite

ARTIFACTS = Path(__file__).parent / "artifacts"
ROOT = ARTIFACTS / "format-1"
DOUBLE = onnx.TensorProto.DOUBLE
OPERATORS = {"TreeEnsemble", "Sub", "Div", "Mul", "Add", "Relu", "Gemm"}

Change = Callable[[onnx.ModelProto], Any]


def tensor(name: str, kind: int, values: Any) -> onnx.TensorProto:
    return helper.make_tensor(name, kind, [len(values)], values)


def trees(true: list[tuple[int, int]], false: list[tuple[int, int]], *, roots: Any = (0,), **changed: Any) -> bytes:
    """Return a forest of three features, whose branches are (number, whether it is a leaf's)."""
    n_splits, n_leaves = len(true), 1 + max(number for number, is_leaf in (*true, *false, (0, 1)) if is_leaf)
    attributes = {
        "n_targets": 1,
        "aggregate_function": 1,
        "post_transform": 0,
        "tree_roots": list(roots),
        "nodes_modes": tensor("modes", onnx.TensorProto.UINT8, [0] * n_splits),
        "nodes_featureids": [0] * n_splits,
        "nodes_splits": tensor("splits", DOUBLE, [0.5] * n_splits),
        "nodes_truenodeids": [number for number, _ in true],
        "nodes_trueleafs": [is_leaf for _, is_leaf in true],
        "nodes_falsenodeids": [number for number, _ in false],
        "nodes_falseleafs": [is_leaf for _, is_leaf in false],
        "leaf_targetids": [0] * n_leaves,
        "leaf_weights": tensor("weights", DOUBLE, [1.0] * n_leaves),
        **changed,
    }
    node = helper.make_node("TreeEnsemble", ["X"], ["y"], domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info("X", DOUBLE, ["n_rows", 3])],
        [helper.make_tensor_value_info("y", DOUBLE, ["n_rows", 1])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 5)]
    return bytes(helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString())


def chain(depth: int, *, trees_of_it: int = 1, **changed: Any) -> bytes:
    """Return trees in which each split's left branch is the next split."""
    true = [(n + 1, 0) if (n + 1) % depth else (0, 1) for n in range(depth * trees_of_it)]
    return trees(true, [(0, 1)] * len(true), roots=range(0, len(true), depth), **changed)


def network(widths: tuple[int, ...] = (3, 4, 1), *, n_outputs: int = 1, **changed: Any) -> bytes:
    """Return a network like those of `model/train/learners/mlp.py`; `changed` replaces constants."""
    constants = {"x_mean": np.zeros(widths[0]), "x_scale": np.ones(widths[0])}
    nodes = [
        helper.make_node("Sub", ["X", "x_mean"], ["centred"]),
        helper.make_node("Div", ["centred", "x_scale"], ["Z"]),
    ]
    value = "Z"
    for number, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        if number:
            nodes.append(helper.make_node("Relu", [value], [f"relu_{number}"]))
            value = f"relu_{number}"
        constants |= {f"weight_{number}": np.ones((n_out, n_in)), f"bias_{number}": np.zeros(n_out)}
        inputs = [value, f"weight_{number}", f"bias_{number}"]
        value = f"layer_{number}"
        nodes.append(helper.make_node("Gemm", inputs, [value], transB=1))
    constants |= {"y_scale": np.array(2.0), "y_mean": np.array([1.0]), **changed}
    nodes.append(helper.make_node("Mul", [value, "y_scale"], ["unscaled"]))
    nodes.append(helper.make_node("Add", ["unscaled", "y_mean"], ["y"]))
    return to_onnx(
        "mlp",
        nodes,
        n_features=widths[0],
        n_outputs=n_outputs,
        constants=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )


def changed(graph: bytes, change: Change) -> bytes:
    """Return the graph with a change."""
    model = onnx.load_from_string(graph)
    change(model)
    return bytes(model.SerializeToString())


def refusal(graph: bytes) -> str:
    """Return the reason why a graph is refused, after checking that the runtime did not get it."""
    with pytest.raises(ValueError, match=r".") as caught:
        Engine(graph)
    assert "ONNX Runtime" not in str(caught.value)
    return str(caught.value)


def outside(tensor: onnx.TensorProto, file: str, length: int) -> None:
    """Move a tensor's values to a file."""
    for field in ("raw_data", "double_data", "int32_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": file, "offset": "0", "length": str(length)}.items():
        tensor.external_data.add(key=key, value=value)


def attribute(model: onnx.ModelProto, name: str, node: int = 0) -> onnx.AttributeProto:
    return next(found for found in model.graph.node[node].attribute if found.name == name)


def loop(model: onnx.ModelProto) -> None:
    """Put an endless loop before the output."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["in"], ["out"])],
        "body",
        [
            helper.make_tensor_value_info("number", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("in", DOUBLE, None),
        ],
        [
            helper.make_tensor_value_info("go_on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("out", DOUBLE, None),
        ],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("Loop", ["", "true", "before"], ["y"], body=body))


def function(model: onnx.ModelProto) -> None:
    """Call a function in place of the last operator."""
    opsets = [helper.make_opsetid("", 21)]
    model.functions.append(
        helper.make_function("own", "Add", ["a", "b"], ["c"], [helper.make_node("Add", ["a", "b"], ["c"])], opsets)
    )
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[-1].domain = "own"


def enormous(model: onnx.ModelProto) -> None:
    """Make 8 TiB of zeros from 16 bytes."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**40]), "shape"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["zeros"]))


@pytest.mark.parametrize("graph", [trees([(0, 1)], [(1, 1)]), chain(1000), network(), network((3, 1))])
def test_graphs_as_our_exports_write_them_are_served(graph: bytes) -> None:
    """Trees and networks as our exports write them are compiled and return a number per row."""
    assert Engine(graph).predict(np.ones((5, 3))).shape == (5,)


@pytest.mark.parametrize("place", ["initializer", "attribute"])
def test_values_from_a_file_are_refused(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph with values in a file beside the server is refused; the file is not read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(np.ones(3).tobytes())
    if place == "initializer":
        graph = changed(network(), lambda model: outside(model.graph.initializer[0], "secret", 24))
    else:
        graph = changed(
            chain(3), lambda model: outside(attribute(model, "nodes_splits").t, str(tmp_path / "secret"), 24)
        )

    assert refusal(graph) in (
        "its tensor has the field 13, which is not served",
        "its tensor has the field 14, which is not served",
    )


def test_secret_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact with right hashes and golden rows, whose graph reads a secret file as a weight, is not served."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(np.array([7.0]).tobytes())
    folder = ARTIFACTS / "format-2"
    files = {name: (folder / name).read_bytes() for name in ("golden.json", "reference.json")}
    golden = {"columns": list(HOUSE), "X": [list(map(float, HOUSE.values()))], "y": [7.0]}
    graph = changed(
        network((6, 1), weight_0=np.zeros((1, 6)), y_scale=np.array(0.0)),
        lambda model: outside(next(item for item in model.graph.initializer if item.name == "y_mean"), ".env", 8),
    )
    manifest = {**artifact.read_manifest(folder), "files": {}}
    path = tmp_path / "store" / "m" / "1"
    artifact.save(
        artifact.Draft(
            {key: value for key, value in manifest.items() if key not in ("digest", "created_at")},
            {**files, "model.onnx": graph, "golden.json": artifact.to_json(golden)},
        ),
        make(path),
        name="m",
        version=1,
    )
    client: FlaskClient = create_app(
        Config(store=tmp_path / "store", models=("m@1",)), write_log=lambda pieces: None
    ).test_client()

    assert client.post("/predict", json=HOUSE).status_code == 503
    assert "which is not served" in client.get("/readyz").get_data(as_text=True)


def make(folder: Path) -> Path:
    """Make the folder above, and return the folder."""
    folder.parent.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: attribute(model, "transB", 2).g.node.add(), "its attribute has the field 6"),
        (lambda model: attribute(model, "transB", 2).tensors.add(), "its attribute has the field 10"),
        (loop, "the operator 'Loop'"),
        (function, "its model has the field 25"),
        (enormous, "the operator 'ConstantOfShape'"),
        (lambda model: model.graph.node.append(helper.make_node("Relu", ["y"], ["z"])), "are not one chain"),
        (lambda model: model.metadata_props.add(key="a", value="b"), "its model has the field 14"),
        (lambda model: model.training_info.add(), "its model has the field 20"),
        (lambda model: model.graph.sparse_initializer.add(), "its graph has the field 15"),
        (lambda model: model.graph.quantization_annotation.add(), "its graph has the field 14"),
        (lambda model: model.graph.value_info.add(name="x"), "its graph has the field 13"),
        (lambda model: setattr(model.graph.node[-1], "overload", "x"), "its operator has the field 8"),
        (lambda model: setattr(model.graph.node[-1], "domain", "com.microsoft"), "'Add' of 'com.microsoft'"),
        (lambda model: setattr(model.opset_import[0], "version", 1), "in version 1"),
        (lambda model: model.opset_import.append(helper.make_opsetid("com.microsoft", 1)), "'com.microsoft'"),
        (lambda model: setattr(model.graph.node[0].attribute.add(name="a", type=2), "i", 1), "its attribute 'a'"),
        (lambda model: model.graph.node[2].ClearField("attribute"), "does not have the attributes"),
        (lambda model: setattr(model.graph.node[2].attribute[0], "i", 0), "do not fit the layer"),
        (lambda model: setattr(model.graph.initializer[0], "data_type", 1), "is not of double"),
        (lambda model: model.graph.initializer[0].dims.append(2), "values in the shape"),
        (lambda model: model.graph.initializer[0].dims.__setitem__(0, -3), "values in the shape"),
        (lambda model: model.graph.initializer.append(model.graph.initializer[0]), "is repeated"),
        (lambda model: model.graph.input.append(model.graph.input[0]), "more than 1 of the field 'input'"),
        (lambda model: setattr(model.graph.output[0], "name", "z"), "output is not a matrix y"),
        (lambda model: setattr(model.graph.output[0].type.tensor_type, "elem_type", 1), "its output is tensor(float)"),
        (lambda model: setattr(model.graph.node[1], "op_type", "Mod"), "the operator 'Mod'"),
        (lambda model: model.graph.node[1].input.__setitem__(0, "X"), "are not one chain"),
        (lambda model: model.graph.node.pop(), "are not one chain"),
        (lambda model: model.graph.ClearField("node"), "more than one number per row"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_our_exports_do_not_write_is_refused(change: Change, reason: str) -> None:
    """Whatever our exports do not write is refused by name, before the runtime gets the graph."""
    assert reason in refusal(changed(network(), change))


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (network(y_scale=np.array(np.nan)), "is not finite"),
        (network(bias_0=np.array([1.0, np.inf, 0.0, 0.0])), "is not finite"),
        (network(x_scale=np.array([1.0, 0.0, 1.0])), "it divides by 0"),
        (network(x_mean=np.zeros(4)), "does not fit"),
        (network(bias_0=np.zeros(5)), "do not fit"),
        (network((3, 4, 2)), "more than one number per row"),
        (network((3, 2**13 + 1, 1)), "a layer of width 8193"),
    ],
    ids=["NaN", "infinite", "divides by 0", "mean", "bias", "two answers", "wide"],
)
def test_invalid_networks_are_refused(graph: bytes, reason: str) -> None:
    """The constants of a network are finite, have matching shapes, and no layer is too wide."""
    assert reason in refusal(graph)


def test_network_of_a_classifier_has_a_sum_for_each_class() -> None:
    """A graph is served for as many outputs as it has, and refused for another number; trees have one."""
    engine = Engine(network((3, 4, 2), n_outputs=2), n_outputs=2, decision="largest sum")

    assert engine.predict(np.ones((5, 3))).shape == (5, 3)
    with pytest.raises(ValueError, match="it returns not 3 numbers per row"):
        Engine(network((3, 4, 2), n_outputs=2), n_outputs=3, decision="largest sum")
    with pytest.raises(ValueError, match="it returns not 2 numbers per row"):
        Engine(network((3, 4, 3), n_outputs=2), n_outputs=2, decision="largest sum")
    with pytest.raises(ValueError, match="it returns not 2 numbers per row"):
        Engine(trees([(0, 1)], [(0, 1)]), n_outputs=2, decision="largest sum")


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (trees([(1, 0), (0, 0)], [(0, 1), (1, 1)]), "are not trees"),
        (trees([(0, 1), (1, 0)], [(1, 1), (0, 1)]), "some form a cycle"),
        (trees([(1, 0), (0, 1)], [(1, 0), (0, 1)]), "are not trees"),
        (trees([(0, 1)], [(0, 1)], roots=[0] * 100), "are not trees"),
        (trees([(5, 0)], [(0, 1)]), "a split that does not exist"),
        (trees([(0, 1)], [(-1, 0)]), "a split that does not exist"),
        (trees([(0, 1)], [(0, 1)], leaf_weights=tensor("w", DOUBLE, [])), "has no values of its type"),
        (
            trees([(0, 1)], [(1, 1)], leaf_targetids=[0], leaf_weights=tensor("w", DOUBLE, [1.0])),
            "a leaf that does not exist",
        ),
        (trees([(-1, 1)], [(0, 1)]), "a leaf that does not exist"),
        (trees([(0, 2)], [(0, 1)]), "a kind of branch that does not exist"),
        (trees([(0, 1)], [(0, 1)], nodes_featureids=[3]), "a feature that does not exist"),
        (trees([(0, 1)], [(0, 1)], nodes_featureids=[-1]), "a feature that does not exist"),
        (trees([(0, 1)], [(0, 1)], n_targets=2), "not summed to one number"),
        (trees([(0, 1)], [(0, 1)], aggregate_function=0), "not summed to one number"),
        (trees([(0, 1)], [(0, 1)], leaf_targetids=[1]), "not of the kind"),
        (trees([(0, 1)], [(0, 1)], nodes_splits=tensor("s", DOUBLE, [np.nan])), "not of the kind"),
        (trees([(0, 1)], [(0, 1)], leaf_weights=tensor("w", DOUBLE, [np.nan])), "finite number"),
        (trees([(0, 1)], [(1, 1)], leaf_weights=tensor("w", DOUBLE, [1e308, 1e308])), "finite number"),
        (trees([(0, 1)], [(0, 1)], nodes_featureids=[0, 0]), "different lengths"),
        (chain(1025), "a tree of more than 1024 levels"),
        (chain(1, trees_of_it=2**14 + 1), "it has 16385 trees"),
    ],
)
def test_splits_that_are_not_trees_are_refused(graph: bytes, reason: str) -> None:
    """Splits that form a cycle, lead nowhere, are too deep or too many, or name no feature are refused at once."""
    began = time.process_time()
    assert reason in refusal(graph)
    assert time.process_time() - began < 10


def test_oversized_graph_is_refused() -> None:
    """A graph with too many bytes is refused before it is parsed, and so is one with very many small parts."""
    assert "at most 67108864 are allowed" in refusal(bytes(2**26 + 1))
    empty = onnx.load_from_string(network()).SerializeToString() + b"\x3a\x00" * 2
    assert "more than 1 of the field 'graph'" in refusal(empty)
    for number, name in ((1, "node"), (5, "initializer")):
        assert f"of the field {name!r}" in refusal(field(7, field(number, b"") * 2**12))


def field(number: int, content: bytes) -> bytes:
    """Return a field of less than 16 KiB in Protocol Buffers."""
    return bytes([number << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7]) + content


@pytest.fixture(scope="module")
def seeds() -> list[bytes]:
    """Graphs to change: small ones of both kinds, and that of format 1."""
    return [
        trees([(1, 0), (0, 1)], [(1, 1), (2, 1)]),
        network(),
        (ROOT / "model.onnx").read_bytes(),
    ]


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        yield from (item.t for item in node.attribute if item.HasField("t"))


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_no_changed_graph_gets_past(seeds: list[bytes], data: st.DataObject) -> None:
    """Whichever bytes of a graph change, a graph that is served has only our operators by ONNX's own parser."""
    content = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(max_size=3) | st.integers(0, 255).map(lambda value: bytes([value])))
        content[place : place + data.draw(st.integers(0, 3))] = piece
        if not content:
            return
    try:
        engine = Engine(bytes(content))
    except ValueError:
        return
    model = onnx.load_from_string(bytes(content))
    assert {node.op_type for node in model.graph.node} <= OPERATORS
    assert not model.functions
    assert not any(item.external_data or item.data_location for item in tensors(model))
    assert not any(item.HasField("g") or item.graphs for node in model.graph.node for item in node.attribute)
    n_features = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    if n_features < 100:
        assert engine.predict(np.ones((2, n_features))).shape == (2,)


def test_garbage_is_refused() -> None:
    """Bytes that are not a graph raise `ValueError`, however they begin."""
    draw = random.Random(7)
    for _ in range(2000):
        garbage = bytes([draw.choice((0x08, 0x3A, 0x42, 0x12)), *draw.randbytes(draw.randrange(40))])
        with pytest.raises(ValueError, match=r"."):
            Engine(garbage)


def test_graph_of_an_artifact_is_refused_by_name(tmp_path: Path) -> None:
    """An artifact with right hashes whose graph is refused is an `ArtifactError` with the file and the remedy."""
    folder = shutil.copytree(ARTIFACTS / "format-2", tmp_path / "1")
    rewrite(folder, lambda manifest: None, {"model.onnx": changed(network((6, 1)), loop)})

    with pytest.raises(
        ArtifactError, match=r"model\.onnx: cannot be served: it has the operator 'Loop' .*; train it again"
    ):
        artifact.load(folder)
