"""MLflow's client for its scoring server: it gets the predictions of POST /predict, to the last bit.

The client writes numbers with `json.dumps`, which loses no digit. It cannot send a dict of columns, since it loops over
the keys instead of the items. It sends text unchanged, so the tests pass such a request as JSON text.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from numpy.typing import NDArray

from tests.outside.clients.conftest import Model, bits


@pytest.fixture
def client(model: Model) -> Any:
    """A client of the server."""
    return ScoringServerClient(*model.address.split(":"))


def written(model: Model, rows: NDArray[Any], form: str) -> Any:
    """Return rows in a form that the client accepts."""
    frame = pd.DataFrame(rows, columns=list(model.features))
    forms = {
        "frame": frame,
        "frame in another order": frame[list(model.features[::-1])],
        "frame with an index": frame.set_axis([f"house {i}" for i in range(len(frame))], axis="index"),
        "array": rows,
        "list": rows.tolist(),
        "list of objects": frame.to_dict(orient="records"),
        "records written out": json.dumps({"dataframe_records": frame.to_dict(orient="records")}),
        "instances written out": json.dumps({"instances": rows.tolist()}),
        "columns written out": json.dumps({"inputs": frame.to_dict(orient="list")}),
    }
    return forms[form]


FORMS = [
    "frame",
    "frame in another order",
    "frame with an index",
    "array",
    "list",
    "list of objects",
    "records written out",
    "instances written out",
    "columns written out",
]


@pytest.mark.parametrize("form", FORMS)
def test_invoke(client: Any, model: Model, rows: NDArray[np.float64], form: str) -> None:
    """All forms that the client sends get the same predictions, as an array and as a frame."""
    reply = client.invoke(written(model, rows, form))

    assert reply.keys() == {"predictions"}
    assert bits(reply.get_predictions("ndarray", dtype=np.float64)) == bits(model.predict(rows))
    assert bits(reply.get_predictions()[0].to_numpy()) == bits(model.predict(rows))


@pytest.mark.parametrize("form", ["frame", "array", "list"])
def test_float32(client: Any, model: Model, rows: NDArray[np.float64], form: str) -> None:
    """Rows in float32 get the predictions for the rounded numbers."""
    sent = rows.astype(np.float32)

    reply = client.invoke(written(model, sent, form))

    assert bits(reply.get_predictions("ndarray")) == bits(model.predict(sent))


def test_whole_numbers(client: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """Columns of integers in a frame get the predictions for the same numbers."""
    frame = pd.DataFrame(houses, columns=list(model.features)).round().astype(np.int64)

    assert bits(client.invoke(frame)["predictions"]) == bits(model.predict(frame.to_numpy()))


@pytest.mark.parametrize("params", [{}, {"temperature": 0.5, "names": ["a", None], "inner": {"x": 1}}])
@pytest.mark.parametrize("form", ["frame", "array"])
def test_params(client: Any, model: Model, houses: NDArray[np.float64], form: str, params: dict[str, Any]) -> None:
    """Parameters change no prediction, since the model has none."""
    reply = client.invoke(written(model, houses, form), params=params)

    assert bits(reply.get_predictions("ndarray")) == bits(model.predict(houses))


def test_ping(client: Any) -> None:
    """The client finds the server ready, with a single request and with a wait."""
    client.ping()
    client.wait_server_ready(timeout=30)


def test_version(client: Any, model: Model) -> None:
    """The version is the server's version without a prefix."""
    assert client.get_version() == requests.get(f"{model.url}/v2", timeout=30).json()["version"]


def test_missing_value(client: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """A frame with a missing value, which the client writes as NaN, is refused, and the message names the place."""
    frame = pd.DataFrame(houses.copy(), columns=list(model.features))
    frame.iloc[300, 2] = np.nan

    with pytest.raises(Exception, match="Invocation failed") as caught:
        client.invoke(frame)

    text = str(caught.value)
    assert "error code 400" in text
    assert "row 300" in text
    assert model.features[2] in text


def test_error(client: Any, model: Model, houses: NDArray[np.float64]) -> None:
    """A request that does not fit the schema is refused with the message that any HTTP client gets, no traceback."""
    frame = pd.DataFrame(houses, columns=list(model.features)).drop(columns=model.features[0])
    body = {"dataframe_split": frame.to_dict(orient="split")}

    with pytest.raises(Exception, match="Invocation failed") as caught:
        client.invoke(frame)

    document = json.loads(str(caught.value).partition("response: ")[2].removesuffix(")"))
    assert "error code 400" in str(caught.value)
    assert document == {"error_code": "BAD_REQUEST", "message": model.wrong_answer("/invocations", body)}
    assert model.features[0] in document["message"]
