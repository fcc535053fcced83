"""Owns dates over all protocols: their texts have the pipeline's bits, or are refused with a reason."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.protocols import describe
from model import Feature, Store
from model.schema.feature import DATE
from tests.support import sales
from tests.support.openapi import document
from tests.support.sales import COLUMNS, NAME, SALE
from tests.support.service import bits, strict_json

Records = Sequence[dict[str, Any]]

INFER = f"/v2/models/{NAME}/infer"
DATATYPES = {"sold": "BYTES", "listed": "BYTES", "area": "FP64", "district": "BYTES"}
# A day and a moment as every writer may have them, and missing ones.
ROWS: Records = [
    SALE,
    *({**SALE, "sold": text} for text in ("2021-03-04T00:00", "2021-03-03 23:00:00-01:00", "2021-03-04t00:00:00z")),
    *(
        {**SALE, "listed": text}
        for text in ("2020-12-31 22:30", "2021-01-01T00:30:00+02:00", "1999-01-01", "0001-01-01")
    ),
    {**SALE, "listed": None},
    {**SALE, "sold": None, "listed": None},
    *sales.rows(sales.table(60, seed=1)),
]


def lists(records: Records) -> list[list[Any]]:
    """Return rows as lists in the schema's order."""
    return [[record[name] for name in COLUMNS] for record in records]


def columns(records: Records) -> dict[str, list[Any]]:
    """Return rows as columns."""
    return {name: [record[name] for record in records] for name in COLUMNS}


def tensors(records: Records) -> dict[str, Any]:
    """Return rows as a V2 request with the datatypes of the metadata."""
    return {
        "inputs": [
            {"name": name, "shape": [len(cells)], "datatype": DATATYPES[name], "data": cells}
            for name, cells in columns(records).items()
        ]
    }


JSON_FORMS: dict[str, tuple[str, Any]] = {
    "native records": ("/predict", list),
    "native table": ("/predict", lambda records: {"columns": COLUMNS, "data": lists(records)}),
    "native columns": (
        "/predict",
        lambda records: {
            name: {str(row): cell for row, cell in enumerate(cells)} for name, cells in columns(records).items()
        },
    ),
    "V1": (f"/v1/models/{NAME}:predict", lambda records: {"instances": records}),
    "V2": (INFER, tensors),
    "Vertex AI": ("/vertex/predict", lambda records: {"instances": lists(records)}),
    "MLflow split": (
        "/invocations",
        lambda records: {"dataframe_split": {"columns": COLUMNS, "data": lists(records)}},
    ),
    "MLflow inputs": ("/invocations", lambda records: {"inputs": columns(records)}),
}


def send(client: FlaskClient, path: str, body: Any) -> TestResponse:
    """Send JSON with its keys in their order, which the client's own way sorts."""
    return client.post(path, data=json.dumps(body), content_type="application/json")


def predicted(reply: TestResponse) -> list[float]:
    """Return the predictions in a reply of any protocol."""
    assert reply.status_code == 200, reply.text
    body = strict_json(reply)
    found = next(body[key] for key in ("prediction", "predictions", "outputs") if key in body)
    answer: list[float] = found[0]["data"] if isinstance(found[0], dict) else found
    return answer


@pytest.mark.parametrize("form", JSON_FORMS)
def test_json_has_the_pipelines_bits(sales_everywhere: FlaskClient, sales_pipeline: Any, form: str) -> None:
    """Dates in every form of ISO 8601, with null for missing ones, get the pipeline's bits, alone and together."""
    path, write = JSON_FORMS[form]
    expected = bits(sales.predictions(sales_pipeline, list(ROWS))).tolist()

    assert bits(predicted(send(sales_everywhere, path, write(ROWS)))).tolist() == expected
    alone = [predicted(send(sales_everywhere, path, write([row])))[0] for row in ROWS[:12]]
    assert bits(alone).tolist() == expected[:12]


@pytest.mark.parametrize("path", ["/predict", "/invocations"])
@pytest.mark.parametrize("header", [True, False])
def test_csv_has_the_pipelines_bits(
    sales_everywhere: FlaskClient, sales_pipeline: Any, path: str, header: bool
) -> None:
    """So do dates in CSV as pandas writes them, where an empty cell is a missing one, with a header and without."""
    table = sales.table(60, seed=2)
    kind = f"text/csv; header={'present' if header else 'absent'}"
    reply = sales_everywhere.post(path, data=table.to_csv(index=False, header=header), content_type=kind)

    assert bits(predicted(reply)).tolist() == bits(sales_pipeline.predict(table)).tolist()


