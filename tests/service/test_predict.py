"""Owns the predictions of the native API: every request form, and equality with the trained model to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import create_app
from app.config import Config
from tests.support.predict import ask
from tests.support.service import ANSWER, COLUMNS, HOUSE, ROOT, bits, everywhere_client, refused, strict_json

OTHER = {"CHAS": 1, "RM": 5.0, "TAX": 666.0, "PTRATIO": 20.2, "B": 24.65, "LSTAT": 30.81}

FORMS = {
    "columns": {name: {"0": value} for name, value in HOUSE.items()},
    "record": HOUSE,
    "records": [HOUSE],
    "table": {"columns": COLUMNS, "data": [list(HOUSE.values())]},
    "table with index": {"columns": COLUMNS, "index": [0], "data": [list(HOUSE.values())]},
}

numbers = st.floats(-1e37, 1e37)  # the trained model refuses values whose scaled value exceeds float32


def predict(client: FlaskClient, body: Any, *, path: str = "/predict") -> list[float]:
    """Return the predictions for a JSON body, or for CSV if the body is text."""
    is_csv = isinstance(body, str)
    text = body if is_csv else json.dumps(body)  # the client's own `json=` would sort the keys
    reply = client.post(path, data=text, content_type="text/csv" if is_csv else "application/json")
    assert reply.status_code == 200, reply.text
    prediction: list[float] = reply.get_json()["prediction"]
    return prediction


def test_readme_request(client: FlaskClient) -> None:
    """The README's request gets the published prediction, in a reply with exactly the documented keys."""
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
    """A content type is read in any case, without its parameters."""
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
    """In the column form a row consists of the cells with the same index, in the order of the first column."""
    columns = {name: {"b": HOUSE[name], "a": OTHER[name]} for name in COLUMNS}
    shuffled = {name: cells if name == "CHAS" else dict(reversed(cells.items())) for name, cells in columns.items()}

    assert predict(client, shuffled) == predict(client, [HOUSE, OTHER])


def test_single_row_is_not_scaled_by_itself(client: FlaskClient) -> None:
    """A row's prediction does not depend on the rows that share its request."""
    together = predict(client, [OTHER, HOUSE, HOUSE])

    assert together == [*predict(client, OTHER), ANSWER, ANSWER]
    assert together[0] != ANSWER


def test_all_houses_in_process(client: FlaskClient, pipeline: Any, houses: pd.DataFrame) -> None:
    """All 506 rows, in one request and one by one, get the trained pipeline's predictions bit for bit."""
    records = houses.to_dict(orient="records")
    expected = bits(pipeline.predict(houses.to_numpy()))

    assert np.array_equal(bits(predict(client, records)), expected)
    assert np.array_equal(bits([predict(client, record)[0] for record in records]), expected)


@pytest.mark.parametrize("orient", ["columns", "records", "split"])
def test_pandas_json(client: FlaskClient, pipeline: Any, houses: pd.DataFrame, orient: Any) -> None:
    """The output of `DataFrame.to_json` is read, with any index."""
    frame = houses.iloc[40:60:3]
    text = frame.to_json(orient=orient, double_precision=15)

    assert np.array_equal(bits(predict(client, json.loads(text))), bits(pipeline.predict(frame.to_numpy())))


@pytest.mark.parametrize("index", [False, True])
def test_pandas_csv(client: FlaskClient, pipeline: Any, houses: pd.DataFrame, index: bool) -> None:
    """The output of `DataFrame.to_csv` is read without and with its index, a first column without a name."""
    text = houses.to_csv(index=index)

    assert np.array_equal(bits(predict(client, text)), bits(pipeline.predict(houses.to_numpy())))


def test_only_the_first_column_without_a_name_is_an_index(client: FlaskClient) -> None:
    """A column without a name at another place is unknown, and the message has its empty name in quotes."""
    reply = client.post("/predict", data=f"{','.join(COLUMNS)},\n0,1,1,1,1,1,9\n", content_type="text/csv")

    assert (reply.status_code, reply.get_json()["error"]) == (422, "1 problem: column '': unknown")


