"""Owns /v2: metadata, health and statistics, tensors in JSON and in binary, and 4xx for every bad request."""

from __future__ import annotations

import copy
import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from werkzeug.test import TestResponse

from app import create_app
from app.config import Config
from app.factory import Service
from tests.support.service import ANSWER, COLUMNS, bits, refused, strict_json, write_tensors
from tests.support.v2 import DTYPES, HUGE, INFER, JSON_LENGTH, MODEL, NAME, ROW, WRONG, Document, first, tensor

OTHER = [1, 5.0, 666.0, 20.2, 24.65, 30.81]
LEVELS = [percent / 100 for percent in range(50, 100)]  # of prediction intervals, from 102 rows


def infer(client: FlaskClient, document: Any, tail: bytes | None = None, *, path: str = INFER) -> TestResponse:
    """Send an infer request as Triton's client does, without a Content-Type; `tail` is the binary part, if any."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = {} if tail is None else {JSON_LENGTH: str(len(body))}
    return client.post(path, data=body + (tail or b""), headers=headers)


def binary(tensors: list[Document]) -> tuple[list[Document], bytes]:
    """Return inputs with flat data as inputs with binary data, and the data."""
    pieces = [np.array(item["data"], DTYPES[item["datatype"]]).tobytes() for item in tensors]
    sized = [
        {**{key: item[key] for key in ("name", "shape", "datatype")}, "parameters": {"binary_data_size": len(piece)}}
        for item, piece in zip(tensors, pieces)
    ]
    return sized, b"".join(pieces)


def predictions(reply: TestResponse) -> NDArray[np.float64]:
    """Return the predictions of a reply in JSON or binary after checking that it has exactly V2's fields."""
    assert reply.status_code == 200, reply.text
    length = reply.headers.get(JSON_LENGTH)
    document = json.loads(reply.data[: int(length)]) if length else strict_json(reply)
    (output,) = document["outputs"]
    assert document.keys() - {"id"} == {"model_name", "model_version", "outputs"}
    assert (document["model_name"], document["model_version"]) == (NAME, "1")
    assert (output["name"], output["datatype"], len(output["shape"])) == ("prediction", "FP64", 1)
    if length is None:
        assert output.keys() == {"name", "datatype", "shape", "data"}
        found = np.array(output["data"], np.float64)
    else:
        raw = reply.data[int(length) :]
        assert reply.headers["Content-Type"] == "application/octet-stream"
        assert output.keys() == {"name", "datatype", "shape", "parameters"}
        assert output["parameters"] == {"binary_data_size": len(raw)}
        found = np.frombuffer(raw, "<f8")
    assert output["shape"] == [len(found)]
    return found


def native(client: FlaskClient, rows: Any) -> NDArray[np.float64]:
    """Return the predictions of `/predict` for rows in the schema's order."""
    reply = client.post("/predict", json={"columns": COLUMNS, "data": np.asarray(rows, np.float64).tolist()})
    return np.array(strict_json(reply)["prediction"], np.float64)


def same(found: NDArray[np.float64], expected: Any) -> bool:
    """Return whether predictions are equal to the last bit."""
    return bool(np.array_equal(bits(found), bits(expected)))


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_server_metadata(everywhere: FlaskClient, path: str) -> None:
    """/v2 returns the server's name, version and extensions, with or without a slash at the end."""
    found = strict_json(everywhere.get(path))

    assert found.keys() == {"name", "version", "extensions"}
    assert found["name"] == "tabserve"
    assert "binary_tensor_data" in found["extensions"]


@pytest.mark.parametrize("path", [MODEL, f"{MODEL}/versions/1", f"{MODEL}/"])
def test_model_metadata(everywhere: FlaskClient, path: str) -> None:
    """A model has one FP64 input for each feature, in the schema's order, and one output; -1 is any length."""
    reply = everywhere.get(path)

    assert strict_json(reply) == {
        "name": NAME,
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": name, "datatype": "FP64", "shape": [-1]} for name in COLUMNS],
        "outputs": [
            {
                "name": "prediction",
                "datatype": "FP64",
                "shape": [-1],
                "parameters": {
                    "intervals": json.dumps(LEVELS, separators=(",", ":")),
                    "contributions": json.dumps([*COLUMNS, "base"], separators=(",", ":")),
                },
            }
        ],
    }


