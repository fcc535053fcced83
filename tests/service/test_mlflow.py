"""Owns the routes of MLflow's scoring server and of SageMaker: forms of JSON, CSV, headers, and their errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from app.factory import Service
from app.version import VERSION
from tests.support.mlflow import ATTRIBUTES, CSV, HEADER, LINE, ROW, headers
from tests.support.service import ANSWER, COLUMNS, HOUSE, bits, everywhere_client, refused, strict_json

JSON = "application/json"
OTHER = {"CHAS": 1, "RM": 5.0, "TAX": 666.0, "PTRATIO": 20.2, "B": 24.65, "LSTAT": 30.81}
BACKWARDS = COLUMNS[::-1]


def invoke(client: FlaskClient, body: Any, content_type: str = JSON, **headers: str) -> TestResponse:
    """Send a document, or a text as it is, to /invocations."""
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return client.post("/invocations", data=data, headers={"Content-Type": content_type, **named})


def answers(reply: TestResponse) -> list[float]:
    """Return the predictions of a reply that contains nothing else."""
    assert (reply.status_code, list(strict_json(reply))) == (200, ["predictions"]), reply.text
    return cast(list[float], strict_json(reply)["predictions"])


def declined(reply: Any, status: int, error_code: str = "BAD_REQUEST") -> str:
    """Return the message of an error in MLflow's format after checking its code."""
    assert strict_json(reply)["error_code"] == error_code
    return refused(reply, status, "MLflow")


SPLIT = {"columns": BACKWARDS, "data": [[row[name] for name in BACKWARDS] for row in (HOUSE, OTHER)]}
FORMS: dict[str, dict[str, Any]] = {
    "dataframe_split": {"dataframe_split": SPLIT},
    "dataframe_split with index": {"dataframe_split": {**SPLIT, "index": [7, 3]}},
    "dataframe_split without columns": {"dataframe_split": {"data": [ROW, list(OTHER.values())]}},
    "dataframe_records": {"dataframe_records": [HOUSE, dict(reversed(OTHER.items()))]},
    "instances, lists": {"instances": [ROW, list(OTHER.values())]},
    "instances, objects": {"instances": [HOUSE, OTHER]},
    "inputs, columns": {"inputs": {name: [HOUSE[name], OTHER[name]] for name in BACKWARDS}},
    "inputs, columns of shape [n, 1]": {"inputs": {name: [[HOUSE[name]], [OTHER[name]]] for name in BACKWARDS}},
    "instances, cells of shape [1]": {"instances": [{**HOUSE, "RM": [6.575]}, {**OTHER, "RM": [5.0]}]},
    "inputs, lists": {"inputs": [ROW, list(OTHER.values())]},
    "params": {"inputs": [ROW, list(OTHER.values())], "params": {"temperature": 1}},
    "params null": {"dataframe_split": SPLIT, "params": None},
}