def test_forms_that_keep_every_bit(client: FlaskClient, pipeline: Any) -> None:
    """The forms that docs/http-api.md recommends for a data frame say every float64, where `to_json()` rounds it."""
    frame = pd.DataFrame(np.random.default_rng(13).uniform(0, 400, (200, len(COLUMNS))), columns=COLUMNS)
    expected = bits(pipeline.predict(frame.to_numpy()))

    assert 'json.dumps(frame.to_dict("records"))' in (ROOT / "docs" / "http-api.md").read_text()
    assert np.array_equal(bits(predict(client, frame.to_dict("records"))), expected)
    assert np.array_equal(bits(predict(client, frame.to_csv())), expected)
    for text in (frame.to_json(), frame.to_json(double_precision=15)):
        assert not pd.DataFrame(json.loads(text)).reset_index(drop=True).equals(frame)


def test_csv_without_a_header(client: FlaskClient) -> None:
    """The first line of CSV is the header unless the content type says that there is none."""
    line = ",".join(map(str, HOUSE.values()))
    absent = client.post("/predict", data=line, content_type="text/csv; header=absent")
    unsaid = client.post("/predict", data=f"{line}\n{line}", content_type="text/csv")
    unknown = client.post("/predict", data=line, content_type="text/csv; header=perhaps")

    assert strict_json(absent)["prediction"] == [ANSWER]
    assert refused(unsaid, 422, "native").startswith("12 problems, the first: column 'CHAS': missing")
    assert "header=present or header=absent" in refused(unknown, 415, "native")
    assert client.post("/predict", json=HOUSE, content_type="application/json; header=perhaps").status_code == 200


SEMICOLONS = "CHAS;RM;TAX;PTRATIO;B;LSTAT\n0;6,575;296;15,3;396,9;4,98\n"


@pytest.mark.parametrize(
    ("text", "called"), [(SEMICOLONS, "semicolons"), (SEMICOLONS.replace(";", "\t").replace(",", "."), "tabs")]
)
def test_csv_with_another_separator(client: FlaskClient, text: str, called: str) -> None:
    """For CSV with another separator the message names the separator and what to do."""
    reply = client.post("/predict", data=text, content_type="text/csv")

    assert (reply.status_code, reply.get_json()["error"]) == (
        400,
        f"the body is not CSV: its cells are separated by {called}; separate them by commas",
    )


TENSOR = {"shape": [1], "datatype": "FP64"}


def wide_requests(row: dict[str, float]) -> dict[str, tuple[str, Any]]:
    """Return a row in every form with feature names, and the path that reads it."""
    table = {"columns": list(row), "data": [list(row.values())]}
    columns = {name: [value] for name, value in row.items()}
    tensors = [{"name": name, **TENSOR, "data": [value]} for name, value in row.items()]
    return {
        "one record": ("/predict", row),
        "records": ("/predict", [row, HOUSE]),
        "columns of pandas": ("/predict", {name: {"0": value} for name, value in row.items()}),
        "table": ("/predict", table),
        "V1's instances": ("/v1/models/boston-housing:predict", {"instances": [row]}),
        "V1's inputs": ("/v1/models/boston-housing:predict", {"inputs": columns}),
        "MLflow's split": ("/invocations", {"dataframe_split": table}),
        "MLflow's records": ("/invocations", {"dataframe_records": [row]}),
        "Vertex AI's instances": ("/vertex/predict", {"instances": [row]}),
        "V2's tensors": ("/v2/models/boston-housing/infer", {"inputs": tensors}),
        "CSV": ("/predict", f"{','.join(row)}\n{','.join(map(str, row.values()))}\n"),
    }


@pytest.fixture(scope="module")
def lenient(store: Path) -> FlaskClient:
    """A client of a service that ignores unknown columns."""
    return everywhere_client(store, lambda lines: None, ignore_unknown_columns=True)