@pytest.mark.parametrize("header", [True, False])
def test_sagemaker_finds_the_header(sales_everywhere: FlaskClient, sales_pipeline: Any, header: bool) -> None:
    """Without a parameter `header` a first line with dates is data, and one with the names is a header."""
    table = sales.table(9, seed=3)
    text = table.to_csv(index=False, header=header)
    reply = sales_everywhere.post("/invocations", data=text, content_type="text/csv")

    assert bits(predicted(reply)).tolist() == bits(sales_pipeline.predict(table)).tolist()


@pytest.mark.parametrize("text", ["", "NaT", "nan", "null", " NA "])
def test_missing_date_in_csv(sales_everywhere: FlaskClient, text: str) -> None:
    """What writers have for a missing date is one."""
    lines = f"sold,listed,area,district\n2021-03-04,{text},81.5,Nord\n"
    reply = sales_everywhere.post("/predict", data=lines, content_type="text/csv")

    assert predicted(reply) == predicted(sales_everywhere.post("/predict", json={**SALE, "listed": None}))


def test_v2_binary(sales_everywhere: FlaskClient, sales_pipeline: Any) -> None:
    """In binary tensors dates are strings, and an empty string is a missing one."""
    parts, inputs = [], []
    for name, cells in columns(ROWS).items():
        texts = ["" if cell is None else str(cell) for cell in cells]
        content = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)
        data = np.array(cells, dtype=np.float64).tobytes() if name == "area" else content
        facts = {"name": name, "shape": [len(cells)], "datatype": DATATYPES[name]}
        inputs.append({**facts, "parameters": {"binary_data_size": len(data)}})
        parts.append(data)
    header = json.dumps({"inputs": inputs}).encode()
    headers = {"Inference-Header-Content-Length": f"{len(header)}"}
    reply = sales_everywhere.post(INFER, data=b"".join([header, *parts]), headers=headers)

    assert bits(predicted(reply)).tolist() == bits(sales.predictions(sales_pipeline, list(ROWS))).tolist()


@pytest.mark.parametrize(
    ("cell", "reason", "nearest"),
    [
        (1_614_816_000, "not a date", None),
        (1_614_816_000.5, "not a date", None),
        (True, "not a date", None),
        ([], "not a date", None),
        ("", "not a date", None),
        ("today", "not a date", None),
        ("20210304", "not a date", None),
        ("04.03.2021", "not a date", None),
        ("2021-02-29", "not a date", None),
        ("2021-03-04" * 50_000, "not a date", None),
        ("9999-12-31T23:00-02:00", "out of range", "9999-12-31T23:59:59Z"),
    ],
)
@pytest.mark.parametrize("row", [0, 1])
def test_wrong_date_has_its_reason(
    sales_everywhere: FlaskClient, cell: Any, reason: str, nearest: str | None, row: int
) -> None:
    """A cell that is no date has its row, feature, reason and what is one; beyond the year 9999 the limit.

    It is so in every form.
    """
    records = [SALE] * row + [{**SALE, "sold": cell}]
    accepted = "ISO 8601, such as 2026-01-31 or 2026-01-31T14:30:00Z" if reason == "not a date" else ""
    detail = {"row": row, "feature": "sold", "reason": reason} | ({"nearest": nearest} if nearest else {})
    detail |= {"accepted": accepted} if accepted else {}
    reply = sales_everywhere.post("/predict", json=records)

    assert (reply.status_code, strict_json(reply)["details"]) == (422, [detail])
    for form, (path, write) in JSON_FORMS.items():
        if form == "V2" and cell == "":  # which is how a tensor of strings has a missing value
            continue
        other = send(sales_everywhere, path, write(records))
        assert other.status_code in (400, 422)
        if not (form == "V2" and not isinstance(cell, str)) and cell != []:
            assert f"row {row}, column 'sold': {reason}" in other.text.replace("\\u0027", "'"), form
            assert accepted in other.text, form