@pytest.mark.parametrize("path", [f"{MODEL}/config", f"{MODEL}/versions/1/config"])
def test_model_configuration(everywhere: FlaskClient, path: str) -> None:
    """A model's configuration has the same tensors in Triton's format."""
    found = strict_json(everywhere.get(path))

    assert found["name"] == NAME
    assert found["max_batch_size"] == 0
    assert found["input"] == [{"name": name, "data_type": "TYPE_FP64", "dims": [-1]} for name in COLUMNS]
    assert found["output"] == [{"name": "prediction", "data_type": "TYPE_FP64", "dims": [-1]}]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"live": True, "ready": True}),
        (f"{MODEL}/ready", {"name": NAME, "ready": True}),
        (f"{MODEL}/versions/1/ready", {"name": NAME, "ready": True}),
        ("/v2/models", {"models": [NAME]}),
    ],
)
def test_ready(everywhere: FlaskClient, path: str, expected: Document) -> None:
    """Every health route of V2 reports a service with all its models as ready."""
    reply = everywhere.get(path)

    assert (reply.status_code, strict_json(reply)) == (200, expected)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": false}', b'{"ready": true}', b'{"unknown": 1}'])
def test_index(everywhere: FlaskClient, body: bytes) -> None:
    """The index lists the loaded models, with a body or without."""
    found = strict_json(everywhere.post("/v2/repository/index", data=body))

    assert found == [{"name": NAME, "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("body", [b"1", b"[]", b'"x"', b'{"ready": 1}', b'{"ready": null}', b'{"ready": "yes"}', b"{"])
def test_index_refuses(everywhere: FlaskClient, body: bytes) -> None:
    """An invalid request for the index is 400."""
    refused(everywhere.post("/v2/repository/index", data=body), 400)


def test_index_has_a_limit(everywhere: FlaskClient) -> None:
    """A request for the index has a small limit of its own, which applies to the decompressed body."""
    refused(everywhere.post("/v2/repository/index", data=b" " * 1_025), 413)
    packed = gzip.compress(b" " * 10**6)
    refused(everywhere.post("/v2/repository/index", data=packed, headers={"Content-Encoding": "gzip"}), 413)


@pytest.fixture
def half_loaded(store: Path) -> FlaskClient:
    """A client of a service with two configured models, one of which is loaded."""
    return create_app(Config(store=store, models=(NAME, "titanic")), write_log=lambda pieces: None).test_client()


def test_unloaded_model(half_loaded: FlaskClient) -> None:
    """A model that could not be loaded is 503, the other one is ready, and the index has the reason."""
    assert strict_json(half_loaded.get("/v2/health/ready")) == {"live": True, "ready": False}
    assert half_loaded.get("/v2/health/ready").status_code == 503
    assert half_loaded.get("/v2/health/live").status_code == 200
    for path in ("/v2/models/titanic/ready", "/v2/models/titanic/versions/1/ready"):
        reply = half_loaded.get(path)
        assert (reply.status_code, strict_json(reply)) == (503, {"name": "titanic", "ready": False})
    for path in ("/v2/models/titanic", "/v2/models/titanic/config", "/v2/models/titanic/stats"):
        refused(half_loaded.get(path), 503)
    refused(infer(half_loaded, write_tensors([ROW]), path="/v2/models/titanic/infer"), 503)
    assert half_loaded.get(f"{MODEL}/ready").status_code == 200
    assert same(predictions(infer(half_loaded, write_tensors([ROW]))), [ANSWER])

    everything, ready = (
        strict_json(half_loaded.post("/v2/repository/index", data=body)) for body in (b"{}", b'{"ready": true}')
    )
    assert [(model["name"], model["version"], model["state"]) for model in everything] == [
        (NAME, "1", "READY"),
        ("titanic", "", "UNAVAILABLE"),
    ]
    assert "titanic" in everything[1]["reason"]
    assert ready == everything[:1]


def test_draining(client: FlaskClient) -> None:
    """A stopping server is live, not ready, and still answers predictions."""
    cast(Service, client.application).serving.draining = True

    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 503
    assert strict_json(client.get("/v2/health/ready")) == {"live": True, "ready": False}
    for path in (f"{MODEL}/ready", f"{MODEL}/versions/1/ready"):
        reply = client.get(path)
        assert (reply.status_code, strict_json(reply)) == (503, {"name": NAME, "ready": False})
    assert same(predictions(infer(client, write_tensors([ROW]))), [ANSWER])


@pytest.mark.parametrize(
    "model",
    ["titanic", "titanic/versions/1", *(f"{NAME}/versions/{v}" for v in ("2", "0", "01", "1.0", "-1", "champion"))],
)
@pytest.mark.parametrize("call", ["", "/ready", "/config", "/stats", "/infer"])
def test_unknown_model_or_version(everywhere: FlaskClient, model: str, call: str) -> None:
    """An unknown model or version is 404 at every route, and the message names the loaded ones."""
    path = f"/v2/models/{model}{call}"
    reply = infer(everywhere, write_tensors([ROW]), path=path) if call == "/infer" else everywhere.get(path)

    assert NAME in refused(reply, 404)


@pytest.mark.parametrize("path", [INFER, f"{MODEL}/versions/1/infer"])
@pytest.mark.parametrize("content_type", [None, "application/json", "application/octet-stream", "text/csv", "x"])
def test_infer(everywhere: FlaskClient, path: str, content_type: str | None) -> None:
    """A request is read with any content type, and also at the path of a version."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    reply = everywhere.post(path, data=json.dumps(write_tensors([ROW])), headers=headers)

    assert same(predictions(reply), [ANSWER])


ROWS = [ROW, OTHER, ROW]
FEATURES = list(zip(COLUMNS, map(list, zip(*ROWS))))
FLAT = [cell for row in ROWS for cell in row]

FORMS: dict[str, list[Document]] = {
    "[n] a feature": [tensor(name, cells) for name, cells in FEATURES],
    "[n, 1] flat": [tensor(name, cells, [3, 1]) for name, cells in FEATURES],
    "[n, 1] nested": [tensor(name, [[cell] for cell in cells], [3, 1]) for name, cells in FEATURES],
    "[n] and [n, 1]": [tensor(name, cells, [3, 1] if i % 2 else [3]) for i, (name, cells) in enumerate(FEATURES)],
    "backwards": [tensor(name, cells) for name, cells in FEATURES[::-1]],
    "matrix, flat": [tensor("X", FLAT, [3, 6])],
    "matrix, nested": [tensor("input-0", ROWS, [3, 6])],
    "matrix without a name": [tensor("", ROWS, [3, 6])],
    "nulls": [{**tensor(name, cells), "parameters": None} for name, cells in FEATURES],
    "more than is known": [{**tensor(name, cells), "extra": [1]} for name, cells in FEATURES],
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(everywhere: FlaskClient, form: str) -> None:
    """One tensor for each feature in any order, or one matrix of any other name, flat or nested, get the same bits."""
    assert same(predictions(infer(everywhere, {"inputs": FORMS[form]})), native(everywhere, ROWS))


@pytest.mark.parametrize("form", [form for form in FORMS if "nested" not in form and "name" not in form])
def test_binary_forms(everywhere: FlaskClient, form: str) -> None:
    """Every form may be sent in binary, also a single one of several inputs."""
    inputs, tail = binary(FORMS[form])
    assert same(predictions(infer(everywhere, {"inputs": inputs}, tail)), native(everywhere, ROWS))

    mixed, tail = binary(FORMS[form][:1])
    mixed += FORMS[form][1:]
    assert same(predictions(infer(everywhere, {"inputs": mixed[::-1]}, tail)), native(everywhere, ROWS))


@pytest.mark.parametrize("identity", ["42", "", "é😀", "x" * 1_000, '"\\\n'])
def test_id_is_echoed(everywhere: FlaskClient, identity: str) -> None:
    """A request's id is returned, in JSON and with binary data."""
    document = {**write_tensors([ROW]), "id": identity}
    plain = infer(everywhere, document)
    raw = infer(everywhere, {**document, "parameters": {"binary_data_output": True}})

    assert strict_json(plain)["id"] == identity
    assert json.loads(raw.data[: int(raw.headers[JSON_LENGTH])])["id"] == identity
    assert same(predictions(plain), [ANSWER])
    assert same(predictions(raw), [ANSWER])


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"id": None},
        {"outputs": None},
        {"outputs": []},
        {"outputs": [{"name": "prediction"}]},
        {"outputs": [{"name": "prediction", "parameters": {"classification": 0, "x": 1}}], "parameters": None},
        {"parameters": {"sequence_id": 1, "priority": 0, "timeout": 5}},
        {"extra": {"NaN": []}},
    ],
    ids=str,
)
def test_optional_fields(everywhere: FlaskClient, extra: Document) -> None:
    """Without an id none is returned; null means absent; unknown parameters and fields are ignored."""
    reply = infer(everywhere, write_tensors([ROW]) | extra)

    assert "id" not in strict_json(reply)
    assert same(predictions(reply), [ANSWER])


