"""Triton's HTTP client: it gets the predictions of POST /predict to the last bit, in every format."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.outside.clients.conftest import Model, bits

OUTPUT = "prediction"
SHAPES = ["vectors", "columns", "matrix"]


@pytest.fixture
def client(model: Model) -> Iterator[Any]:
    """A client of the server."""
    with triton.InferenceServerClient(model.address) as found:
        yield found


def tensor(name: str, values: NDArray[Any], *, binary: bool) -> Any:
    """Return an input with its values."""
    found = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return found.set_data_from_numpy(values, binary_data=binary)


def inputs(model: Model, rows: NDArray[Any], *, shape: str = "vectors", binary: bool = True) -> list[Any]:
    """Return rows as inputs: a tensor `[n]` or `[n, 1]` for every feature, or a single matrix."""
    if shape == "matrix":
        return [tensor("X", np.ascontiguousarray(rows), binary=binary)]
    columns = [rows[:, i : i + 1] if shape == "columns" else rows[:, i] for i in range(rows.shape[1])]
    return [tensor(name, np.ascontiguousarray(column), binary=binary) for name, column in zip(model.features, columns)]


def test_edges_distinguish_float32_from_float64(model: Model, edges: NDArray[np.float64]) -> None:
    """Rounding to float32 changes predictions, so that the tests of both datatypes can fail."""
    assert np.any(model.predict(edges) != model.predict(edges.astype(np.float32)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["FP64", "FP32"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reply", [None, True, False], ids=["default reply", "binary reply", "JSON reply"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_infer(
    client: Any, model: Model, rows: NDArray[np.float64], binary: bool, reply: bool | None, shape: str, dtype: Any
) -> None:
    """All ways to send rows and request outputs get the same predictions; the client's default output is binary."""
    sent = rows.astype(dtype)
    outputs = None if reply is None else [triton.InferRequestedOutput(OUTPUT, binary_data=reply)]

    result = client.infer(model.name, inputs(model, sent, shape=shape, binary=binary), outputs=outputs)

    answer, output = result.as_numpy(OUTPUT), result.get_output(OUTPUT)
    assert (answer.shape, answer.dtype) == ((len(rows),), np.float64)
    assert bits(answer) == bits(model.predict(sent))
    assert ("data" in output) == (reply is False)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, np.float16])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_other_datatypes(client: Any, model: Model, houses: NDArray[np.float64], binary: bool, dtype: Any) -> None:
    """Numbers of any datatype get the predictions for the same numbers in float64."""
    sent = np.clip(houses, 0, 120).astype(dtype)

    result = client.infer(model.name, inputs(model, sent, binary=binary))

    assert bits(result.as_numpy(OUTPUT)) == bits(model.predict(sent))


