"""Requests that are wrong, from careless to hostile."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import requests

from conformance.conftest import Refused
from conformance.protocol import JSON, Server, body_of, error_of, nest, parse

Change = Callable[[JSON], Any]


def with_input(**fields: Any) -> Change:
    """Return what changes fields of the first input."""

    def change(request: JSON) -> JSON:
        request["inputs"][0].update(fields)
        return request

    return change


def without(field: str) -> Change:
    """Return what takes a field from the first input."""

    def change(request: JSON) -> JSON:
        del request["inputs"][0][field]
        return request

    return change


def with_data(edit: Callable[[list[Any]], Any]) -> Change:
    """Return what edits the data of the first input."""

    def change(request: JSON) -> JSON:
        request["inputs"][0]["data"] = edit(request["inputs"][0]["data"])
        return request

    return change


def deep(depth: int) -> Change:
    """Return what nests the data of the first input, as text: json.dumps would not go as deep."""

    def change(request: JSON) -> bytes:
        data = request["inputs"][0]["data"]
        request["inputs"][0]["data"] = "DATA"
        return json.dumps(request).replace('"DATA"', "[" * depth + json.dumps(data) + "]" * depth).encode()

    return change


def with_first_element(element: Any) -> Change:
    """Return what replaces the first element of the first input of numbers."""

    def change(request: JSON) -> JSON:
        tensors = [tensor for tensor in request["inputs"] if tensor["datatype"].startswith(("FP", "INT", "UINT"))]
        if not tensors:
            pytest.skip("no input of numbers")
        tensors[0]["data"] = [element, *tensors[0]["data"][1:]]
        return request

    return change


def with_shape(edit: Callable[[list[int]], Any]) -> Change:
    """Return what edits the shape of the first input."""

    def change(request: JSON) -> JSON:
        request["inputs"][0]["shape"] = edit(request["inputs"][0]["shape"])
        return request

    return change


def ragged(request: JSON) -> JSON:
    tensor = request["inputs"][0]
    data = tensor["data"]
    nested = nest(data, tensor["shape"]) if len(tensor["shape"]) > 1 else [data[:1], *data[1:]]
    tensor["data"] = [[nested, data[:1]], nested]
    return request


def input_twice(request: JSON) -> JSON:
    request["inputs"].append(request["inputs"][0])
    return request


def input_missing(request: JSON) -> JSON:
    if len(request["inputs"]) < 2:
        pytest.skip("one input")
    request["inputs"].pop()
    return request


def input_unknown(request: JSON) -> JSON:
    if len(request["inputs"]) < 2:
        pytest.skip("one input, which some servers take by any name")
    return with_input(name="no-such-input")(request)  # type: ignore[no-any-return]


def input_too_many(request: JSON) -> JSON:
    request["inputs"].append({**request["inputs"][0], "name": "no-such-input"})
    return request


# No server can read these: JSON and the fields are required by inference_rest.md and open_inference_rest.yaml alike.
UNREADABLE: dict[str, Change] = {
    "not JSON": lambda request: b'{"inputs": [',
    "empty body": lambda request: b"",
    "a list": lambda request: json.dumps([request]).encode(),
    "null": lambda request: b"null",
    "no inputs": lambda request: {"id": "42"},
    "input without name": without("name"),
    "input without shape": without("shape"),
    "input without datatype": without("datatype"),
    "input without data": without("data"),
}

# A server may understand some of these in its own way as far as the specification goes.
WRONG: dict[str, Change] = {
    "not UTF-8": lambda request: b'{"inputs": "\xff"}',
    "text after JSON": lambda request: json.dumps(request).encode() + b" x",
    "id not a string": lambda request: {**request, "id": 42},
    "parameters not an object": lambda request: {**request, "parameters": [1]},
    "inputs empty": lambda request: {**request, "inputs": []},
    "inputs an object": lambda request: {**request, "inputs": request["inputs"][0]},
    "input a string": lambda request: {**request, "inputs": [request["inputs"][0]["name"]]},
    "input unknown": input_unknown,
    "input too many": input_too_many,
    "input missing": input_missing,
    "input twice": input_twice,
    "name not a string": with_input(name=["a"]),
    "datatype unknown": with_input(datatype="FP99"),
    "datatype not a string": with_input(datatype=64),
    "shape not a list": with_shape(lambda shape: shape[0]),
    "shape empty": with_shape(lambda shape: []),
    "shape of strings": with_shape(lambda shape: ["3"]),
    "shape of fractions": with_shape(lambda shape: [size + 0.5 for size in shape]),
    "shape with -1": with_shape(lambda shape: [-1, *shape[1:]]),
    "shape negative": with_shape(lambda shape: [-shape[0], *shape[1:]]),
    "shape twice negative": with_shape(lambda shape: [-1, -math.prod(shape)]),
    "shape product is 2**62": with_shape(lambda shape: [2**31, 2**31]),
    "shape product is 2**64": with_shape(lambda shape: [2**32, 2**32]),
    "shape over 2**60": with_shape(lambda shape: [2**60 + 1]),
    "shape over 2**64": with_shape(lambda shape: [10**30]),
    "shape of 1000 dimensions": with_shape(lambda shape: [*shape, *[1] * 1000]),
    "data shorter than shape": with_data(lambda data: data[:-1]),
    "data longer than shape": with_data(lambda data: [*data, data[-1]]),
    "data empty": with_data(lambda data: []),
    "data a number": with_data(lambda data: 1),
    "data a string": with_data(lambda data: "1"),
    "data an object": with_data(lambda data: {"0": data[0]}),
    "data null": with_data(lambda data: None),
    "data with null": with_first_element(None),
    "data with object": with_first_element({"a": 1}),
    "data with word": with_first_element("word"),
    "data with empty string": with_first_element(""),
    "data with hexadecimal": with_first_element("0x1"),
    "data ragged": ragged,
    "data 200 deep": deep(200),
    "data 100000 deep": deep(100_000),
    "outputs not a list": lambda request: {**request, "outputs": "all"},
    "output without name": lambda request: {**request, "outputs": [{}]},
    "output unknown": lambda request: {**request, "outputs": [{"name": "no-such-output"}]},
}


# Python's own JSON reader takes the first two, and stumbles over the last: an integer has at most 4300 digits there.
TOKENS = {
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "1e999": "1e999",
    "400 digits": "9" * 400,
    "5000 digits": "9" * 5000,
}


def send(server: Server, request: JSON, change: Change) -> requests.Response:
    return server.infer(change(request), {"Content-Type": "application/json"})


@pytest.mark.core
@pytest.mark.parametrize("case", UNREADABLE)
def test_failure_is_an_error(server: Server, infer_request: JSON, case: str) -> None:
    """A failed request has an HTTP error status and an error object (inference_rest.md, "… JSON Error Object")."""
    reply = send(server, infer_request, UNREADABLE[case])

    assert reply.status_code >= 400
    error_of(reply)


@pytest.mark.core
@pytest.mark.parametrize("case", WRONG)
def test_failure_if_any_has_an_error_object(server: Server, infer_request: JSON, case: str) -> None:
    """Whatever the server refuses, it says so in an error object (inference_rest.md, "… JSON Error Object")."""
    reply = send(server, infer_request, WRONG[case])
    if reply.status_code < 400:
        pytest.skip("accepted, which the specification leaves to the server")

    error_of(reply)


@pytest.mark.robust
@pytest.mark.parametrize("case", [*UNREADABLE, *WRONG])
def test_wrong_request_is_refused(server: Server, infer_request: JSON, assert_refused: Refused, case: str) -> None:
    """A wrong request is a 4xx, and the server answers a good one right after it; its error object is a core matter."""
    assert_refused(send(server, infer_request, {**UNREADABLE, **WRONG}[case]))


@pytest.mark.robust
def test_output_twice_is_refused(server: Server, infer_request: JSON, assert_refused: Refused) -> None:
    """An output that is asked for twice is a 4xx, as in Triton."""
    name = body_of(server.infer(infer_request))["outputs"][0]["name"]

    assert_refused(server.infer({**infer_request, "outputs": [{"name": name}, {"name": name}]}))


@pytest.mark.robust
@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_token_beyond_numbers(server: Server, infer_request: JSON, assert_refused: Refused, token: str) -> None:
    """A token that is no JSON, or beyond every datatype, is a 4xx or is answered in strict JSON."""
    tensors = [tensor for tensor in infer_request["inputs"] if tensor["datatype"].startswith("FP")]
    if not tensors:
        pytest.skip("no input of floating-point numbers")
    tensors[0]["data"][0] = "TOKEN"
    reply = server.infer(
        json.dumps(infer_request).replace('"TOKEN"', token).encode(), {"Content-Type": "application/json"}
    )

    if reply.status_code == 200:
        parse(reply.content)
    else:
        assert_refused(reply)
