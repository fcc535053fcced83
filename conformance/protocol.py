"""Speak the Open Inference Protocol V2 over REST, in JSON and in binary tensors. Judges no reply beyond reading it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

JSON = dict[str, Any]

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"

# inference_rest.md, "Tensor Data Types"; BYTES has no fixed size. Little-endian, as extension_binary_data.md says.
DTYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test and the model that it is asked for. Every call has a connection of its own."""

    url: str
    model: str
    timeout_seconds: float

    def get(self, path: str) -> requests.Response:
        """Ask for a path; a redirect is an answer, not followed."""
        return requests.get(self.url + path, timeout=self.timeout_seconds, allow_redirects=False)

    def post(self, path: str, body: JSON | bytes, headers: Mapping[str, str] | None = None) -> requests.Response:
        """Send JSON, or bytes with no header that `headers` does not name."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **(headers or {})}
        return requests.post(
            self.url + path, data=body, headers=headers, timeout=self.timeout_seconds, allow_redirects=False
        )

    def model_path(self, *, model: str | None = None, version: str | None = None) -> str:
        """Return the path of the model, or of another one, or of one of its versions."""
        path = f"/v2/models/{model or self.model}"
        return path if version is None else f"{path}/versions/{version}"

    def infer(
        self, body: JSON | bytes, headers: Mapping[str, str] | None = None, *, version: str | None = None
    ) -> requests.Response:
        """Send an inference request."""
        return self.post(self.model_path(version=version) + "/infer", body, headers)


def parse(content: bytes | str) -> Any:
    """Read strict JSON: NaN and Infinity, which RFC 8259 does not know, raise ValueError."""

    def refuse(token: str) -> None:
        raise ValueError(f"{token} is not JSON")

    return json.loads(content, parse_constant=refuse)


def split(reply: requests.Response) -> tuple[JSON, bytes]:
    """Return the JSON object of a successful reply, and the binary tensors that follow it."""
    assert reply.status_code == 200, f"status {reply.status_code}: {reply.text[:300]}"
    length = int(reply.headers.get(HEADER_LENGTH, len(reply.content)))
    body = parse(reply.content[:length])
    assert isinstance(body, dict), f"not a JSON object: {reply.text[:300]}"
    return body, reply.content[length:]


def body_of(reply: requests.Response) -> JSON:
    """Return the JSON object of a successful reply, which has nothing after it."""
    body, tail = split(reply)
    assert tail == b"", f"{len(tail)} bytes after the JSON object"
    return body


def error_of(reply: requests.Response) -> str:
    """Return the message of a reply whose body is an error object."""
    try:
        body = parse(reply.content)
    except ValueError:
        body = None
    assert isinstance(body, dict), f"status {reply.status_code}, not a JSON object: {reply.text[:300]!r}"
    error = body.get("error")
    assert isinstance(error, str), f'status {reply.status_code}, no string "error": {reply.text[:300]}'
    return error


def is_binary(tensor: JSON) -> bool:
    """Tell whether a tensor's data stand after the JSON object."""
    return "binary_data_size" in (tensor.get("parameters") or {})


def outputs_of(reply: requests.Response) -> dict[str, NDArray[Any]]:
    """Return the output tensors of a successful reply by name, however each was sent."""
    body, tail = split(reply)
    tensors = {}
    for output in body["outputs"]:
        if is_binary(output):
            size = output["parameters"]["binary_data_size"]
            values, tail = decode(tail[:size], output["datatype"]), tail[size:]
        else:
            values = to_array(flatten(output["data"]), output["datatype"])
        tensors[output["name"]] = values.reshape(output["shape"])
    return tensors


def flatten(data: Any) -> list[Any]:
    """Return the elements of nested lists, row-major."""
    return [element for item in data for element in flatten(item)] if isinstance(data, list) else [data]


def nest(data: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    """Return a flat tensor as nested lists."""
    nested: list[Any] = np.array(data, dtype=object).reshape(shape).tolist()
    return nested


def to_array(data: Sequence[Any], datatype: str) -> NDArray[Any]:
    """Return flat data as an array of the datatype; BYTES becomes an array of bytes objects."""
    if datatype == "BYTES":
        return np.array([item.encode() if isinstance(item, str) else item for item in data], dtype=object)
    return np.array(data, dtype=DTYPES[datatype])


def encode(data: Sequence[Any], datatype: str) -> bytes:
    """Return flat data as a binary tensor."""
    values = to_array(data, datatype)
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(item)) + item for item in values)
    return values.tobytes()


def decode(raw: bytes, datatype: str) -> NDArray[Any]:
    """Return a binary tensor as a flat array."""
    if datatype != "BYTES":
        return np.frombuffer(raw, dtype=DTYPES[datatype])
    items = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        items.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return np.array(items, dtype=object)


def to_binary(request: JSON, names: Collection[str] | None = None) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of a request whose named inputs, or all, are sent as binary tensors."""
    inputs, tensors = [], []
    for tensor in request["inputs"]:
        if names is None or tensor["name"] in names:
            raw = encode(tensor["data"], tensor["datatype"])
            kept = {key: value for key, value in tensor.items() if key != "data"}
            tensor = {**kept, "parameters": {"binary_data_size": len(raw)}}
            tensors.append(raw)
        inputs.append(tensor)
    return join({**request, "inputs": inputs}, *tensors)


def join(request: JSON, *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of a request that is followed by binary tensors."""
    head = json.dumps(request).encode()
    return head + b"".join(tensors), {"Content-Type": BINARY, HEADER_LENGTH: str(len(head))}


def sample(tensors: Sequence[JSON], *, n_rows: int) -> JSON:
    """Make a request for inputs as model metadata declare them.

    Of a shape's variable dimensions the first becomes `n_rows`, another 1. Elements count from 1; floating-point ones
    are a tenth more, which no binary fraction is.
    """
    inputs, start = [], 1
    for tensor in tensors:
        first = tensor["shape"].index(-1) if -1 in tensor["shape"] else None
        shape = [n_rows if i == first else abs(size) for i, size in enumerate(tensor["shape"])]
        size = math.prod(shape)
        # 100 values fit every datatype
        numbers = [k % 100 + 1 for k in range(start - 1, start - 1 + size)]
        start += size
        inputs.append(
            {"name": tensor["name"], "shape": shape, "datatype": tensor["datatype"], "data": fill(tensor, numbers)}
        )
    return {"inputs": inputs}


def fill(tensor: JSON, numbers: Sequence[int]) -> list[Any]:
    """Return numbers as elements of the tensor's datatype."""
    datatype = tensor["datatype"]
    if datatype == "BOOL":
        return [number % 2 == 1 for number in numbers]
    if datatype == "BYTES":
        return [str(number) for number in numbers]
    return [number + 0.1 for number in numbers] if datatype.startswith("FP") else list(numbers)


def take_rows(request: JSON, rows: Sequence[int]) -> JSON:
    """Return the request with some of its rows; the first dimension of every input counts them."""
    inputs = []
    for tensor in request["inputs"]:
        values = np.array(tensor["data"], dtype=object).reshape(tensor["shape"])[list(rows)]
        inputs.append({**tensor, "shape": list(values.shape), "data": values.ravel().tolist()})
    return {**request, "inputs": inputs}
