"""Owns the native API's good answers: every form of a request, and equality with the trained model to the last bit."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import create_app
from app.config import Config
from conftest import COLUMNS, HOUSE, Server, bits

ANSWER = 25.002145787183498  # published as 25.00214579
OTHER = {"CHAS": 1, "RM": 5.0, "TAX": 666.0, "PTRATIO": 20.2, "B": 24.65, "LSTAT": 30.81}

FORMS = {
    "columns": {name: {"0": value} for name, value in HOUSE.items()},
    "record": HOUSE,
    "records": [HOUSE],
    "table": {"columns": COLUMNS, "data": [list(HOUSE.values())]},
    "table with index": {"columns": COLUMNS, "index": [0], "data": [list(HOUSE.values())]},
}

numbers = st.floats(-1e37, 1e37)  # the trained model refuses what does not fit float32 when it is scaled


def predict(client: FlaskClient, body: Any, *, path: str = "/predict") -> list[float]:
    """Return what the service predicts for a JSON body, or for CSV if the body is text."""
    is_csv = isinstance(body, str)
    text = body if is_csv else json.dumps(body)  # the client's own `json=` would sort the keys
    reply = client.post(path, data=text, content_type="text/csv" if is_csv else "application/json")
    assert reply.status_code == 200, reply.text
    prediction: list[float] = reply.get_json()["prediction"]
    return prediction


def test_readme_request(client: FlaskClient) -> None:
    """The request that the README shows gets the published answer, in a reply of exactly the promised keys."""
    reply = client.post("/predict", json=FORMS["columns"])

    body = reply.get_json()
    assert reply.status_code == 200
    assert reply.content_type == "application/json"
    assert body == {
        "prediction": [ANSWER],
        "model": "boston-housing",
        "version": 1,
        "request_id": reply.headers["X-Request-Id"],
    }
    assert reply.headers["X-Model-Version"] == "1"


@pytest.mark.parametrize("form", FORMS)
def test_json_forms(client: FlaskClient, form: str) -> None:
    """Every JSON form of a row gets the same bits."""
    assert predict(client, FORMS[form]) == [ANSWER]


@pytest.mark.parametrize(
    "text",
    [
        "CHAS,RM,TAX,PTRATIO,B,LSTAT\n0,6.575,296.0,15.3,396.9,4.98\n",
        "CHAS,RM,TAX,PTRATIO,B,LSTAT\r\n0,6.575,296.0,15.3,396.9,4.98",
        "\ufeffLSTAT, B,PTRATIO,TAX,RM,CHAS\n4.98, 396.9,15.3,2.96e2,+6.575,0\n\n",
        "CHAS,RM,TAX,PTRATIO,B,LSTAT\r0,6.575,296.0,15.3,396.9,4.98\r",
        '"CHAS","RM","TAX","PTRATIO","B","LSTAT"\n"0","6.575","296.0","15.3","396.9","4.98"\n',
    ],
    ids=["plain", "CRLF without a last one", "byte order mark, spaces, another order", "old Mac", "quoted"],
)
def test_csv(client: FlaskClient, text: str) -> None:
    """CSV gets the same bits as JSON, as spreadsheets and pandas write it."""
    assert predict(client, text) == [ANSWER]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON"])
def test_content_type_parameters(client: FlaskClient, content_type: str) -> None:
    """A content type is read without its parameters and whatever its case."""
    reply = client.post("/predict", data=json.dumps(HOUSE), content_type=content_type)

    assert (reply.status_code, reply.get_json()["prediction"]) == (200, [ANSWER])


@pytest.mark.parametrize("form", ["columns", "record", "records", "table", "csv"])
def test_columns_in_any_order(client: FlaskClient, form: str) -> None:
    """Columns are matched by name, not by place."""
    names = COLUMNS[::-1]
    row = [HOUSE[name] for name in names]
    backwards: dict[str, Any] = {
        "columns": {name: {"0": HOUSE[name]} for name in names},
        "record": {name: HOUSE[name] for name in names},
        "records": [HOUSE, {name: HOUSE[name] for name in names}],
        "table": {"columns": names, "data": [row]},
        "csv": ",".join(names) + "\n" + ",".join(map(str, row)),
    }

    assert set(predict(client, backwards[form])) == {ANSWER}


def test_cells_of_a_column_are_matched_by_index(client: FlaskClient) -> None:
    """In the column form a row is what has the same index in every column, in the order of the first column."""
    columns = {name: {"b": HOUSE[name], "a": OTHER[name]} for name in COLUMNS}
    shuffled = {name: cells if name == "CHAS" else dict(reversed(cells.items())) for name, cells in columns.items()}

    assert predict(client, shuffled) == predict(client, [HOUSE, OTHER])


def test_single_row_is_not_scaled_by_itself(client: FlaskClient) -> None:
    """A row's prediction does not depend on the rows that share its request."""
    together = predict(client, [OTHER, HOUSE, HOUSE])

    assert together == [*predict(client, OTHER), ANSWER, ANSWER]
    assert together[0] != ANSWER


