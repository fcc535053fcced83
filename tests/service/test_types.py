"""Owns the types of features over all protocols: categories, booleans, whole numbers, and missing values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support import gems
from tests.support.gems import CATEGORIES, COLUMNS, DEPTH, GEM, MAY_BE_MISSING, NAME
from tests.support.metrics import by_label, series
from tests.support.service import bits, everywhere_client, strict_json

Records = Sequence[dict[str, Any]]

INFER = f"/v2/models/{NAME}/infer"
DATATYPES = dict.fromkeys(COLUMNS, "FP64") | {"pieces": "INT64", "certified": "BOOL"}
DATATYPES |= dict.fromkeys(("cut", "color", "origin"), "BYTES")


def lists(records: Records) -> list[list[Any]]:
    """Return rows as lists in the schema's order."""
    return [[record.get(name) for name in COLUMNS] for record in records]


def columns(records: Records) -> dict[str, list[Any]]:
    """Return rows as columns."""
    return {name: [record.get(name) for record in records] for name in COLUMNS}


def csv_of(records: Records, *, header: bool = True) -> str:
    """Return rows as pandas writes them."""
    frame = pd.DataFrame(columns(records), dtype=object)
    return frame.to_csv(index=False, header=header)


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
    "V1 records": (f"/v1/models/{NAME}:predict", lambda records: {"instances": records}),
    "V1 lists": (f"/v1/models/{NAME}:predict", lambda records: {"instances": lists(records)}),
    "V1 columns": (f"/v1/models/{NAME}:predict", lambda records: {"inputs": columns(records)}),
    "V2": (INFER, tensors),
    "Vertex AI": ("/vertex/predict", lambda records: {"instances": records}),
    "MLflow split": (
        "/invocations",
        lambda records: {"dataframe_split": {"columns": COLUMNS[::-1], "data": [row[::-1] for row in lists(records)]}},
    ),
    "MLflow records": ("/invocations", lambda records: {"dataframe_records": records}),
    "MLflow instances": ("/invocations", lambda records: {"instances": records}),
    "MLflow inputs": ("/invocations", lambda records: {"inputs": columns(records)}),
}


def send(client: FlaskClient, path: str, body: Any) -> TestResponse:
    """Send JSON with its keys in their order, which the client's own way sorts."""
    return client.post(path, data=json.dumps(body), content_type="application/json")


def post_csv(client: FlaskClient, path: str, text: str, kind: str = "text/csv") -> TestResponse:
    """Send a CSV table."""
    return client.post(path, data=text.encode(), content_type=kind)


def predicted(reply: TestResponse) -> list[float]:
    """Return the predictions in a reply of any protocol."""
    assert reply.status_code == 200, reply.text
    body = strict_json(reply)
    found = next(body[key] for key in ("prediction", "predictions", "outputs") if key in body)
    answer: list[float] = found[0]["data"] if isinstance(found[0], dict) else found
    return answer


# Every category, both booleans and every missing value, and what is unseen where that is accepted.
ROWS: Records = [
    GEM,
    *({**GEM, name: category} for name, known in CATEGORIES.items() for category in known),
    *({**GEM, "certified": certified, "boxed": boxed} for certified in (True, False) for boxed in (True, False)),
    *({**GEM, name: None} for name in MAY_BE_MISSING),
    {**GEM, **dict.fromkeys(MAY_BE_MISSING)},
    *({**GEM, name: unseen} for name, unseen in (("color", "Z"), ("color", "01"), ("origin", "Peru!"), ("grade", 0.6))),
    *gems.rows(gems.table(60, seed=1)),
]


@pytest.mark.parametrize("form", JSON_FORMS)
def test_json_has_the_pipelines_bits(gems_everywhere: FlaskClient, gems_pipeline: Any, form: str) -> None:
    """Rows of every type, with null where it is accepted, get the pipeline's bits, alone and together."""
    path, write = JSON_FORMS[form]
    expected = bits(gems.predictions(gems_pipeline, list(ROWS))).tolist()

    assert bits(predicted(send(gems_everywhere, path, write(ROWS)))).tolist() == expected
    alone = [predicted(send(gems_everywhere, path, write([row])))[0] for row in ROWS[:40]]
    assert bits(alone).tolist() == expected[:40]