@pytest.mark.parametrize(
    ("of_request", "of_output", "expected"),
    [
        (None, None, False),
        (True, None, True),
        (False, None, False),
        (None, True, True),
        (None, False, False),
        (True, False, False),
        (False, True, True),
        (True, True, True),
    ],
)
def test_which_output_is_binary(
    everywhere: FlaskClient, of_request: bool | None, of_output: bool | None, expected: bool
) -> None:
    """An output's `binary_data` overrides the request's `binary_data_output`; the default is JSON."""
    document = write_tensors([ROW, OTHER])
    if of_request is not None:
        document["parameters"] = {"binary_data_output": of_request}
    own = {} if of_output is None else {"parameters": {"binary_data": of_output}}
    for outputs in [{"outputs": [{"name": "prediction", **own}]}] + ([{}] if of_output is None else []):
        reply = infer(everywhere, document | outputs)
        assert (JSON_LENGTH in reply.headers) is expected
        assert same(predictions(reply), native(everywhere, [ROW, OTHER]))


def values_of(datatype: str) -> st.SearchStrategy[Any]:
    """Return values of a datatype that the trained model accepts."""
    dtype = DTYPES[datatype]
    if dtype.kind != "f":
        return st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    bound = float(dtype.type(min(1e37, float(np.finfo(dtype).max))))
    return st.floats(-bound, bound, width=cast(Any, 8 * dtype.itemsize))


