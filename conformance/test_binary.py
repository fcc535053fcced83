"""Inference with binary tensors, as Triton's extension_binary_data.md defines them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from conformance.conftest import Refused, Same
from conformance.protocol import (
    BINARY,
    DTYPES,
    HEADER_LENGTH,
    JSON,
    Server,
    body_of,
    encode,
    error_of,
    is_binary,
    join,
    outputs_of,
    parse,
    split,
    to_binary,
)

pytestmark = [pytest.mark.binary, pytest.mark.usefixtures("binary")]


# By how many bytes binary_data_size, and then the data, of the last input differ from what its shape says.
WRONG_SIZES = {
    "a byte missing": (0, -1),
    "a byte left over": (0, 1),
    "size and data one short": (-1, -1),
    "size and data one over": (1, 1),
    "size and data eight over": (8, 8),
    "size one short": (-1, 0),
    "size one over": (1, 0),
    "size over by 2**62": (2**62, 0),
}


LENGTHS = ["99999999999", str(2**64), "-1", "abc", "", "0", "1", "1.5", "one more"]


def output_names(server: Server, request: JSON) -> list[str]:
    return [output["name"] for output in body_of(server.infer(request))["outputs"]]


def test_binary_inputs(server: Server, infer_request: JSON, assert_same: Same) -> None:
    """Binary inputs are answered like JSON ones, and in JSON unless binary outputs are asked for."""
    reply = server.infer(*to_binary(infer_request))

    assert_same(reply)
    assert not any(is_binary(output) for output in body_of(reply)["outputs"])


def test_some_binary_inputs(server: Server, infer_request: JSON, assert_same: Same) -> None:
    """One request may carry binary and JSON inputs."""
    if len(infer_request["inputs"]) < 2:
        pytest.skip("one input")

    for tensor in infer_request["inputs"]:
        assert_same(server.infer(*to_binary(infer_request, {tensor["name"]})))


def test_inputs_in_any_order(server: Server, infer_request: JSON, assert_same: Same) -> None:
    """Binary data follow in the order in which the JSON object lists the inputs."""
    if len(infer_request["inputs"]) < 2:
        pytest.skip("one input")
    infer_request["inputs"].reverse()

    assert_same(server.infer(*to_binary(infer_request)))


def test_content_type_absent(server: Server, infer_request: JSON, assert_same: Same) -> None:
    """A binary request needs no Content-Type: tritonclient sends none."""
    body, headers = to_binary(infer_request)

    assert_same(server.infer(body, {HEADER_LENGTH: headers[HEADER_LENGTH]}))


def test_header_length_without_binary_data(server: Server, infer_request: JSON, assert_same: Same) -> None:
    """A request may give the length of its JSON object though nothing follows."""
    assert_same(server.infer(*join(infer_request)))


@pytest.mark.parametrize("inputs", ["json", "binary"])
def test_binary_outputs(server: Server, infer_request: JSON, assert_same: Same, inputs: str) -> None:
    """With binary_data_output true every output follows the JSON object, whose length a header gives."""
    request = {**infer_request, "parameters": {"binary_data_output": True}}
    reply = server.infer(*to_binary(request)) if inputs == "binary" else server.infer(request)

    assert_same(reply)
    assert reply.headers.get("Content-Type") == BINARY
    body, tail = split(reply)
    sizes = [output["parameters"]["binary_data_size"] for output in body["outputs"]]
    assert sum(sizes) == len(tail)
    assert not any("data" in output for output in body["outputs"])
    for output, size in zip(body["outputs"], sizes):
        if output["datatype"] != "BYTES":
            assert size == math.prod(output["shape"]) * np.dtype(DTYPES[output["datatype"]]).itemsize
    if "Content-Encoding" not in reply.headers and "Content-Length" in reply.headers:
        assert int(reply.headers["Content-Length"]) == int(reply.headers[HEADER_LENGTH]) + len(tail)


@pytest.mark.parametrize("all_outputs", [True, False, None], ids="all-{}".format)
@pytest.mark.parametrize("one_output", [True, False, None], ids="one-{}".format)
def test_output_overrides_request(
    server: Server, infer_request: JSON, assert_same: Same, all_outputs: bool | None, one_output: bool | None
) -> None:
    """An output's binary_data overrides binary_data_output; without either, an output is JSON."""
    parameters = {} if one_output is None else {"parameters": {"binary_data": one_output}}
    request = {
        **infer_request,
        "outputs": [{"name": name, **parameters} for name in output_names(server, infer_request)],
    }
    if all_outputs is not None:
        request["parameters"] = {"binary_data_output": all_outputs}
    reply = server.infer(request)

    assert_same(reply)
    expected = one_output if one_output is not None else bool(all_outputs)
    assert {is_binary(output) for output in split(reply)[0]["outputs"]} == {expected}