@pytest.mark.parametrize("path", ["/predict", "/invocations"])
@pytest.mark.parametrize("header", [True, False])
def test_csv_has_the_pipelines_bits(gems_everywhere: FlaskClient, gems_pipeline: Any, path: str, header: bool) -> None:
    """The same rows in CSV, where an empty cell is a missing value, get the same bits, with a header and without."""
    kind = f"text/csv; header={'present' if header else 'absent'}"
    answer = predicted(post_csv(gems_everywhere, path, csv_of(ROWS, header=header), kind))

    assert bits(answer).tolist() == bits(gems.predictions(gems_pipeline, list(ROWS))).tolist()


@pytest.mark.parametrize("header", [True, False])
def test_sagemaker_finds_the_header(gems_everywhere: FlaskClient, gems_pipeline: Any, header: bool) -> None:
    """Without a parameter `header` a first line with categories is data, and one with the names is a header."""
    answer = predicted(post_csv(gems_everywhere, "/invocations", csv_of(ROWS, header=header)))

    assert bits(answer).tolist() == bits(gems.predictions(gems_pipeline, list(ROWS))).tolist()


@pytest.mark.parametrize(
    ("name", "text", "cell"),
    [
        ("color", "NA", "NA"),
        ("color", '"NA"', "NA"),
        ("color", " NA ", "NA"),
        ("color", "None", "None"),
        ("color", "nan", None),
        ("color", '""', None),
        ("color", "1", "1"),
        ("color", '"1"', "1"),
        ("color", "1.0", "1.0"),
        ("color", "é", "é"),
        ("origin", "NA", None),
        ("grade", "10", 10),
        ("grade", "1e1", 10),
        ("grade", "null", None),
        ("boxed", "TRUE", True),
        ("boxed", "0", False),
        ("boxed", "1.0", True),
        ("boxed", "", None),
        ("pieces", "5.0", 5),
        (DEPTH, "NaN", None),
    ],
)
def test_text_in_csv_is_a_cell(gems_everywhere: FlaskClient, name: str, text: str, cell: Any) -> None:
    """A category that is known is itself, whatever it looks like; else a text for a missing value is one."""
    line = ",".join(text if column == name else f"{GEM[column]}" for column in COLUMNS)
    header = csv_of([GEM]).splitlines()[0]

    assert predicted(post_csv(gems_everywhere, "/predict", f"{header}\n{line}\n")) == predicted(
        gems_everywhere.post("/predict", json={**GEM, name: cell})
    )


WRONG: list[tuple[str, Any, str, Any]] = [
    ("carat", None, "missing", None),
    ("carat", "1.98", "not a number", None),
    ("carat", True, "not a number", None),
    ("carat", float("nan"), "not finite", None),
    (DEPTH, "57.6", "not a number", None),
    (DEPTH, float("inf"), "not finite", None),
    ("pieces", None, "missing", None),
    ("pieces", 5.5, "not a whole number", None),
    ("pieces", 2**53 + 2, "out of range", 2**53 - 1),
    ("pieces", -(2**53) - 2, "out of range", -(2**53) + 1),
    ("pieces", "5", "not a number", None),
    ("certified", None, "missing", None),
    ("certified", 2, "not true or false", None),
    ("certified", "true", "not true or false", None),
    ("boxed", "", "not true or false", None),
    ("cut", None, "missing", None),
    ("cut", "ideal ", "unknown category", "Ideal"),
    ("cut", "Very God", "unknown category", "Very Good"),
    ("cut", "", "unknown category", None),
    ("cut", "#" * 100_000, "unknown category", None),
    ("cut", 1, "not a string", None),
    ("cut", True, "not a string", None),
    ("color", 1, "not a string", None),
    ("grade", "10", "not a number", None),
    ("grade", True, "not a number", None),
]


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize(("name", "cell", "reason", "nearest"), WRONG)
def test_wrong_cell_has_its_reason(
    gems_everywhere: FlaskClient, name: str, cell: Any, reason: str, nearest: Any, row: int
) -> None:
    """A cell that does not fit has its row, feature and reason, and the known category or the limit that is nearest."""
    body = json.dumps([GEM] * row + [{**GEM, name: cell}])
    reply = gems_everywhere.post("/predict", data=body, content_type="application/json")
    detail = {"row": row, "feature": name, "reason": reason} | ({"nearest": nearest} if nearest is not None else {})

    assert (reply.status_code, strict_json(reply)["details"]) == (422, [detail])