def test_inputs_in_any_order(client: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """Inputs are matched by name, also when JSON and binary inputs are mixed."""
    mixed = [
        tensor(name, np.ascontiguousarray(houses[:, i]), binary=i % 2 == 0) for i, name in enumerate(model.features)
    ]

    assert bits(client.infer(model.name, mixed[::-1]).as_numpy(OUTPUT)) == bits(model.predict(houses))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_one_row(client: Any, model: Model, houses: NDArray[np.float64], binary: bool, shape: str) -> None:
    """A row alone gets the same prediction as among other rows."""
    expected = model.predict(houses)[:20]

    alone = [
        client.infer(model.name, inputs(model, houses[i : i + 1], shape=shape, binary=binary)).as_numpy(OUTPUT)
        for i in range(20)
    ]

    assert bits(np.concatenate(alone)) == bits(expected)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("reply", ["gzip", "deflate", None])
@pytest.mark.parametrize("request_", ["gzip", "deflate", None])
def test_compression(
    client: Any, model: Model, rows: NDArray[np.float64], request_: str | None, reply: str | None, binary: bool
) -> None:
    """Compressed requests and replies carry the same predictions."""
    result = client.infer(
        model.name,
        inputs(model, rows, binary=binary),
        outputs=[triton.InferRequestedOutput(OUTPUT, binary_data=binary)],
        request_compression_algorithm=request_,
        response_compression_algorithm=reply,
    )

    assert bits(result.as_numpy(OUTPUT)) == bits(model.predict(rows))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_reply_is_compressed(model: Model, houses: NDArray[np.float64], coding: str, binary: bool) -> None:
    """A reply to many rows is compressed where the client asks for it, and the client's own parser reads it."""
    body, json_length = triton.InferenceServerClient.generate_request_body(
        inputs(model, houses), outputs=[triton.InferRequestedOutput(OUTPUT, binary_data=binary)]
    )
    headers = {"Inference-Header-Content-Length": str(json_length), "Accept-Encoding": coding}
    url = f"{model.url}/v2/models/{model.name}/infer"
    with requests.post(url, data=body, headers=headers, timeout=30, stream=True) as reply:
        content, received = reply.raw.read(decode_content=False), reply.headers

    header_length = int(received["Inference-Header-Content-Length"]) if binary else None
    result = triton.InferenceServerClient.parse_response_body(
        content, header_length=header_length, content_encoding=received["Content-Encoding"]
    )

    assert received["Content-Encoding"] == coding
    assert bits(result.as_numpy(OUTPUT)) == bits(model.predict(houses))


def test_requests_at_once(model: Model, random: NDArray[np.float64]) -> None:
    """Every one of several concurrent requests gets its own predictions."""
    parts = np.array_split(random, 50)
    with triton.InferenceServerClient(model.address, concurrency=4) as client:
        waiting = [
            client.async_infer(model.name, inputs(model, part), request_id=str(i)) for i, part in enumerate(parts)
        ]
        results = [request.get_result() for request in waiting]

    assert [result.get_response()["id"] for result in results] == [str(i) for i in range(50)]
    assert bits(np.concatenate([result.as_numpy(OUTPUT) for result in results])) == bits(model.predict(random))


def test_asyncio_client(model: Model, random: NDArray[np.float64]) -> None:
    """The client for asyncio gets the same predictions."""

    async def ask() -> Any:
        async with triton_aio.InferenceServerClient(model.address) as client:
            assert await client.is_server_ready()
            return await client.infer(model.name, inputs(model, random))

    assert bits(asyncio.run(ask()).as_numpy(OUTPUT)) == bits(model.predict(random))


@pytest.mark.parametrize("name", ["a request", "0", '"}\u00e9\n', "x" * 1000])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_id(client: Any, model: Model, houses: NDArray[np.float64], binary: bool, name: str) -> None:
    """The reply has the request's id."""
    outputs = [triton.InferRequestedOutput(OUTPUT, binary_data=binary)]

    result = client.infer(model.name, inputs(model, houses), outputs=outputs, request_id=name)

    assert result.get_response()["id"] == name


def test_reply(client: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """A reply names the model and its version, and has no id if the request has none."""
    reply = client.infer(model.name, inputs(model, houses[:1])).get_response()

    assert reply.keys() == {"model_name", "model_version", "outputs"}
    assert (reply["model_name"], reply["model_version"]) == (model.name, model.version)


def test_unused_options(client: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """What a request says about sequences, priority, time-out and its own parameters changes no prediction."""
    result = client.infer(
        model.name,
        inputs(model, houses),
        sequence_id=5,
        sequence_start=True,
        priority=2,
        timeout=1_000_000,
        parameters={"mine": "x", "number": 1},
        headers={"X-Mine": "x"},
        query_params={"mine": "x"},
    )

    assert bits(result.as_numpy(OUTPUT)) == bits(model.predict(houses))


def test_version(client: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """A request may name the served version; another version is refused as not loaded."""
    answer = client.infer(model.name, inputs(model, houses), model_version=model.version).as_numpy(OUTPUT)
    with pytest.raises(InferenceServerException, match=r"version '999' of .* is not loaded") as caught:
        client.infer(model.name, inputs(model, houses), model_version="999")

    assert bits(answer) == bits(model.predict(houses))
    assert caught.value.status() == "404"


def test_health(client: Any, model: Model) -> None:
    """The server is live and ready; the model and its version are ready, and no other version or model is."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model.name)
    assert client.is_model_ready(model.name, model.version)
    assert not client.is_model_ready(model.name, "999")
    assert not client.is_model_ready("nobody")


def test_server_metadata(client: Any) -> None:
    """The server reports its name and its extensions."""
    metadata = client.get_server_metadata()

    assert metadata["name"] == "tabserve"
    assert metadata["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]


@pytest.mark.parametrize("named", [True, False], ids=["version", "no version"])
def test_metadata_and_config(client: Any, model: Model, named: bool) -> None:
    """Metadata and configuration name the same FP64 tensors: every feature, and the prediction with its levels."""
    version = model.version if named else ""
    metadata = client.get_model_metadata(model.name, version)
    config = client.get_model_config(model.name, version)
    levels = json.loads(metadata["outputs"][0].pop("parameters")["intervals"])

    assert 0.9 in levels
    assert metadata == {
        "name": model.name,
        "versions": [model.version],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": name, "datatype": "FP64", "shape": [-1]} for name in model.features],
        "outputs": [{"name": OUTPUT, "datatype": "FP64", "shape": [-1]}],
    }
    assert (config["name"], config["platform"], config["max_batch_size"]) == (model.name, metadata["platform"], 0)
    assert config["input"] == [{"name": name, "data_type": "TYPE_FP64", "dims": [-1]} for name in model.features]
    assert config["output"] == [{"name": OUTPUT, "data_type": "TYPE_FP64", "dims": [-1]}]


def test_request_made_from_metadata(client: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """A client that knows only the metadata can send a valid request."""
    metadata = client.get_model_metadata(model.name)
    made = []
    for i, declared in enumerate(metadata["inputs"]):
        shape = [len(houses) if length == -1 else length for length in declared["shape"]]
        declared_input = triton.InferInput(declared["name"], shape, declared["datatype"])
        made.append(declared_input.set_data_from_numpy(np.ascontiguousarray(houses[:, i])))
    outputs = [triton.InferRequestedOutput(declared["name"]) for declared in metadata["outputs"]]

    answer = client.infer(model.name, made, outputs=outputs).as_numpy(metadata["outputs"][0]["name"])

    assert bits(answer) == bits(model.predict(houses))


def test_repository_index(client: Any, model: Model) -> None:
    """The index lists the model and its version as ready."""
    assert client.get_model_repository_index() == [
        {"name": model.name, "version": model.version, "state": "READY", "reason": ""}
    ]


@pytest.mark.parametrize("by", ["all", "name", "version"])
def test_statistics_grow(client: Any, model: Model, houses: NDArray[np.float64], by: str) -> None:
    """Statistics count answered rows, answered requests and refused requests.

    The client has a single connection, and so a single worker, which counts its own requests at once. Earlier requests
    of other workers are counted a moment later, so the first counts are read until they stay the same.
    """

    def counted() -> tuple[dict[str, Any], dict[str, Any]]:
        arguments = {"all": (), "name": (model.name,), "version": (model.name, model.version)}[by]
        (found,) = client.get_inference_statistics(*arguments)["model_stats"]
        assert (found["name"], found["version"]) == (model.name, model.version)
        return found, found["inference_stats"]

    def settled() -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the counts once they stay the same: requests of another worker are counted a moment later."""
        found: tuple[dict[str, Any], dict[str, Any]] | None = None
        while found != (found := counted()):
            time.sleep(0.5)
        return found

    before, steps_before = settled()
    for _ in range(3):
        client.infer(model.name, inputs(model, houses))
    with pytest.raises(InferenceServerException):
        client.infer(model.name, inputs(model, houses)[1:])
    after, steps = settled()

    assert after["inference_count"] - before["inference_count"] == 3 * len(houses)
    assert after["execution_count"] - before["execution_count"] == 3
    assert steps["success"]["count"] - steps_before["success"]["count"] == 3
    assert steps["fail"]["count"] - steps_before["fail"]["count"] == 1
    assert steps["compute_infer"]["count"] - steps_before["compute_infer"]["count"] == 3
    assert steps["success"]["ns"] > steps_before["success"]["ns"]
    assert steps["success"]["ns"] > steps["compute_infer"]["ns"] > 0


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_error(client: Any, model: Model, houses: NDArray[np.float64], binary: bool) -> None:
    """A request that does not fit the schema is refused with the message of a plain HTTP request, with all problems."""
    sent = houses[:2].copy()
    sent[1, 0] = 1e300
    made = inputs(model, sent, binary=binary)[:-1]
    plain = [
        {"name": name, "shape": [2], "datatype": "FP64", "data": sent[:, i].tolist()}
        for i, name in enumerate(model.features[:-1])
    ]

    with pytest.raises(InferenceServerException) as caught:
        client.infer(model.name, made)

    assert caught.value.status() == "400"
    assert caught.value.message() == model.wrong_answer(f"/v2/models/{model.name}/infer", {"inputs": plain})
    assert f"{model.features[-1]}" in caught.value.message()
    assert "out of range" in caught.value.message()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(client: Any, model: Model, houses: NDArray[np.float64], value: float, binary: bool) -> None:
    """A value that is not finite is refused, in binary and in the client's JSON."""
    sent = houses.copy()
    sent[300, 2] = value

    with pytest.raises(InferenceServerException) as caught:
        client.infer(model.name, inputs(model, sent, binary=binary))

    assert caught.value.status() == "400"
    assert "row 300" in caught.value.message()
    assert "not finite" in caught.value.message()


@pytest.mark.parametrize(
    "output",
    [triton.InferRequestedOutput("nobody"), triton.InferRequestedOutput(OUTPUT, class_count=3)],
    ids=["unknown", "classification"],
)
def test_unknown_output(client: Any, model: Model, houses: NDArray[np.float64], output: Any) -> None:
    """An unknown output, or a classification of the output, is refused."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model.name, inputs(model, houses), outputs=[output])

    assert caught.value.status() == "400"


def test_bytes_are_no_numbers(client: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """BYTES are refused, even if the text is a number."""
    texts = np.array([str(value).encode() for value in houses[:, 0]], dtype=np.object_)

    with pytest.raises(InferenceServerException, match="datatype") as caught:
        client.infer(model.name, [tensor(model.features[0], texts, binary=True), *inputs(model, houses)[1:]])

    assert caught.value.status() == "400"


def test_shared_memory_is_not_read(client: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """Inputs in shared memory are refused, since the server does not offer that extension."""
    made = inputs(model, houses)
    made[0].set_shared_memory("region", houses[:, 0].nbytes)

    with pytest.raises(InferenceServerException, match=model.features[0]) as caught:
        client.infer(model.name, made)

    assert caught.value.status() == "400"


def test_unknown_model(client: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """A model that is not served gets 404, and the message names the served models."""
    with pytest.raises(InferenceServerException, match=model.name) as caught:
        client.infer("nobody", inputs(model, houses))

    assert caught.value.status() == "404"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("load_model", ["nobody"]),
        ("unload_model", ["nobody"]),
        ("get_trace_settings", []),
        ("get_log_settings", []),
        ("get_system_shared_memory_status", []),
        ("register_system_shared_memory", ["region", "/key", 8]),
    ],
)
def test_extensions_that_are_not_offered(client: Any, call: str, arguments: list[Any]) -> None:
    """An extension that the server's metadata does not list gets 404, with a message that the client can show."""
    with pytest.raises(InferenceServerException, match="not found; see / for the paths") as caught:
        getattr(client, call)(*arguments)

    assert caught.value.status() == "404"
