"""What the tests of v2 share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tests.support.service import HOUSE, write_tensors

NAME = "boston-housing"
MODEL = f"/v2/models/{NAME}"
INFER = f"{MODEL}/infer"
JSON_LENGTH = "Inference-Header-Content-Length"
ROW = list(HOUSE.values())

DTYPES = {
    **{f"UINT{width}": np.dtype(f"<u{width // 8}") for width in (8, 16, 32, 64)},
    **{f"INT{width}": np.dtype(f"<i{width // 8}") for width in (8, 16, 32, 64)},
    **{f"FP{width}": np.dtype(f"<f{width // 8}") for width in (16, 32, 64)},
}
HUGE = [2**60 + 1, 2**62, 2**63, 2**64, 10**30]

Document = dict[str, Any]
Change = Callable[[Document], Any]


def tensor(name: str, data: Any, shape: list[int] | None = None, datatype: str = "FP64") -> Document:
    """Return an input in JSON, of shape `[n]` if none is given."""
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data}


def put(*path: Any, value: Any) -> Change:
    """Return a change that sets the value at a path in a request."""

    def change(document: Document) -> Document:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return document

    return change


def take(*path: Any) -> Change:
    """Return a change that removes the value at a path in a request."""

    def change(document: Document) -> Document:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]
        return document

    return change


def first(**fields: Any) -> Change:
    """Return a change of fields of the first input, CHAS."""
    return lambda document: {"inputs": [{**document["inputs"][0], **fields}, *document["inputs"][1:]]}


def matrix(data: Any, shape: list[Any], **fields: Any) -> Change:
    """Return a change that replaces all inputs by one matrix."""
    return lambda document: {"inputs": [{**tensor("X", data, shape), **fields}]}


def output(**fields: Any) -> Change:
    """Return a change that requests the output with more fields."""
    return put("outputs", value=[{"name": "prediction", **fields}])


Wrong = dict[str, tuple[Change, str]]


def each(what: str, values: Iterable[Any], change: Callable[[Any], Change], named: str) -> Wrong:
    """Return a bad request for each value, and the text that its message must contain."""
    return {f"{what} {value}": (change(value), named) for value in values}


def replaced(*path: Any) -> Callable[[Any], Change]:
    """Return a function from a value to the change that sets it at a path."""
    return lambda value: put(*path, value=value)


def added(item: Document) -> Change:
    """Return a change that adds an input."""
    return lambda document: {"inputs": [*document["inputs"], item]}


SHAPES: list[Any] = [
    *(None, 2, "2", {}, [], ["2"], [None], [2.5], [True], [[2]], [1e999]),
    *([-1], [-2], [2, -1], [-1, -2], [2, 1, 1], [1, 1, 2], [2, 1, 1, 1], [1] * 1_000),
]
# Triton's own tests send these.
OVERFLOWING = [shape for length in HUGE for shape in ([length], [length, 1], [2, length])] + [[2**32] * 2, [2**60] * 2]

# Bad requests without binary data, each with the text that its message must contain.
WRONG: Wrong = {
    **each("request", [[], 1, "x", None, True], lambda value: lambda _: value, "JSON object"),
    **each("id", [42, 1.5, True, [], {}], replaced("id"), "id"),
    **each("parameters", [[1], "x", 1, True], replaced("parameters"), "parameters"),
    **each(
        "binary_data_output",
        ["true", 1, [], {}],
        lambda value: put("parameters", value={"binary_data_output": value}),
        "binary_data_output",
    ),
    "no inputs": (take("inputs"), "inputs"),
    **each("inputs", [None, [], {}, "x", 1], replaced("inputs"), "inputs"),
    **each("input", [None, 1, "RM", [], {}], replaced("inputs", 2), "input"),
    "no name": (take("inputs", 0, "name"), "name"),
    **each("name", [None, 1, ["CHAS"], {}], replaced("inputs", 0, "name"), "name"),
    "unknown name": (first(name="ZN"), "ZN"),
    "name of another case": (first(name="chas"), "chas"),
    "missing input": (take("inputs", 1), "RM"),
    "one input alone": (lambda document: {"inputs": document["inputs"][:1]}, "RM"),
    "input too many": (added(tensor("ZN", [1.0, 2.0])), "ZN"),
    "inputs by the dozen": (
        lambda _: {"inputs": [tensor(f"c{i}", [1.0], [1]) for i in range(27)]},
        "27 columns where there are 6",
    ),
    "input twice": (added(tensor("RM", [1.0, 2.0])), "column 'RM': repeated"),
    "input in place of another": (first(name="RM"), "column 'RM': repeated"),
    "matrix beside inputs": (added(tensor("X", [0.0] * 12, [2, 6])), "X"),
    "matrix twice": (lambda _: {"inputs": [tensor("X", [0.0] * 12, [2, 6])] * 2}, "X"),
    "no datatype": (take("inputs", 0, "datatype"), "CHAS"),
    **each("datatype", [None, 64, ["FP64"], {}, ""], replaced("inputs", 0, "datatype"), "CHAS"),
    **each("datatype", ["FP8", "BF16", "fp64", "float64", "BOOL", "BYTES"], replaced("inputs", 0, "datatype"), "CHAS"),
    "no shape": (take("inputs", 0, "shape"), "CHAS"),
    **each("shape", SHAPES, replaced("inputs", 0, "shape"), "CHAS"),
    **each("shape", OVERFLOWING, replaced("inputs", 0, "shape"), "CHAS"),
    "shape true, which would fit": (lambda _: first(shape=[True])(write_tensors([ROW])), "CHAS"),
    "shape of no rows": (first(shape=[0], data=[]), "no rows"),
    "shape of no columns": (first(shape=[2, 0], data=[]), "CHAS"),
    "no data": (take("inputs", 0, "data"), "has no data"),
    **each("data", [None, 1, 1.5, "1", {}, True, {"0": 1}], replaced("inputs", 0, "data"), "CHAS"),
    **each("data of another length", [[], [1.0], [1.0] * 3], replaced("inputs", 0, "data"), "CHAS"),
    "one input shorter": (first(shape=[1], data=[1.0]), "shape"),
    "one input longer": (first(shape=[3], data=[1.0] * 3), "shape"),
    "one input wider": (first(shape=[2, 2], data=[1.0] * 4), "CHAS"),
    "nested where flat": (first(data=[[1.0], [2.0]]), "row 0, column 'CHAS'"),
    "one nested": (first(data=[1.0, [2.0]]), "row 1, column 'CHAS'"),
    **each(
        "column",
        [[[1.0], [2.0, 3.0]], [[1.0], 2.0], [1.0, [2.0]], [[[1.0]], [[2.0]]], [[1.0, 2.0]]],
        lambda value: first(shape=[2, 1], data=value),
        "CHAS",
    ),
    "matrix ragged": (matrix([ROW, ROW[:-1]], [2, 6]), "X"),
    "matrix mixed": (matrix([ROW, *ROW[:5]], [2, 6]), "X"),
    "matrix too short": (matrix([0.0] * 11, [2, 6]), "X"),
    "matrix too narrow": (matrix([0.0] * 10, [2, 5]), "X"),
    "matrix too wide": (matrix([0.0] * 14, [2, 7]), "X"),
    "matrix on its side": (matrix([0.0] * 12, [6, 2]), "X"),
    "matrix without rows": (matrix([], [0, 6]), "no rows"),
    "matrix of one dimension": (matrix(ROW, [6]), "X"),
    "matrix of three": (matrix([[ROW]], [1, 1, 6]), "X"),
    "matrix of the name of a feature": (matrix([0.0] * 12, [2, 6], name="RM"), "RM"),
    "null": (first(data=[1.0, None]), "row 1, column 'CHAS': missing"),
    "text": (first(data=["1", 2.0]), "row 0, column 'CHAS': not a number"),
    "true": (first(data=[1.0, True]), "row 1, column 'CHAS': not a number"),
    "true among whole numbers": (first(data=[1, True], datatype="INT64"), "row 1, column 'CHAS': not a number"),
    "object": (first(data=[1.0, {}]), "row 1, column 'CHAS': not a number"),
    "null in a matrix": (matrix([*ROW, 0, None, *ROW[2:]], [2, 6]), "row 1, column 'RM': missing"),
    "NaN": (first(data=[1.0, float("nan")]), "row 1, column 'CHAS': not finite"),
    "infinity in a matrix": (matrix([[*ROW[:5], float("-inf")]], [1, 6]), "row 0, column 'LSTAT': not finite"),
    "beyond the model": (first(data=[1.0, 1e300]), "row 1, column 'CHAS': out of range"),
    "FP32 overflows": (first(data=[1.0, 1e39], datatype="FP32"), "row 1, column 'CHAS': not finite"),
    "FP16 overflows": (first(data=[70_000, 1], datatype="FP16"), "row 0, column 'CHAS': not finite"),
    "FP16 overflows in a matrix": (matrix([*ROW[:4], 1e6, 1.0], [1, 6], datatype="FP16"), "row 0, column 'B'"),
    **{
        f"{value!r} in {datatype}": (first(data=[0, value], datatype=datatype), "column 'CHAS': its data are not all")
        for datatype, dtype in DTYPES.items()
        if dtype.kind != "f"
        for value in (int(np.iinfo(dtype).min) - 1, int(np.iinfo(dtype).max) + 1, 0.5, 1e300, float("nan"))
    },
    **each("outputs", ["all", {}, 1, [1], [None], [[]]], replaced("outputs"), "outputs"),
    **each(
        "output",
        [{}, {"name": "y"}, {"name": None}, {"name": ["prediction"]}],
        lambda value: put("outputs", value=[value]),
        "has no output",
    ),
    "output twice": (put("outputs", value=[{"name": "prediction"}] * 2), "more than once"),
    "one output more": (put("outputs", value=[{"name": "prediction"}, {"name": "y"}]), "no output 'y'"),
    "output's parameters": (output(parameters=[1]), "prediction"),
    **each("binary_data", ["x", 1, [], {}], lambda value: output(parameters={"binary_data": value}), "binary_data"),
    "classification": (output(parameters={"classification": 3}), "classification"),
    **each("input's parameters", [[1], "x", 1, True], replaced("inputs", 0, "parameters"), "parameters"),
    **each(
        "binary_data_size",
        [-1, 1.0, True, "8", [8], {}, 8, 2**62, 10**30, float("nan")],  # the size of data that were not sent
        lambda value: first(data=None, parameters={"binary_data_size": value}),
        "binary_data_size",
    ),
    "both data and size": (first(parameters={"binary_data_size": 0}), "CHAS"),
}