@pytest.mark.parametrize("form", [form for form in JSON_FORMS if "native" not in form])
def test_message_names_the_nearest_category(gems_everywhere: FlaskClient, form: str) -> None:
    """Where an error is one message, the nearest category is part of it."""
    path, write = JSON_FORMS[form]
    reply = send(gems_everywhere, path, write([GEM, {**GEM, "cut": "Idael"}]))

    assert reply.status_code == 400
    assert "row 1, column 'cut': unknown category; the nearest is 'Ideal'" in reply.text


def test_record_may_leave_out_what_may_be_missing(gems_everywhere: FlaskClient) -> None:
    """A name that is left out of a record is the same as null; one that may not be missing is reported."""
    short = {name: cell for name, cell in GEM.items() if name not in MAY_BE_MISSING}
    expected = predicted(gems_everywhere.post("/predict", json={**GEM, **dict.fromkeys(MAY_BE_MISSING)}))

    for path, body in (
        ("/predict", short),
        ("/predict", [short]),
        (f"/v1/models/{NAME}:predict", {"instances": [short]}),
        ("/vertex/predict", {"instances": [short]}),
        ("/invocations", {"dataframe_records": [short]}),
    ):
        assert predicted(gems_everywhere.post(path, json=body)) == expected
    del short["carat"]
    details = strict_json(gems_everywhere.post("/predict", json=[GEM, short]))["details"]
    assert details == [{"row": 1, "feature": "carat", "reason": "missing"}]


def test_unknown_name_in_place_of_one_left_out(gems_everywhere: FlaskClient) -> None:
    """A misspelled name of a feature that may be missing is refused: its row has as many names as a whole one."""
    misspelled = {name.replace("color", "colour"): cell for name, cell in GEM.items()}
    details = strict_json(gems_everywhere.post("/predict", json=misspelled))["details"]

    assert details == [{"row": 0, "feature": "colour", "reason": "unknown"}]


@pytest.mark.parametrize(
    "form", ["native table", "native columns", "V1 columns", "V2", "MLflow split", "MLflow inputs"]
)
def test_table_has_every_column(gems_everywhere: FlaskClient, form: str) -> None:
    """A column that is left out of a table is reported once, even if its values may be missing."""
    path, write = JSON_FORMS[form]
    without = [{name: cell for name, cell in GEM.items() if name != "color"}] * 2
    document = json.loads(json.dumps(write(without)))
    for holder in (document, document.get("dataframe_split"), document.get("inputs")):
        if isinstance(holder, dict) and "color" in holder:
            del holder["color"]
        elif isinstance(holder, dict) and "color" in holder.get("columns", []):
            place = holder["columns"].index("color")
            holder["columns"] = [name for name in holder["columns"] if name != "color"]
            holder["data"] = [row[:place] + row[place + 1 :] for row in holder["data"]]
        elif isinstance(holder, list):
            holder[:] = [tensor for tensor in holder if tensor["name"] != "color"]
    reply = gems_everywhere.post(path, json=document)

    assert reply.status_code in (400, 422)
    assert "column 'color': missing" in reply.text
    assert "row" not in strict_json(reply).get("error", "")


def test_column_left_out_of_csv(gems_everywhere: FlaskClient) -> None:
    """A column that is left out of a CSV table is reported."""
    reply = post_csv(gems_everywhere, "/predict", pd.DataFrame([GEM]).drop(columns="color").to_csv(index=False))

    assert strict_json(reply)["details"] == [{"row": None, "feature": "color", "reason": "missing"}]