def test_number_of_v2_is_refused(sales_everywhere: FlaskClient) -> None:
    """No tensor of numbers is a date, and the message says what to send; nor has the model a matrix of all features."""
    document = tensors([SALE])
    document["inputs"][0] |= {"datatype": "FP64", "data": [1_614_816_000.0]}
    reply = sales_everywhere.post(INFER, json=document)
    assert reply.status_code == 400
    assert "column 'sold': the datatype is FP64; send BYTES" in reply.text

    matrix = {"name": "X", "shape": [1, len(COLUMNS)], "datatype": "FP64", "data": [0.0] * len(COLUMNS)}
    reply = sales_everywhere.post(INFER, json={"inputs": [matrix]})
    assert reply.status_code == 400
    assert "send a tensor for each of them" in reply.text


def test_v2_metadata(sales_everywhere: FlaskClient) -> None:
    """The metadata and Triton's configuration have strings for dates."""
    described = sales_everywhere.get(f"/v2/models/{NAME}").get_json()["inputs"]
    config = sales_everywhere.get(f"/v2/models/{NAME}/config").get_json()["input"]

    assert {tensor["name"]: tensor["datatype"] for tensor in described} == DATATYPES
    assert [tensor["data_type"] for tensor in config] == ["TYPE_STRING", "TYPE_STRING", "TYPE_FP64", "TYPE_STRING"]


def test_dates_are_described(sales_everywhere: FlaskClient) -> None:
    """The document has a date's formats and its range in words, and an example that is answered; so has the page."""
    row = document(sales_everywhere)["components"]["schemas"][f"{NAME}.row"]

    assert row["properties"]["sold"] == {
        "type": ["string", "null"],
        "description": "2019-01-06 to 2024-06-17 in training; may be missing",
        "anyOf": [{"format": "date"}, {"format": "date-time"}],
    }
    assert row["examples"][0]["sold"] == "2023-08-29"
    assert len(predicted(sales_everywhere.post("/predict", json=row["examples"][0]))) == 1
    page = sales_everywhere.get("/models/sales/page").get_json()
    assert page["features"][0]["seen"] == "2019-01-06 to 2024-06-17 in training; may be missing"
    assert page["examples"][0]["sold"] == "2023-08-29"


def test_format_of_a_model_is_described() -> None:
    """Where texts in a format of the model's own are accepted, the document does not ask for ISO 8601 alone."""
    feature = Feature("f", type=DATE, format="%d.%m.%Y")

    assert describe.cell(feature) == {"type": "string", "description": "any date; also written as %d.%m.%Y"}


def test_ten_thousand_dates_are_answered_soon(sales_everywhere: FlaskClient) -> None:
    """A request of as many rows as are allowed, each with dates of its own, takes a fraction of a second."""
    moments = np.datetime64("2020-01-01T00:00:00") + np.arange(10_000) * np.timedelta64(61, "s")
    body = json.dumps([{**SALE, "sold": f"{moment}Z", "listed": f"{moment}+01:00"} for moment in moments]).encode()
    started = time.process_time()
    reply = sales_everywhere.post("/predict", data=body, content_type="application/json")

    assert time.process_time() - started < 2  # 0.2 s alone
    assert len(predicted(reply)) == 10_000


def test_dates_in_the_prediction_log(sales_store: Path) -> None:
    """A logged row has its dates as texts in UTC, from which the same numbers are read."""
    schema = Store(sales_store).load(NAME).schema
    X = schema.matrix_from_records(ROWS)
    logged = json.loads(json.dumps([list(row) for row in schema.to_log(X)]))

    assert logged[0] == ["2021-03-04", "2020-12-31T22:30:00Z", 81.5, "Nord"]
    assert logged[9][:2] == [None, None]
    read = np.column_stack([kind.from_log(cells) for kind, cells in zip(schema.cells, zip(*logged))])
    assert np.array_equal(bits(read[~np.isnan(X)]), bits(X[~np.isnan(X)]))
    strange = schema.cells[0].from_log(["x", 1.5, None, True, [1], "2021-03-04"])
    assert np.isnan(strange).tolist() == [True] * 5 + [False]
    assert pd.Timestamp(strange[-1], unit="s") == pd.Timestamp("2021-03-04")