@pytest.mark.parametrize("form", FORMS)
def test_json_forms(everywhere: FlaskClient, form: str) -> None:
    """Each of MLflow's four forms gets the same bits as /predict; params are ignored."""
    expected = strict_json(everywhere.post("/predict", json=[HOUSE, OTHER]))["prediction"]

    assert answers(invoke(everywhere, FORMS[form])) == expected


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(*[st.floats(-1e37, 1e37)] * 6), min_size=1, max_size=10))
def test_any_rows(everywhere: FlaskClient, pipeline: Any, rows: list[tuple[float, ...]]) -> None:
    """Any float64 rows get the pipeline's bits in JSON and in CSV with and without a header, and back in CSV."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    expected = bits(pipeline.predict(frame.to_numpy())).tolist()
    table = frame.to_csv(index=False)
    split = {"dataframe_split": json.loads(frame.to_json(orient="split", double_precision=15)) | {"data": rows}}
    back = invoke(everywhere, table, CSV, Accept=CSV)

    assert bits(answers(invoke(everywhere, split))).tolist() == expected
    assert bits(answers(invoke(everywhere, {"dataframe_records": frame.to_dict("records")}))).tolist() == expected
    assert bits(answers(invoke(everywhere, table, CSV))).tolist() == expected
    assert bits(answers(invoke(everywhere, frame.to_csv(index=False, header=False), CSV))).tolist() == expected
    assert bits([float(line) for line in back.text.splitlines()]).tolist() == expected


@pytest.mark.parametrize(
    ("text", "header"),
    [
        (f"{HEADER}\n{LINE}\n", ""),
        (f"{HEADER}\n{LINE}\n", "; header=present"),
        (f"{','.join(BACKWARDS)}\n{','.join(str(HOUSE[name]) for name in BACKWARDS)}\n", ""),
        (f"{LINE}\n", ""),
        (LINE, ""),
        (LINE, "; header=absent"),
        (LINE, ";header=absent; charset=utf-8"),
        (f"\ufeff{LINE}\r\n\r\n", ""),
        (" 0 ,6.575,\t296,+15.3,3969e-1, 4.98\r", ""),
        ('"0","6.575","296.0","15.3","396.9","4.98"\n', ""),
    ],
)
def test_csv(everywhere: FlaskClient, text: str, header: str) -> None:
    """CSV is read with or without a header; by default a first line without text is data."""
    assert answers(invoke(everywhere, text, CSV + header)) == [ANSWER]


def test_rows_of_numbers_are_data(everywhere: FlaskClient) -> None:
    """Without a header every row gets a prediction, also the first one."""
    for header in ("", "; header=absent"):
        assert answers(invoke(everywhere, f"{LINE}\n" * 3, CSV + header)) == [ANSWER] * 3


@pytest.mark.parametrize(
    ("text", "header", "status", "named"),
    [
        (f"{HEADER}\n{LINE}\n", "; header=absent", 400, "row 0, column 'CHAS': not a number"),
        (LINE, "; header=present", 400, "no rows"),
        (f"{LINE}\n{LINE}", "; header=present", 400, "column '0': unknown"),
        (f"{HEADER}\n", "", 400, "no rows"),
        (LINE.replace("6.575", "x"), "", 400, "no rows"),
        (LINE.replace("6.575", ""), "; header=absent", 400, "row 0, column 'RM': missing"),
        (f"{LINE}\n{LINE.replace('6.575', '')}", "", 400, "row 1, column 'RM': missing"),
        (LINE.replace("6.575", "inf"), "", 400, "row 0, column 'RM': not finite"),
        (f"{LINE},1", "", 400, "row 0: has 7 cells"),
        (f"{LINE}\n0,6.575", "; header=absent", 400, "row 1: has 2 cells"),
        ("", "", 400, "CSV"),
        ("\n\n", "; header=absent", 400, "CSV"),
        ('"0', "", 400, "CSV"),
        (f"{HEADER},RM\n{LINE},1\n", "", 400, "column 'RM': repeated"),
        (f"{LINE}\n" * 10_001, "", 413, "10000 rows"),
        (f"{LINE}\n" * 10_001, "; header=absent", 413, "10000 rows"),
    ],
)
def test_wrong_csv(everywhere: FlaskClient, text: str, header: str, status: int, named: str) -> None:
    """CSV that does not fit is refused with the problem; a declared header is read as one."""
    assert named in declined(invoke(everywhere, text, CSV + header), status)


def test_bytes_that_are_not_text(everywhere: FlaskClient) -> None:
    """CSV that is not UTF-8 is 400."""
    declined(invoke(everywhere, b"\xff\xfe" + LINE.encode("utf-16-le"), CSV), 400)


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "us-ascii"])
@pytest.mark.parametrize(("kind", "body"), [(JSON, json.dumps({"instances": [ROW]})), (CSV, LINE)])
def test_charset(everywhere: FlaskClient, kind: str, body: str, charset: str) -> None:
    """The names of UTF-8 and of its subset ASCII are case-insensitive."""
    assert answers(invoke(everywhere, body, f"{kind}; charset={charset}")) == [ANSWER]


@pytest.mark.parametrize(
    "content_type",
    [
        *("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
        *("application/vnd.apache.parquet", "application/x-recordio-protobuf", "application/x-avro", "json"),
        *(f"{JSON}; charset=latin-1", f"{CSV}; charset=utf-16", f"{CSV};charset=x"),
    ],
)
def test_unsupported_type(everywhere: FlaskClient, content_type: str) -> None:
    """An unsupported content type or charset is 415."""
    declined(invoke(everywhere, LINE, content_type), 415)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        (JSON, JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (CSV, CSV),
        ("text/*", CSV),
        ("text/csv; q=0.9, application/json; q=0.5", CSV),
        ("text/csv; q=0.5, application/json", JSON),
        ("text/csv, */*; q=0.1", CSV),
        ("application/x-protobuf", JSON),
        (";;=,", JSON),
    ],
)
@pytest.mark.parametrize(("kind", "body"), [(JSON, json.dumps({"instances": [ROW, ROW]})), (CSV, f"{LINE}\n{LINE}")])
def test_accept(everywhere: FlaskClient, kind: str, body: str, accept: str | None, expected: str) -> None:
    """A client that prefers CSV gets one prediction a line, any other one JSON."""
    reply = invoke(everywhere, body, kind, **({} if accept is None else {"Accept": accept}))

    assert reply.status_code == 200
    assert reply.mimetype == expected
    if expected == CSV:
        assert reply.text == f"{ANSWER!r}\n{ANSWER!r}\n"
    else:
        assert answers(reply) == [ANSWER, ANSWER]


NO_LISTS: list[Any] = [None, 1, "x", True]
NO_SPLITS: list[Any] = [
    *(None, 1, "x", [], [ROW], {}, {"columns": COLUMNS}, {"columns": None, "data": [ROW]}, {"data": None}),
    *({"columns": "RM", "data": [ROW]}, {"columns": COLUMNS, "data": HOUSE}, {"columns": {}, "data": [ROW]}),
]
WRONG: dict[str, tuple[Any, str]] = {
    **{f"request {value}": (value, "exactly one of") for value in ([], [HOUSE], None, 1, {}, HOUSE)},
    "old form of pandas": ({"columns": COLUMNS, "data": [ROW]}, "exactly one of"),
    "two forms": ({"instances": [ROW], "inputs": [ROW]}, "exactly one of"),
    "params alone": ({"params": {}}, "exactly one of"),
    **{f"dataframe_split {value}": ({"dataframe_split": value}, "dataframe_split") for value in NO_SPLITS},
    **{f"dataframe_records {value}": ({"dataframe_records": value}, "list") for value in (*NO_LISTS, HOUSE)},
    **{f"instances {value}": ({"instances": value}, "list") for value in (*NO_LISTS, HOUSE)},
    **{f"inputs {value}": ({"inputs": value}, "list") for value in (*NO_LISTS, HOUSE)},
    **{f"no {form}": ({form: []}, "no rows") for form in ("dataframe_records", "instances", "inputs")},
    "no rows": ({"dataframe_split": {"columns": COLUMNS, "data": []}}, "no rows"),
    "column repeated": (
        {"dataframe_split": {"columns": [*COLUMNS, "RM"], "data": [[*ROW, 1]]}},
        "column 'RM': repeated",
    ),
    "column missing": ({"dataframe_split": {"columns": COLUMNS[1:], "data": [ROW[1:]]}}, "column 'CHAS': missing"),
    "column unknown": ({"dataframe_split": {"columns": [*COLUMNS, "ZN"], "data": [[*ROW, 1]]}}, "column 'ZN': unknown"),
    "columns that are no names": ({"dataframe_split": {"columns": [0, 1, 2, 3, 4, 5], "data": [ROW]}}, "names"),
    "short row": ({"dataframe_split": {"columns": COLUMNS, "data": [ROW, ROW[:5]]}}, "row 1: has 5 cells"),
    "row that is none": ({"dataframe_split": {"columns": COLUMNS, "data": [ROW, HOUSE]}}, "row 1: not a list"),
    "record that is none": ({"dataframe_records": [HOUSE, ROW]}, "row 1: not an object"),
    "null": ({"dataframe_records": [{**HOUSE, "RM": None}]}, "row 0, column 'RM': missing"),
    "text": ({"instances": [HOUSE, {**HOUSE, "RM": "6.575"}]}, "row 1, column 'RM': not a number"),
    "true": ({"inputs": {name: [True] for name in COLUMNS}}, "row 0, column 'RM': not a number"),
    "unknown": ({"dataframe_records": [{**HOUSE, "ZN": 1}]}, "row 0, column 'ZN': unknown"),
    "beyond the model": ({"dataframe_records": [{**HOUSE, "RM": 1e300}]}, "row 0, column 'RM': out of range"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_request(everywhere: FlaskClient, case: str) -> None:
    """Every bad request is 400, BAD_REQUEST, with a message that names the problem."""
    document, named = WRONG[case]

    assert named in declined(invoke(everywhere, document), 400)


@pytest.mark.parametrize("path", ["/ping", "/health"])
def test_ping(client: FlaskClient, path: str) -> None:
    """/ping and /health reply with a newline if the server is ready, and 503 while it stops."""
    reply = client.get(path)
    assert (reply.status_code, reply.data, reply.headers["Content-Type"]) == (200, b"\n", JSON)

    cast(Service, client.application).serving.draining = True
    reply = client.get(path)
    assert "stopping" in declined(reply, 503, "TEMPORARILY_UNAVAILABLE")
    assert reply.headers["Retry-After"] == "1"


def test_not_ready(store: Path) -> None:
    """If a configured model is not loaded, /ping has the reason, and /version still answers."""
    client = everywhere_client(store, lambda lines: None, models=("titanic",))

    assert "titanic" in declined(client.get("/ping"), 503, "TEMPORARILY_UNAVAILABLE")
    declined(invoke(client, {"instances": [ROW]}), 503, "TEMPORARILY_UNAVAILABLE")
    assert client.get("/version").status_code == 200


def test_version(everywhere: FlaskClient) -> None:
    """/version replies with the bare version."""
    reply = everywhere.get("/version")

    assert (reply.text, reply.mimetype) == (VERSION, "text/plain")


@pytest.mark.parametrize("max_body_bytes", [1, 10**6, 8 * 2**20, 50 * 10**6, 10**8, 3 * 10**8, 2**40])
def test_execution_parameters(store: Path, max_body_bytes: int) -> None:
    """The parameters stay within the server's limits and SageMaker's, 100 MB in flight at most."""
    client = everywhere_client(store, lambda lines: None, max_body_bytes=max_body_bytes)
    found = strict_json(client.get("/execution-parameters"))

    assert found.keys() == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    assert found["BatchStrategy"] == "SINGLE_RECORD"
    assert found["MaxConcurrentTransforms"] >= 1
    assert found["MaxPayloadInMB"] >= 1
    assert found["MaxPayloadInMB"] * 10**6 <= max(max_body_bytes, 10**6)
    assert found["MaxConcurrentTransforms"] * found["MaxPayloadInMB"] <= 100


@pytest.mark.parametrize(("max_rows", "strategy"), [(87_380, "SINGLE_RECORD"), (87_381, "MULTI_RECORD")])
def test_multi_record_batches_fit(store: Path, max_rows: int, strategy: str) -> None:
    """SageMaker may fill a request with records only if the row limit allows the largest such request."""
    client = everywhere_client(store, lambda lines: None, max_body_bytes=1_200_000, max_rows=max_rows)
    found = strict_json(client.get("/execution-parameters"))
    smallest = "1,1,1,1,1,1\n" * (found["MaxPayloadInMB"] * 2**20 // 12)

    assert found["BatchStrategy"] == strategy
    assert len(smallest) <= 1_200_000
    assert invoke(client, smallest, CSV).status_code == (413 if max_rows < smallest.count("\n") else 200)


@pytest.mark.parametrize("attributes", ["a", "c000b4f9-df62-4c85-a0bf-7c525f9104a4", 'a b; c="d",~!', "x" * 1024])
@pytest.mark.parametrize("accept", [JSON, CSV])
def test_custom_attributes_are_echoed(everywhere: FlaskClient, attributes: str, accept: str) -> None:
    """SageMaker's custom attributes, up to 1,024 visible ASCII characters, are sent back unchanged."""
    reply = invoke(everywhere, LINE, CSV, Accept=accept, **{ATTRIBUTES: attributes})

    assert reply.headers.getlist(ATTRIBUTES) == [attributes]