def test_refused_rows_count_by_bounded_reasons(gems_store: Path) -> None:
    """Refused rows are counted by reason and feature: what a client made up is in no label."""
    client = everywhere_client(gems_store, lambda lines: None)
    for name, cell, _, _ in WRONG:
        client.post("/predict", data=json.dumps({**GEM, name: cell}), content_type="application/json")
    counted = by_label(series(client.get("/metrics").text), "tabserve_rejected_rows_total", "reason", "feature")
    expected: dict[tuple[str, str], int] = {}
    for name, _, reason, _ in WRONG:
        expected[reason, name] = expected.get((reason, name), 0) + 1

    assert {key: count for key, count in counted.items() if count} == expected


def test_v2_metadata(gems_everywhere: FlaskClient) -> None:
    """A tensor of the metadata has the datatype that has every cell; in Triton's configuration BYTES are strings."""
    described = gems_everywhere.get(f"/v2/models/{NAME}").get_json()["inputs"]
    config = gems_everywhere.get(f"/v2/models/{NAME}/config").get_json()["input"]

    assert {tensor["name"]: tensor["datatype"] for tensor in described} == DATATYPES
    assert {tensor["name"]: tensor["data_type"] for tensor in config} == {
        name: f"TYPE_{datatype.replace('BYTES', 'STRING')}" for name, datatype in DATATYPES.items()
    }


def binary(arrays: dict[str, tuple[str, bytes]], n_rows: int) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a binary V2 request."""
    inputs = [
        {"name": name, "shape": [n_rows], "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
        for name, (datatype, data) in arrays.items()
    ]
    header = json.dumps({"inputs": inputs}).encode()
    return header + b"".join(data for _, data in arrays.values()), {"Inference-Header-Content-Length": f"{len(header)}"}


def strings(cells: Sequence[Any]) -> bytes:
    """Return strings as BYTES, an empty one for a missing value."""
    texts = [(cell or "").encode() for cell in cells]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def arrays(records: Records) -> dict[str, tuple[str, bytes]]:
    """Return rows as binary tensors, with NaN for a missing number."""
    found = {}
    for name, cells in columns(records).items():
        datatype = DATATYPES[name]
        dtype = {"FP64": "<f8", "INT64": "<i8", "BOOL": "?"}.get(datatype)
        found[name] = datatype, strings(cells) if dtype is None else np.array(cells, dtype).tobytes()
    return found


def test_v2_binary(gems_everywhere: FlaskClient, gems_pipeline: Any) -> None:
    """Binary tensors of every datatype, with NaN and empty strings for missing values, get the pipeline's bits."""
    body, headers = binary(arrays(ROWS), len(ROWS))
    answer = predicted(gems_everywhere.post(INFER, data=body, headers=headers))

    assert bits(answer).tolist() == bits(gems.predictions(gems_pipeline, list(ROWS))).tolist()


@pytest.mark.parametrize(
    ("name", "datatype", "data"),
    [
        ("pieces", "INT8", np.int8(5).tobytes()),
        ("pieces", "FP32", np.float32(5).tobytes()),
        ("certified", "UINT8", b"\1"),
        ("certified", "FP64", np.float64(1).tobytes()),
        ("boxed", "BOOL", b"\0"),
        ("grade", "FP16", np.float16(0.5).tobytes()),
    ],
)
def test_v2_other_numeric_datatypes(gems_everywhere: FlaskClient, name: str, datatype: str, data: bytes) -> None:
    """Numbers, booleans and categories of numbers may have any numeric datatype that has their values."""
    body, headers = binary(arrays([GEM]) | {name: (datatype, data)}, 1)

    assert predicted(gems_everywhere.post(INFER, data=body, headers=headers)) == predicted(
        gems_everywhere.post("/predict", json=GEM)
    )