@pytest.mark.parametrize("datatype", DTYPES)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), as_matrix=st.booleans(), sent_binary=st.booleans(), answered_binary=st.booleans())
def test_every_datatype(
    everywhere: FlaskClient,
    datatype: str,
    data: st.DataObject,
    as_matrix: bool,
    sent_binary: bool,
    answered_binary: bool,
) -> None:
    """Every number of a datatype gets the same bits as from /predict, in JSON and in binary."""
    rows = data.draw(st.lists(st.tuples(*[values_of(datatype)] * 6), min_size=1, max_size=6))
    columns = [list(column) for column in zip(*rows)]
    inputs = (
        [tensor("X", [cell for row in rows for cell in row], [len(rows), 6], datatype)]
        if as_matrix
        else [tensor(name, cells, None, datatype) for name, cells in zip(COLUMNS, columns)]
    )
    tail = None
    if sent_binary:
        inputs, tail = binary(inputs)
    document = {"inputs": inputs, "parameters": {"binary_data_output": answered_binary}}
    reply = infer(everywhere, document, tail)

    assert (JSON_LENGTH in reply.headers) is answered_binary
    assert same(predictions(reply), native(everywhere, np.array(rows, DTYPES[datatype]).astype(np.float64)))


def test_mixed_datatypes(everywhere: FlaskClient) -> None:
    """Each tensor may have another datatype."""
    datatypes = ["UINT8", "FP32", "INT16", "FP16", "FP64", "FP64"]
    row = [0, 6.5, 296, 15.25, 396.9, 4.98]
    inputs = [tensor(name, [cell], None, kind) for name, cell, kind in zip(COLUMNS, row, datatypes)]
    sized, tail = binary(inputs)

    assert same(predictions(infer(everywhere, {"inputs": inputs})), native(everywhere, [row]))
    assert same(predictions(infer(everywhere, {"inputs": sized}, tail)), native(everywhere, [row]))


