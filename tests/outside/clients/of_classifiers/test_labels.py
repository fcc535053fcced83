"""The platforms' clients get the labels and probabilities of POST /predict from a classifier, to the last bit."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from numpy.typing import NDArray

from tests.outside.clients.conftest import Model, bits

N_ROWS = 20
TLS = ssl.create_default_context()  # the client wants it, though no test uses TLS


@pytest.fixture(scope="module")
def stones(model: Model) -> pd.DataFrame:
    """Rows that every classifier of the tests accepts."""
    random = np.random.default_rng(0)
    columns = {"carat": random.uniform(0.2, 3, N_ROWS), "depth": random.uniform(50, 70, N_ROWS)}
    return pd.DataFrame({**columns, "pieces": random.integers(1, 9, N_ROWS)})


@pytest.fixture(scope="module")
def expected(model: Model, stones: pd.DataFrame) -> tuple[list[Any], NDArray[np.float64]]:
    """The labels of the native API, and its probabilities `(n_rows, n_classes)`."""
    reply = requests.post(f"{model.url}/predict", json=stones.to_dict(orient="records"), timeout=30).json()
    return reply["prediction"], np.array([list(row.values()) for row in reply["probability"]])


def texts(values: Any) -> list[Any]:
    """Return labels as Python has them; clients have those of BYTES as bytes or as text."""
    return [each.decode() if isinstance(each, bytes) else each for each in np.asarray(values).reshape(-1).tolist()]


def test_several_labels_are_compared(expected: tuple[list[Any], NDArray[np.float64]]) -> None:
    """The rows have several labels, so that a constant answer would fail."""
    assert len(set(expected[0])) > 1


def test_mlflow(model: Model, stones: pd.DataFrame, expected: Any) -> None:
    """MLflow's client gets labels, and by the parameter `predict_method` the probabilities."""
    client = ScoringServerClient(*model.address.split(":"))
    labels = client.invoke(stones).get_predictions()
    probabilities = client.invoke(stones, params={"predict_method": "predict_proba"}).get_predictions()

    assert texts(labels) == expected[0]
    assert np.array_equal(bits(probabilities.to_numpy(dtype=np.float64)), bits(expected[1]))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_triton(model: Model, stones: pd.DataFrame, expected: Any, binary: bool) -> None:
    """Triton's client gets both outputs, in binary and in JSON."""
    inputs = []
    for name in stones:
        values = stones[name].to_numpy()
        kind = "INT64" if values.dtype == np.int64 else "FP64"
        inputs.append(triton.InferInput(name, [N_ROWS], kind).set_data_from_numpy(values, binary_data=binary))
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("predict", "predict_proba")]
    with triton.InferenceServerClient(model.address) as client:
        found = client.infer(model.name, inputs, outputs=outputs)

    assert texts(found.as_numpy("predict")) == expected[0]
    assert np.array_equal(bits(found.as_numpy("predict_proba")), bits(expected[1]))


def ask(model: Model, data: Any, protocol: str) -> Any:
    """Return the answer to KServe's client."""

    async def session() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol=protocol, verify=TLS)) as client:
            return await client.infer(model.url, data, model_name=model.name)

    return asyncio.run(session())


def test_kserve_v1(model: Model, stones: pd.DataFrame, expected: Any) -> None:
    """KServe's client of V1 gets labels."""
    found = ask(model, {"instances": stones.to_dict(orient="records")}, "v1")

    assert found["predictions"] == expected[0]


def test_kserve_v2(model: Model, stones: pd.DataFrame, expected: Any) -> None:
    """KServe's client of V2 gets both outputs."""
    inputs = []
    for name in stones:
        values = stones[name].to_numpy(dtype=np.float64)
        tensor = InferInput(name, [N_ROWS], "FP64")
        tensor.set_data_from_numpy(values, binary_data=False)
        inputs.append(tensor)
    found = {output.name: output.as_numpy() for output in ask(model, InferRequest(model.name, inputs), "v2").outputs}

    assert texts(found["predict"]) == expected[0]
    assert np.array_equal(bits(found["predict_proba"]), bits(expected[1]))