@pytest.mark.parametrize(
    "attributes", ["", "x" * 1025, "a\tb", "a\x7f", "\x1b[0m", "é", "a\xa0b", "a\r\nX-Evil: 1", "\0"]
)
def test_custom_attributes_that_are_not_echoed(everywhere: FlaskClient, attributes: str) -> None:
    """Longer attributes, and those with other characters, are dropped, and the predictions are still returned."""
    environ = {"HTTP_X_AMZN_SAGEMAKER_CUSTOM_ATTRIBUTES": attributes}
    reply = everywhere.post("/invocations", data=LINE, content_type=CSV, environ_overrides=environ)

    assert answers(reply) == [ANSWER]
    assert ATTRIBUTES not in reply.headers
    assert "X-Evil" not in reply.headers


def test_no_attributes(everywhere: FlaskClient) -> None:
    """A client that sends no attributes gets none."""
    assert ATTRIBUTES not in invoke(everywhere, LINE, CSV).headers


types = st.builds(
    "{}{}{}".format, st.sampled_from([JSON, CSV, ""]), st.sampled_from(["", ";", "; header=", "; charset="]), headers
)


@settings(max_examples=300, deadline=None)
@given(
    body=st.sampled_from([LINE.encode(), json.dumps({"instances": [ROW]}).encode()]) | st.binary(max_size=50),
    content_type=types,
    accept=headers | types,
    coding=st.just("") | headers,
    attributes=headers,
)
def test_no_header_breaks_the_service(
    everywhere: FlaskClient, body: bytes, content_type: str, accept: str, coding: str, attributes: str
) -> None:
    """With any headers a request is answered or refused in MLflow's format, never with a 5xx."""
    environ = {
        "CONTENT_TYPE": content_type,
        "HTTP_ACCEPT": accept,
        "HTTP_CONTENT_ENCODING": coding,
        "HTTP_X_AMZN_SAGEMAKER_CUSTOM_ATTRIBUTES": attributes,
    }
    reply = everywhere.post("/invocations", data=body, environ_overrides=environ)

    if reply.status_code != 200:
        refused(reply, reply.status_code, "MLflow")
        assert reply.status_code in (400, 415)