@pytest.mark.parametrize(
    ("name", "datatype", "data", "message"),
    [
        ("cut", "FP64", np.float64(1).tobytes(), "column 'cut': the datatype is FP64; send BYTES"),
        ("carat", "BYTES", strings(["1"]), "column 'carat': the datatype is BYTES; send FP64"),
        ("carat", "BOOL", b"\1", "column 'carat': the datatype is BOOL; send FP64"),
        ("grade", "BYTES", strings(["0.5"]), "column 'grade': the datatype is BYTES; send FP64"),
        ("certified", "BOOL", b"\2", "row 0, column 'certified': not true or false"),
        ("certified", "FP64", np.float64(np.nan).tobytes(), "row 0, column 'certified': not true or false"),
        ("grade", "FP32", np.float32(0.1).tobytes(), ""),
        ("cut", "BYTES", strings(["Idael"]), "row 0, column 'cut': unknown category; the nearest is 'Ideal'"),
        ("cut", "BYTES", strings([""]), "row 0, column 'cut': unknown category"),
        ("cut", "BYTES", b"", "column 'cut': its data are not 1 strings"),
        ("cut", "BYTES", b"\5\0\0", "column 'cut': its data are not 1 strings"),
        ("cut", "BYTES", b"\5\0\0\0Ide", "column 'cut': its data are not 1 strings"),
        ("cut", "BYTES", b"\xff\xff\xff\xffIdeal", "column 'cut': its data are not 1 strings"),
        ("cut", "BYTES", strings(["Ideal", "Good"]), "column 'cut': its data are not 1 strings"),
        ("cut", "BYTES", strings(["Ideal"]) + b"\0", "column 'cut': its data are not 1 strings"),
        ("cut", "BYTES", b"\1\0\0\0\xff", "column 'cut': its data are not UTF-8"),
    ],
)
def test_v2_wrong_binary(gems_everywhere: FlaskClient, name: str, datatype: str, data: bytes, message: str) -> None:
    """A tensor of a datatype that its feature cannot have, or of other bytes than it says, is refused by its name."""
    body, headers = binary(arrays([GEM]) | {name: (datatype, data)}, 1)
    reply = gems_everywhere.post(INFER, data=body, headers=headers)

    assert reply.status_code == (400 if message else 200)
    assert message in reply.text


@pytest.mark.parametrize("shape", [[2**60], [2**60, 1], [1, 2**60], [4, 4]])
def test_v2_hostile_shape_of_strings(gems_everywhere: FlaskClient, shape: list[int]) -> None:
    """The shape of a binary tensor of strings is checked before its bytes are read."""
    body, headers = binary(arrays([GEM]), 1)
    length = int(headers["Inference-Header-Content-Length"])
    document = json.loads(body[:length])
    document["inputs"][COLUMNS.index("cut")]["shape"] = shape
    header = json.dumps(document).encode()
    reply = gems_everywhere.post(
        INFER, data=header + body[length:], headers={"Inference-Header-Content-Length": f"{len(header)}"}
    )

    assert reply.status_code == 400
    assert "column 'cut'" in reply.text


def test_v2_too_many_strings(gems_store: Path) -> None:
    """More strings than rows are allowed are 413."""
    client = everywhere_client(gems_store, lambda lines: None, max_rows=3)
    for n_rows, status in ((3, 200), (4, 413)):
        body, headers = binary(arrays([GEM] * n_rows), n_rows)
        assert client.post(INFER, data=body, headers=headers).status_code == status


def test_v2_null_keeps_the_datatype(gems_everywhere: FlaskClient) -> None:
    """Beside a null, numbers of JSON are rounded to their datatype, as they are without one."""
    records = [{**GEM, DEPTH: 60.1}, {**GEM, DEPTH: None}]
    document = tensors(records)
    document["inputs"][COLUMNS.index(DEPTH)]["datatype"] = "FP16"
    rounded = [{**GEM, DEPTH: float(np.float16(60.1))}, records[1]]

    assert predicted(gems_everywhere.post(INFER, json=document)) == predicted(
        gems_everywhere.post("/predict", json=rounded)
    )


def test_v2_matrix_is_of_numbers(gems_everywhere: FlaskClient) -> None:
    """A model with categories of strings has no matrix of all features, and the message says what to send."""
    for shape in ([1, len(COLUMNS)], [2, 3]):
        tensor = {"name": "X", "shape": shape, "datatype": "FP64", "data": [0.0] * (shape[0] * shape[1])}
        reply = gems_everywhere.post(INFER, json={"inputs": [tensor]})

        assert reply.status_code == 400
        assert "send a tensor for each of them" in reply.text