def test_all_houses_in_process(client: FlaskClient, pipeline: Any, houses: pd.DataFrame) -> None:
    """All 506 rows, as one request and one by one, get the trained pipeline's answers bit for bit."""
    records = houses.to_dict(orient="records")
    expected = bits(pipeline.predict(houses.to_numpy()))

    assert np.array_equal(bits(predict(client, records)), expected)
    assert np.array_equal(bits([predict(client, record)[0] for record in records]), expected)


def test_all_houses_through_gunicorn(server: Server, pipeline: Any, houses: pd.DataFrame) -> None:
    """The real server gives the trained pipeline's answers bit for bit, as one request and one by one."""
    records = houses.to_dict(orient="records")
    expected = bits(pipeline.predict(houses.to_numpy()))
    with requests.Session() as session:

        def ask(body: Any) -> list[float]:
            prediction: list[float] = session.post(f"{server.url}/predict", json=body, timeout=10).json()["prediction"]
            return prediction

        assert np.array_equal(bits(ask(records)), expected)
        assert np.array_equal(bits([ask(record)[0] for record in records]), expected)


@pytest.mark.parametrize("orient", ["columns", "records", "split"])
def test_pandas_json(client: FlaskClient, pipeline: Any, houses: pd.DataFrame, orient: Any) -> None:
    """What `DataFrame.to_json` writes is read, whatever the frame's index."""
    frame = houses.iloc[40:60:3]
    text = frame.to_json(orient=orient, double_precision=15)

    assert np.array_equal(bits(predict(client, json.loads(text))), bits(pipeline.predict(frame.to_numpy())))


def test_pandas_csv(client: FlaskClient, pipeline: Any, houses: pd.DataFrame) -> None:
    """What `DataFrame.to_csv` writes without the index is read."""
    buffer = io.StringIO()
    houses.to_csv(buffer, index=False)

    assert np.array_equal(bits(predict(client, buffer.getvalue())), bits(pipeline.predict(houses.to_numpy())))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(*[numbers] * len(COLUMNS)), min_size=1, max_size=20), csv=st.booleans())
def test_random_rows(client: FlaskClient, pipeline: Any, rows: list[tuple[float, ...]], csv: bool) -> None:
    """Any float64 row that the trained pipeline answers gets that answer bit for bit, in JSON and in CSV."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    body = frame.to_csv(index=False) if csv else {"columns": COLUMNS, "data": [list(row) for row in rows]}

    assert np.array_equal(bits(predict(client, body)), bits(pipeline.predict(frame.to_numpy())))


def test_models_are_listed(client: FlaskClient) -> None:
    """`/models` names every loaded model, its version and which one answers `/predict`."""
    assert client.get("/models").get_json() == {
        "models": [{"name": "boston-housing", "version": 1}],
        "default": "boston-housing",
    }


def test_named_model_answers_the_same(client: FlaskClient) -> None:
    """`/models/<name>/predict` answers as `/predict` does for the default model."""
    named = client.post("/models/boston-housing/predict", json=HOUSE, headers={"X-Request-Id": "same"})
    default = client.post("/predict", json=HOUSE, headers={"X-Request-Id": "same"})

    assert named.get_json() == default.get_json()
    assert named.headers["X-Model-Version"] == "1"


def test_unknown_model(client: FlaskClient) -> None:
    """A model that nobody asked the server to load is 404, and the reply says which there are."""
    reply = client.post("/models/titanic/predict", json=HOUSE)

    assert reply.status_code == 404
    assert "boston-housing" in reply.get_json()["error"]


@pytest.mark.parametrize("reference", ["boston-housing", "boston-housing@champion", "boston-housing@1"])
def test_model_by_reference(store: Path, reference: str) -> None:
    """A model is served by its name, its alias or its version."""
    client = create_app(Config(store=store, models=(reference,))).test_client()

    assert predict(client, HOUSE, path="/models/boston-housing/predict") == [ANSWER]


def test_most_rows_are_answered(store: Path) -> None:
    """A request of exactly as many rows as are allowed is answered."""
    client = create_app(Config(store=store, max_rows=3)).test_client()

    assert predict(client, [HOUSE] * 3) == [ANSWER] * 3