@pytest.mark.parametrize("datatype", ["FP32", "FP16"])
@given(rm=st.floats(3.5, 8.8), lstat=st.floats(1.7, 38.0))
@settings(max_examples=25, deadline=None)
def test_narrow_floats_are_rounded(everywhere: FlaskClient, datatype: str, rm: float, lstat: float) -> None:
    """A number is rounded to its FP32 or FP16 datatype in JSON as in binary."""
    row = [0, rm, 296.0, 15.3, 396.9, lstat]
    inputs = [tensor(name, [cell], None, datatype) for name, cell in zip(COLUMNS, row)]
    sized, tail = binary(inputs)
    expected = native(everywhere, np.array([row], DTYPES[datatype]))

    assert same(predictions(infer(everywhere, {"inputs": inputs})), expected)
    assert same(predictions(infer(everywhere, {"inputs": sized}, tail)), expected)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(*[st.floats(-1e37, 1e37)] * 6), min_size=1, max_size=20))
def test_float64_round_trip(everywhere: FlaskClient, rows: list[tuple[float, ...]]) -> None:
    """Any float64 rows get the same bits in JSON, in binary both ways, and from /predict."""
    inputs = write_tensors(rows)["inputs"]
    sized, tail = binary(inputs)
    expected = native(everywhere, rows)

    assert same(predictions(infer(everywhere, {"inputs": inputs})), expected)
    assert same(
        predictions(infer(everywhere, {"inputs": sized, "parameters": {"binary_data_output": True}}, tail)), expected
    )


@pytest.mark.parametrize("datatype", [name for name, dtype in DTYPES.items() if dtype.kind != "f"])
def test_whole_numbers_in_json(everywhere: FlaskClient, datatype: str) -> None:
    """1.0 is a whole number in JSON, as JavaScript and pandas write it: in data, in shapes and in sizes."""
    whole, written = ([tensor(name, [value, 2], datatype=datatype) for name in COLUMNS] for value in (1, 1.0))
    for item in written:
        item |= {"shape": [2.0], "data": [1.0, 2 if item["name"] == "RM" else 2.0]}
    expected = strict_json(infer(everywhere, {"inputs": whole}))

    assert strict_json(infer(everywhere, {"inputs": written})) == expected
    first, tail = binary([tensor("CHAS", [1, 2], datatype=datatype)])
    first[0]["parameters"]["binary_data_size"] *= 1.0
    assert strict_json(infer(everywhere, {"inputs": first + written[1:]}, tail)) == expected


@pytest.mark.parametrize("case", WRONG)
def test_wrong_request(everywhere: FlaskClient, case: str) -> None:
    """Every bad request is 400 with a message that names the problem and reveals no internals."""
    change, named = WRONG[case]
    message = refused(infer(everywhere, change(write_tensors([ROW, ROW]))), 400)

    assert named in message


