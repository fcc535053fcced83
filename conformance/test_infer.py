"""Inference with tensors in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.conftest import Same
from conformance.protocol import JSON, Server, body_of, flatten, nest, outputs_of, take_rows

# What an element in JSON is in Python, by the first letters of its datatype. A whole number may be written as 1.
ELEMENTS: dict[str, tuple[type, ...]] = {
    "BO": (bool,),
    "UI": (int,),
    "IN": (int,),
    "FP": (int, float),
    "BY": (str,),
}


def nulls(value: Any, path: str = "reply") -> list[str]:
    """Return where null stands in fields; elements of tensors are ignored."""
    if isinstance(value, dict):
        return [null for key, item in value.items() if key != "data" for null in nulls(item, f"{path}.{key}")]
    if isinstance(value, list):
        return [null for i, item in enumerate(value) for null in nulls(item, f"{path}[{i}]")]
    return [path] if value is None else []


@pytest.mark.core
def test_reply(server: Server, infer_request: JSON) -> None:
    """A reply has model_name and outputs; each has name, shape, datatype and as many elements as its shape says.

    inference_rest.md, "Inference Response JSON Object" and "Response Output".
    """
    body = body_of(server.infer(infer_request))

    assert body["model_name"] == server.model
    assert body["outputs"]
    for output in body["outputs"]:
        elements = flatten(output["data"])
        assert isinstance(output["name"], str)
        assert all(type(size) is int and size >= 0 for size in output["shape"])
        assert len(elements) == math.prod(output["shape"])
        assert {type(element) for element in elements} <= set(ELEMENTS[output["datatype"][:2]])


@pytest.mark.core
def test_outputs_are_those_declared(server: Server, metadata: JSON, infer_request: JSON) -> None:
    """A request that names no outputs gets all of them, as the metadata declare (inference_rest.md, "outputs")."""
    if not metadata.get("outputs"):
        pytest.skip("the model metadata declare no outputs")
    outputs = body_of(server.infer(infer_request))["outputs"]

    declared = {tensor["name"]: tensor for tensor in metadata["outputs"]}
    assert {output["name"]: output["datatype"] for output in outputs} == {
        name: tensor["datatype"] for name, tensor in declared.items()
    }
    for output in outputs:
        shape = declared[output["name"]]["shape"]
        assert len(output["shape"]) == len(shape)
        assert all(size in (-1, actual) for size, actual in zip(shape, output["shape"]))


@pytest.mark.core
def test_reply_has_no_null(server: Server, infer_request: JSON) -> None:
    """A field without a value is left out: none of the types allows null (open_inference_rest.yaml)."""
    assert nulls(body_of(server.infer(infer_request))) == []


@pytest.mark.core
@pytest.mark.parametrize("id_", ["42", "", "ключ \"'\\ 鍵"], ids=["number", "empty", "unicode"])
def test_id_is_returned(server: Server, infer_request: JSON, id_: str) -> None:
    """An id "must be returned in the response" (inference_rest.md, "Inference Request JSON Object")."""
    reply = body_of(server.infer({"id": id_, **infer_request}))

    assert reply.get("id", "" if id_ == "" else None) == id_


@pytest.mark.core
def test_parameters_are_taken(server: Server, infer_request: JSON, assert_same: Same) -> None:
    """Parameters are strings, numbers and booleans; none is standard (inference_rest.md, "Parameters")."""
    assert_same(server.infer({**infer_request, "parameters": {"a": "b", "c": 1.5, "d": True}}))


@pytest.mark.core
def test_version_is_used(server: Server, infer_request: JSON, version: str) -> None:
    """A version in the path is used; model_version, where given, names it (inference_rest.md)."""
    body = body_of(server.infer(infer_request, version=version))

    assert body.get("model_version", version) == version


@pytest.mark.core
def test_nested_data_equals_flat(server: Server, infer_request: JSON, assert_same: Same) -> None:
    """Elements may be nested or flat, both row-major, with the same answer (inference_rest.md, "Tensor Data")."""
    if all(len(tensor["shape"]) < 2 for tensor in infer_request["inputs"]):
        pytest.skip("no input has two dimensions")
    for tensor in infer_request["inputs"]:
        tensor["data"] = nest(tensor["data"], tensor["shape"])

    assert_same(server.infer(infer_request))


@pytest.mark.robust
def test_rows_are_independent(
    server: Server, rows: JSON, assert_equal: Callable[[NDArray[Any], NDArray[Any]], None]
) -> None:
    """Several rows are answered like the same rows one at a time; a model may differ, a batch should not."""
    together = outputs_of(server.infer(rows))
    alone = [outputs_of(server.infer(take_rows(rows, [i]))) for i in range(rows["inputs"][0]["shape"][0])]

    for name, values in together.items():
        assert_equal(np.concatenate([outputs[name] for outputs in alone]), values)


@pytest.mark.robust
def test_rows_keep_their_order(
    server: Server, rows: JSON, assert_equal: Callable[[NDArray[Any], NDArray[Any]], None]
) -> None:
    """Rows in reverse are answered in reverse."""
    n_rows = rows["inputs"][0]["shape"][0]
    forth = outputs_of(server.infer(rows))
    back = outputs_of(server.infer(take_rows(rows, range(n_rows)[::-1])))

    for name, values in forth.items():
        assert_equal(back[name][::-1], values)


@pytest.mark.robust
def test_inputs_in_any_order(server: Server, infer_request: JSON, assert_same: Same) -> None:
    """Inputs are found by name; the specification does not say in which order they stand."""
    if len(infer_request["inputs"]) < 2:
        pytest.skip("one input")
    infer_request["inputs"].reverse()

    assert_same(server.infer(infer_request))


@pytest.mark.core
def test_requested_outputs(server: Server, infer_request: JSON, assert_same: Same) -> None:
    """Naming every output gives them all (inference_rest.md, "outputs")."""
    names = [output["name"] for output in body_of(server.infer(infer_request))["outputs"]]

    assert_same(server.infer({**infer_request, "outputs": [{"name": name} for name in names]}))


@pytest.mark.core
def test_requested_subset(server: Server, infer_request: JSON) -> None:
    """Only the outputs that a request names are returned (inference_rest.md, "outputs")."""
    names = [output["name"] for output in body_of(server.infer(infer_request))["outputs"]]
    if len(names) < 2:
        pytest.skip("one output")

    for name in names:
        assert list(outputs_of(server.infer({**infer_request, "outputs": [{"name": name}]}))) == [name]


@pytest.mark.robust
@pytest.mark.parametrize("content_type", [None, "application/json; charset=utf-8"], ids=["absent", "charset"])
def test_content_type(server: Server, infer_request: JSON, assert_same: Same, content_type: str | None) -> None:
    """JSON is taken without a Content-Type, as tritonclient sends it, and with a parameter in it."""
    headers = {"Content-Type": content_type} if content_type else None

    assert_same(server.infer(json.dumps(infer_request).encode(), headers))


@pytest.mark.robust
def test_reply_is_declared_as_json(server: Server, infer_request: JSON) -> None:
    """A reply in JSON says so."""
    assert server.infer(infer_request).headers.get("Content-Type", "").split(";")[0] == "application/json"