def test_one_binary_output_of_several(server: Server, infer_request: JSON, assert_same: Same) -> None:
    """One reply may carry binary and JSON outputs."""
    names = output_names(server, infer_request)
    if len(names) < 2:
        pytest.skip("one output")

    for binary in names:
        outputs = [{"name": name, "parameters": {"binary_data": name == binary}} for name in names]
        reply = server.infer({**infer_request, "outputs": outputs})
        assert_same(reply)
        assert [output["name"] for output in split(reply)[0]["outputs"] if is_binary(output)] == [binary]


def test_json_equals_binary_in_every_bit(server: Server, infer_request: JSON) -> None:
    """FP32 and FP64 lose nothing in JSON: in and out, both forms have the same bits."""
    if not any(tensor["datatype"] in ("FP32", "FP64") for tensor in infer_request["inputs"]):
        pytest.skip("no FP32 or FP64 input")
    request = {**infer_request, "parameters": {"binary_data_output": True}}
    text, binary = outputs_of(server.infer(infer_request)), outputs_of(server.infer(*to_binary(request)))

    assert text.keys() == binary.keys()
    for name, values in text.items():
        if values.dtype != object:  # BYTES, whose array holds references
            assert values.tobytes() == binary[name].tobytes()


@pytest.mark.robust
@pytest.mark.parametrize("length", LENGTHS)
def test_wrong_header_length(server: Server, infer_request: JSON, assert_refused: Refused, length: str) -> None:
    """A length of the JSON object that is no number, or not the length, is a 4xx with an error object."""
    body, headers = to_binary(infer_request)
    reply = server.infer(body, {**headers, HEADER_LENGTH: str(len(body) + 1) if length == "one more" else length})

    assert_refused(reply)
    error_of(reply)


@pytest.mark.robust
@pytest.mark.parametrize("case", WRONG_SIZES)
def test_wrong_binary_size(server: Server, infer_request: JSON, assert_refused: Refused, case: str) -> None:
    """Binary data that are not as long as the shape or binary_data_size says are a 4xx with an error object."""
    declared, sent = WRONG_SIZES[case]
    tensors = [encode(tensor.pop("data"), tensor["datatype"]) for tensor in infer_request["inputs"]]
    for tensor, raw in zip(infer_request["inputs"], tensors):
        tensor["parameters"] = {"binary_data_size": len(raw)}
    infer_request["inputs"][-1]["parameters"]["binary_data_size"] += declared
    tensors[-1] = (tensors[-1] + b"\0" * 8)[: len(tensors[-1]) + sent]
    reply = server.infer(*join(infer_request, *tensors))

    assert_refused(reply)
    error_of(reply)


@pytest.mark.robust
@pytest.mark.parametrize("size", [-8, 1.5, "8", None, True], ids=str)
def test_binary_size_is_no_size(server: Server, infer_request: JSON, assert_refused: Refused, size: Any) -> None:
    """A binary_data_size that is not a whole number from 0 is a 4xx with an error object."""
    tensors = [encode(tensor.pop("data"), tensor["datatype"]) for tensor in infer_request["inputs"]]
    for tensor in infer_request["inputs"]:
        tensor["parameters"] = {"binary_data_size": size}
    reply = server.infer(*join(infer_request, *tensors))

    assert_refused(reply)
    error_of(reply)


@pytest.mark.robust
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_not_finite(server: Server, infer_request: JSON, assert_refused: Refused, datatype: str, value: float) -> None:
    """A NaN or an infinity is refused, or answered in JSON that has neither as a token."""
    tensors = [tensor for tensor in infer_request["inputs"] if tensor["datatype"] == datatype]
    if not tensors:
        pytest.skip(f"no {datatype} input")
    tensors[0]["data"][0] = value
    reply = server.infer(*to_binary(infer_request))

    if reply.status_code == 200:
        parse(reply.content)
    else:
        assert_refused(reply)