@pytest.mark.parametrize("digits", [19, 20, 309, 4_300, 4_301])
@pytest.mark.parametrize(
    ("fields", "tail"),
    [({"data": [1.0]}, None), ({"parameters": {"binary_data_size": 0}}, b"")],
    ids=["JSON", "binary"],
)
def test_shape_of_many_digits(everywhere: FlaskClient, fields: Document, tail: bytes | None, digits: int) -> None:
    """A length of thousands of digits is 400, in JSON and with binary data."""
    item = {"name": "X", "shape": [10, "LENGTH"], "datatype": "FP64", **fields}
    body = json.dumps({"inputs": [item]}).replace('"LENGTH"', "9" * digits).encode()

    refused(infer(everywhere, body, tail), 400)


def test_all_problems_at_once(everywhere: FlaskClient) -> None:
    """The message has every problem of every input."""
    inputs = write_tensors([[None, "x", 296.0, 15.3, 396.9, 4.98], [0, 6.5, 1e300, 15.3, float("nan"), 4.98]])["inputs"]
    message = refused(infer(everywhere, {"inputs": [*inputs[:5], {**inputs[5], "name": "ZN"}]}), 400)
    shapes = [{**inputs[0], "datatype": "BYTES"}, {**inputs[1], "data": [1]}, *inputs[2:]]

    found = message.removeprefix("6 problems: ").split("; ")
    assert found.pop(5).startswith("the nearest is ")
    assert found == [
        "column 'LSTAT': missing",
        "column 'ZN': unknown",
        "row 0, column 'CHAS': missing",
        "row 0, column 'RM': not a number",
        "row 1, column 'TAX': out of range",
        "row 1, column 'B': not finite",
    ]
    assert refused(infer(everywhere, {"inputs": shapes}), 400).startswith(
        "2 problems: column 'CHAS': the datatype is BYTES; send FP64; "
    )


# The JSON of a binary request for two rows, and its binary part.
PACKED, TAIL = binary(write_tensors([ROW, OTHER])["inputs"])


def resized(*sizes: Any) -> Document:
    """Return the binary request with other sizes for its first inputs."""
    changed = [{**item, "parameters": {"binary_data_size": size}} for item, size in zip(PACKED, sizes)]
    return {"inputs": changed + PACKED[len(sizes) :]}


def packed(**fields: Any) -> Document:
    """Return the binary request with other fields for its first input."""
    return {"inputs": [{**PACKED[0], **fields}, *PACKED[1:]]}


SIZES: list[Any] = [0, 8, 15, -16, 16.5, True, "16", None, 2**64]

WRONG_BINARY: dict[str, tuple[Document, bytes, str]] = {
    "one byte left over": ({"inputs": PACKED}, TAIL + b"\0", "1 bytes follow"),
    "twice as much": ({"inputs": PACKED}, TAIL * 2, f"{len(TAIL)} bytes follow"),
    "one byte short": ({"inputs": PACKED}, TAIL[:-1], "LSTAT"),
    "nothing": ({"inputs": PACKED}, b"", "CHAS"),
    "after JSON": (write_tensors([ROW]), b"x", "1 bytes follow"),
    **{f"size {size}": (resized(size), TAIL, "CHAS") for size in SIZES},
    "size true, which would fit": (
        first(datatype="UINT8", data=None, parameters={"binary_data_size": True})(write_tensors([ROW])),
        b"\0",
        "CHAS",
    ),
    "size of one byte more": (resized(17), TAIL, "binary_data_size"),
    "size of two": (resized(16, 32), TAIL, "binary_data_size"),
    "size of all": (resized(len(TAIL)), TAIL, "binary_data_size"),
    "size of more than all": (resized(len(TAIL) + 1), TAIL, "CHAS"),
    "sizes that only add up": (resized(8, 24), TAIL, "CHAS"),
    "both data and size": (packed(data=[1.0, 2.0]), TAIL, "CHAS"),
    "longer shape": (packed(shape=[4]), TAIL, "CHAS"),
    "wide shape": (packed(shape=[2, 2**60]), TAIL, "CHAS"),
    **{f"datatype {kind}": (packed(datatype=kind), TAIL, "CHAS") for kind in ("FP32", "INT8", "BOOL", "BYTES")},
    "input missing": ({"inputs": PACKED[:5]}, TAIL[:80], "LSTAT"),
    "data of an input that is missing": ({"inputs": PACKED[:5]}, TAIL, "16 bytes follow"),
    "input twice": ({"inputs": [*PACKED, PACKED[0]]}, TAIL + TAIL[:16], "column 'CHAS': repeated"),
    "NaN": ({"inputs": PACKED}, TAIL[:-8] + struct.pack("<d", float("nan")), "row 1, column 'LSTAT': not finite"),
    "infinity": ({"inputs": PACKED}, struct.pack("<d", float("inf")) + TAIL[8:], "row 0, column 'CHAS': not finite"),
    "beyond the model": (
        {"inputs": PACKED},
        struct.pack("<d", -1e300) + TAIL[8:],
        "row 0, column 'CHAS': out of range",
    ),
}