def test_target_is_ignored(everywhere: FlaskClient) -> None:
    """A target column in a table is ignored in every form, whatever its values."""
    for target in (24.0, None, "?"):
        for form, (path, body) in wide_requests({**HOUSE, "MEDV": target}).items():  # type: ignore[dict-item]
            reply = ask(everywhere, path, body)
            assert (reply.status_code, str(ANSWER) in reply.text) == (200, True), (form, reply.text)


def test_unknown_columns(everywhere: FlaskClient, lenient: FlaskClient) -> None:
    """Other unknown columns are refused by name, unless a setting has them ignored."""
    for form, (path, body) in wide_requests({**HOUSE, "ZN": 18.0}).items():
        reply, left_out = ask(everywhere, path, body), ask(lenient, path, body)
        assert (reply.status_code, "ZN" in reply.text) == (422 if path == "/predict" else 400, True), form
        assert (left_out.status_code, str(ANSWER) in left_out.text) == (200, True), (form, left_out.text)


@pytest.mark.parametrize(("n_unknown", "answered"), [(20, True), (21, False)])
def test_number_of_ignored_columns_is_bounded(lenient: FlaskClient, n_unknown: int, answered: bool) -> None:
    """At most 20 columns are ignored: a table with more is another table."""
    for form, (path, body) in wide_requests({**HOUSE, **{f"x{i}": 0.5 for i in range(n_unknown)}}).items():
        assert (ask(lenient, path, body).status_code == 200) is answered, form


def test_renamed_column_is_missing(lenient: FlaskClient) -> None:
    """If unknown columns are ignored, a feature under another name is still missing."""
    for form, (path, body) in wide_requests({"rm" if name == "RM" else name: 1.0 for name in HOUSE}).items():
        reply = ask(lenient, path, body)
        assert (reply.status_code >= 400, "RM" in reply.text) == (True, True), form


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(*[numbers] * len(COLUMNS)), min_size=1, max_size=20), csv=st.booleans())
def test_random_rows(client: FlaskClient, pipeline: Any, rows: list[tuple[float, ...]], csv: bool) -> None:
    """Any valid float64 row gets the trained pipeline's prediction bit for bit, in JSON and in CSV."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    body = frame.to_csv(index=False) if csv else {"columns": COLUMNS, "data": [list(row) for row in rows]}

    assert np.array_equal(bits(predict(client, body)), bits(pipeline.predict(frame.to_numpy())))


def test_models_are_listed(client: FlaskClient) -> None:
    """`/models` lists every loaded model, its version, and the default model."""
    assert client.get("/models").get_json() == {
        "models": [
            {"name": "boston-housing", "version": 1, "versions": [{"version": 1, "role": "champion"}]},
        ],
        "default": "boston-housing",
    }


def test_named_model_answers_the_same(client: FlaskClient) -> None:
    """`/models/<name>/predict` answers as `/predict` does for the default model."""
    named = client.post("/models/boston-housing/predict", json=HOUSE, headers={"X-Request-Id": "same"})
    default = client.post("/predict", json=HOUSE, headers={"X-Request-Id": "same"})

    assert named.get_json() == default.get_json()
    assert named.headers["X-Model-Version"] == "1"


def test_unknown_model(client: FlaskClient) -> None:
    """An unknown model is 404, and the message lists the loaded models."""
    reply = client.post("/models/titanic/predict", json=HOUSE)

    assert reply.status_code == 404
    assert "boston-housing" in reply.get_json()["error"]


@pytest.mark.parametrize("reference", ["boston-housing", "boston-housing@champion", "boston-housing@1"])
def test_model_by_reference(store: Path, reference: str) -> None:
    """A model is served by its name, its alias or its version."""
    client = create_app(Config(store=store, models=(reference,))).test_client()

    assert predict(client, HOUSE, path="/models/boston-housing/predict") == [ANSWER]


def test_row_limit_is_answered(store: Path) -> None:
    """A request with exactly the allowed number of rows is answered."""
    client = create_app(Config(store=store, max_rows=3)).test_client()

    assert predict(client, [HOUSE] * 3) == [ANSWER] * 3
