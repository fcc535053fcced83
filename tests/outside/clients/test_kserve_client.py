"""KServe's REST client: it gets the predictions of POST /predict in V1 and V2, to the last bit."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from numpy.typing import NDArray

from tests.outside.clients.conftest import Model, bits

OUTPUT = "prediction"
# Created once, since that takes longer than a request; the client wants it, though no test uses TLS.
TLS = ssl.create_default_context()


def ask(protocol: str, call: Callable[[Any], Awaitable[Any]]) -> Any:
    """Return the result of `call` with a client for V1 or V2."""

    async def session() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol=protocol, verify=TLS)) as client:
            return await call(client)

    return asyncio.run(session())


def infer(model: Model, data: Any, *, protocol: str = "v2", **more: Any) -> Any:
    """Return the client's answer to an inference request."""
    return ask(protocol, lambda client: client.infer(model.url, data, model_name=model.name, **more))


def inputs(model: Model, rows: NDArray[Any], *, shape: str, binary: bool) -> list[Any]:
    """Return rows as inputs: a tensor `[n]` or `[n, 1]` for every feature, or a single matrix."""
    named = {"X": rows} if shape == "matrix" else {name: rows[:, i] for i, name in enumerate(model.features)}
    found = []
    for name, values in named.items():
        values = np.ascontiguousarray(values.reshape(-1, 1) if shape == "columns" else values)
        tensor = InferInput(name, list(values.shape), {"float64": "FP64", "float32": "FP32"}[values.dtype.name])
        tensor.set_data_from_numpy(values, binary_data=binary)
        found.append(tensor)
    return found


def records(model: Model, rows: NDArray[np.float64]) -> list[dict[str, float]]:
    """Return rows as objects with feature names as keys."""
    return [dict(zip(model.features, row)) for row in rows.tolist()]


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["FP64", "FP32"])
@pytest.mark.parametrize("shape", ["vectors", "columns", "matrix"])
@pytest.mark.parametrize("reply", [None, "output", "request", "JSON"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_v2_infer(
    model: Model, rows: NDArray[np.float64], binary: bool, reply: str | None, shape: str, dtype: Any
) -> None:
    """All ways to send rows and request outputs get the same predictions, compressed where httpx asks for it."""
    sent = rows.astype(dtype)
    request = InferRequest(
        model.name,
        inputs(model, sent, shape=shape, binary=binary),
        request_id="mine",
        parameters={"binary_data_output": True} if reply == "request" else None,
        request_outputs=[RequestedOutput(OUTPUT, {"binary_data": reply == "output"})]
        if reply in ("output", "JSON")
        else None,
    )
    headers: dict[str, str] = {}

    response = infer(model, request, response_headers=headers)

    output = response.get_output_by_name(OUTPUT)
    assert (output.datatype, output.shape) == ("FP64", [len(rows)])
    assert bits(output.as_numpy()) == bits(model.predict(sent))
    assert (response.id, response.model_name) == ("mine", model.name)
    assert ("inference-header-content-length" in headers) == (reply in ("output", "request"))


@pytest.mark.parametrize("nested", [True, False])
def test_v2_dict(model: Model, rows: NDArray[np.float64], nested: bool) -> None:
    """A request given as a dict gets the same predictions."""
    data = rows.tolist() if nested else rows.ravel().tolist()
    response = infer(model, {"inputs": [{"name": "X", "shape": list(rows.shape), "datatype": "FP64", "data": data}]})

    assert response.id is None
    assert bits(response.get_output_by_name(OUTPUT).as_numpy()) == bits(model.predict(rows))


@pytest.mark.parametrize("key", ["instances", "inputs"])
@pytest.mark.parametrize("form", ["lists", "objects"])
def test_v1_infer(model: Model, rows: NDArray[np.float64], form: str, key: str) -> None:
    """Instances, as lists or objects, get the same predictions; TensorFlow's `inputs` get `outputs`."""
    value = rows.tolist() if form == "lists" else records(model, rows)

    answer = infer(model, {key: value}, protocol="v1")

    assert answer.keys() == {"predictions" if key == "instances" else "outputs"}
    assert bits(*answer.values()) == bits(model.predict(rows))


def test_v1_columns(model: Model, rows: NDArray[np.float64]) -> None:
    """TensorFlow Serving's column format gets the same predictions."""
    columns = {name: rows[:, i].tolist() for i, name in enumerate(model.features)}

    assert bits(infer(model, {"inputs": columns}, protocol="v1")["outputs"]) == bits(model.predict(rows))


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_server_is_live(model: Model, protocol: str) -> None:
    """The client finds the server live; in V1 it asks `/`."""
    assert ask(protocol, lambda client: client.is_server_live(model.url)) is True


def test_server_is_ready(model: Model) -> None:
    """The client finds the server ready; V1 has no such request."""
    assert ask("v2", lambda client: client.is_server_ready(model.url)) is True


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_model_is_ready(model: Model, protocol: str) -> None:
    """The client finds the model ready."""
    assert ask(protocol, lambda client: client.is_model_ready(model.url, model.name)) is True


def test_unknown_model_is_not_ready(model: Model) -> None:
    """The client reports a model that is not served as not ready in V2, and as an error in V1."""
    assert ask("v2", lambda client: client.is_model_ready(model.url, "nobody")) is False
    with pytest.raises(httpx.HTTPStatusError, match=f"model 'nobody' not found; loaded models: {model.name}"):
        ask("v1", lambda client: client.is_model_ready(model.url, "nobody"))


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_error(model: Model, houses: NDArray[np.float64], protocol: str) -> None:
    """A request that does not fit the schema is refused with the message that any HTTP client gets."""
    row = records(model, houses[:1])[0]
    row.pop(model.features[-1])
    tensors = [{"name": name, "shape": [1], "datatype": "FP64", "data": [value]} for name, value in row.items()]
    body: dict[str, Any] = {"instances": [row]} if protocol == "v1" else {"inputs": tensors}
    path = f"/v1/models/{model.name}:predict" if protocol == "v1" else f"/v2/models/{model.name}/infer"

    with pytest.raises(httpx.HTTPStatusError) as caught:
        infer(model, body, protocol=protocol)

    message = model.wrong_answer(path, body)
    assert caught.value.response.status_code == 400
    assert str(caught.value).startswith(f"{message}, '400 ")
    assert model.features[-1] in message