@pytest.mark.parametrize("case", WRONG_BINARY)
def test_wrong_binary_request(everywhere: FlaskClient, case: str) -> None:
    """Binary data of a wrong length, left over, overlapping or not numbers are 400, and the message names them."""
    document, tail, named = WRONG_BINARY[case]

    assert named in refused(infer(everywhere, document, tail), 400)


@pytest.mark.parametrize(
    "length",
    [
        *("", " ", "-1", "+5", "0", "00", "1.5", "1e3", "0x10", "five", "5 5", "5,5", "5;", "NaN", "\xb2", "\u0661"),
        *("99999999999", str(2**63), str(2**64), "9" * 19, "9" * 20, "9" * 5_000, "1", "10", "BODY+1"),
    ],
)
def test_wrong_header_length(everywhere: FlaskClient, length: str) -> None:
    """A JSON length that is invalid, exceeds the body or cuts the JSON is 400."""
    body = json.dumps({"inputs": PACKED}).encode() + TAIL
    sent = str(len(body) + 1) if length == "BODY+1" else length.encode().decode("latin-1")  # as WSGI passes bytes on
    reply = everywhere.post(INFER, data=body, environ_overrides={"HTTP_INFERENCE_HEADER_CONTENT_LENGTH": sent})
    message = refused(reply, 400)

    assert JSON_LENGTH in message or length in ("1", "10")


def test_header_length_of_a_whole_body(everywhere: FlaskClient) -> None:
    """A body without binary data may have a JSON length, also with leading zeros."""
    body = json.dumps(write_tensors([ROW])).encode()
    for length in (str(len(body)), f"000{len(body)}"):
        assert same(predictions(everywhere.post(INFER, data=body, headers={JSON_LENGTH: length})), [ANSWER])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_binary_request(everywhere: FlaskClient, coding: str) -> None:
    """In a body in gzip or deflate the JSON length refers to the decompressed body."""
    text = json.dumps({"inputs": PACKED}).encode()
    body = gzip.compress(text + TAIL) if coding == "gzip" else zlib.compress(text + TAIL)
    reply = everywhere.post(INFER, data=body, headers={JSON_LENGTH: str(len(text)), "Content-Encoding": coding})

    assert same(predictions(reply), native(everywhere, [ROW, OTHER]))


DECOMPRESS: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}


@pytest.mark.parametrize("answered_binary", [False, True], ids=["JSON", "binary"])
@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (None, {None}),
        ("", {None}),
        ("gzip", {"gzip"}),
        ("deflate", {"deflate"}),
        ("gzip, deflate", {"gzip", "deflate"}),
        ("deflate;q=0.5, gzip;q=0.9", {"gzip"}),
        ("deflate;q=0.9, gzip;q=0.5", {"deflate"}),
        ("GZIP", {"gzip"}),
        ("*", {None, "gzip", "deflate"}),
        ("br", {None}),
        ("br, gzip", {"gzip"}),
        ("identity", {None}),
        ("gzip;q=0", {None}),
        ("gzip;q=0, deflate;q=0", {None}),
        ("gzip;q=0, deflate", {"deflate"}),
        ("*;q=0", {None}),
        ("gzip;q=0, *", {None, "deflate"}),
        ("identity, gzip;q=0.5", {None, "gzip"}),
        ("gzip;q=x", {None, "gzip"}),
        (";;,=", {None}),
    ],
)
def test_reply_is_compressed(
    everywhere: FlaskClient, answered_binary: bool, accepted: str | None, expected: set[str | None]
) -> None:
    """A large reply has the coding that the client prefers, and Vary."""
    document = {**write_tensors([ROW, OTHER] * 200), "parameters": {"binary_data_output": answered_binary}}
    headers = {} if accepted is None else {"Accept-Encoding": accepted}
    reply = everywhere.post(INFER, data=json.dumps(document), headers=headers)
    coding = reply.headers.get("Content-Encoding")
    sent = len(reply.data)

    assert coding in expected
    assert "Accept-Encoding" in reply.headers["Vary"]
    assert int(reply.headers["Content-Length"]) == sent
    assert coding is None or sent < 3_200  # 400 float64 numbers
    reply.set_data(DECOMPRESS[coding](reply.data))
    assert same(predictions(reply), [*native(everywhere, [ROW, OTHER])] * 200)


def test_small_reply_is_not_compressed(everywhere: FlaskClient) -> None:
    """A reply of one packet is not compressed, and still has Vary."""
    reply = everywhere.post(INFER, data=json.dumps(write_tensors([ROW])), headers={"Accept-Encoding": "gzip"})

    assert "Content-Encoding" not in reply.headers
    assert "Accept-Encoding" in reply.headers["Vary"]
    assert same(predictions(reply), [ANSWER])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([*HUGE, -1, 0, 1, 2, 10**400])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([*COLUMNS, *DTYPES, "BOOL", "BYTES", "prediction", ROW, {"binary_data_size": 8}]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data"]), inner
        )
    ),
    max_leaves=12,
)


def items_within(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container inside a JSON value with each of its keys."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from items_within(inner)


@st.composite
def damaged_documents(draw: st.DrawFn) -> Any:
    """Return a good request with up to three values replaced or removed."""
    parameters = {"parameters": {"binary_data_output": True}, "outputs": [{"name": "prediction", "parameters": {}}]}
    bases = [write_tensors([ROW, OTHER]), {"inputs": PACKED, **parameters}, {"inputs": FORMS["matrix, nested"]}]
    document = copy.deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 3))):
        if not (found := list(items_within(document))):
            break
        place, key = found[draw(st.integers(0, len(found) - 1))]
        if draw(st.booleans()):
            place[key] = copy.deepcopy(draw(json_values))
        else:
            del place[key]
    return document


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    body=(damaged_documents() | json_values).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=100),
    tail=st.none() | st.just(TAIL) | st.binary(max_size=100),
    length=st.none() | st.integers(-1, 200) | st.text(max_size=5),
)
def test_no_request_breaks_the_service(
    everywhere: FlaskClient, body: bytes, tail: bytes | None, length: int | str | None
) -> None:
    """Any request is answered or refused in V2's format, never with a 5xx and always in strict JSON."""
    said = str(len(body) if length is None else length).encode().decode("latin-1")
    environ = {} if tail is None and length is None else {"HTTP_INFERENCE_HEADER_CONTENT_LENGTH": said}
    reply = everywhere.post(INFER, data=body + (tail or b""), environ_overrides=environ)

    if reply.status_code == 200:
        predictions(reply)
    else:
        refused(reply, reply.status_code)
        assert reply.status_code in (400, 413)
