"""Owns error replies: the status of each kind of bad request, and the one format of all of them."""

from __future__ import annotations

import io
import json
import logging
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from app import create_app
from app.config import Config
from app.factory import Service
from app.telemetry.log_lines import JSONFormatter
from model import Matrix
from tests.support.errors import CSV, HEADER, JSON, LINE, ROW, UNREADABLE, refusal
from tests.support.service import COLUMNS, HOUSE, refused, strict_json

COLUMN_FORM = {name: {"0": value} for name, value in HOUSE.items()}
WITHOUT_RM = {name: value for name, value in HOUSE.items() if name != "RM"}


def problems(client: FlaskClient, body: Any, content_type: str = JSON) -> list[tuple[int | None, str | None, str]]:
    """Return the (row, feature, reason) of every detail of the 422 that `body` gets."""
    data = body if isinstance(body, str) else json.dumps(body)
    reply = client.post("/predict", data=data, content_type=content_type)
    return [(detail["row"], detail["feature"], detail["reason"]) for detail in refusal(reply, 422)]


@pytest.mark.parametrize(("content_type", "body"), UNREADABLE, ids=[f"{c} {b[:20]!r}" for c, b in UNREADABLE])
def test_body_that_cannot_be_read(client: FlaskClient, content_type: str, body: bytes) -> None:
    """A body that does not match its content type is 400."""
    assert refusal(client.post("/predict", data=body, content_type=content_type), 400) == []


@pytest.mark.parametrize("path", ["/nothing", "/models//predict", "/models/titanic", "/%00"])
def test_unknown_path(client: FlaskClient, path: str) -> None:
    """An unknown path is 404, never a redirect."""
    assert refusal(client.get(path), 404) == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", {"OPTIONS", "POST"}),
        ("PUT", "/predict", {"OPTIONS", "POST"}),
        ("DELETE", "/models/boston-housing/predict", {"OPTIONS", "POST"}),
        ("POST", "/livez", {"GET", "HEAD", "OPTIONS"}),
        ("BREW", "/", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_method_that_is_not_allowed(client: FlaskClient, method: str, path: str, allowed: set[str]) -> None:
    """A method that the path does not have is 405, and Allow lists its methods."""
    reply = client.open(path, method=method)

    assert refusal(reply, 405) == []
    assert set(reply.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "text/plain"},
        {"Content-Type": JSON, "Content-Encoding": "gzip, gzip"},
        {"Content-Type": CSV, "Content-Encoding": "br"},
    ],
    ids=str,
)
def test_unsupported_type_or_encoding(client: FlaskClient, headers: dict[str, str]) -> None:
    """A missing content type, one of no format that is read, or an unknown content encoding is 415."""
    assert refusal(client.post("/predict", data=json.dumps(HOUSE), headers=headers), 415) == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, json.dumps([HOUSE] * 4)),
        (JSON, json.dumps({"columns": COLUMNS, "data": [ROW] * 4})),
        (JSON, json.dumps({name: dict.fromkeys("abcd", value) for name, value in HOUSE.items()})),
        (CSV, f"{HEADER}\n" + f"{LINE}\n" * 4),
    ],
    ids=["records", "table", "columns", "csv"],
)
def test_too_many_rows(store: Path, content_type: str, body: str) -> None:
    """A request with too many rows is 413 in every form."""
    client = create_app(Config(store=store, max_rows=3)).test_client()

    assert refusal(client.post("/predict", data=body, content_type=content_type), 413) == []


@pytest.mark.parametrize("content_type", [JSON, CSV])
def test_too_many_bytes(store: Path, content_type: str) -> None:
    """A body that is too long is 413, whatever it contains."""
    client = create_app(Config(store=store, max_body_bytes=100)).test_client()

    assert refusal(client.post("/predict", data=b" " * 101, content_type=content_type), 413) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (WITHOUT_RM, [(0, "RM", "missing")]),
        ([HOUSE, {**HOUSE, "RM": None}], [(1, "RM", "missing")]),
        ({**HOUSE, "ZN": 18.0}, [(0, "ZN", "unknown")]),
        ({**HOUSE, "RM": "6.575"}, [(0, "RM", "not a number")]),
        ({**HOUSE, "RM": True}, [(0, "RM", "not a number")]),
        ({**HOUSE, "RM": [6.575]}, [(0, "RM", "not a number")]),
        ([{**HOUSE, "RM": {"0": 6.575}}], [(0, "RM", "not a number")]),
        ({**HOUSE, "RM": 1e300}, [(0, "RM", "out of range")]),
        ({**HOUSE, "RM": -(10**300)}, [(0, "RM", "out of range")]),
        ([], [(None, None, "the request has no rows")]),
        ({"columns": COLUMNS, "data": []}, [(None, None, "the request has no rows")]),
        ({name: {} for name in HOUSE}, [(None, None, "the request has no rows")]),
        ({}, [(0, name, "missing") for name in HOUSE]),
        ([HOUSE, 1, HOUSE, None], [(1, None, "not an object"), (3, None, "not an object")]),
        ({**COLUMN_FORM, "RM": 6.575}, [(None, "RM", "not an object")]),
        ({name: COLUMN_FORM[name] for name in WITHOUT_RM}, [(None, "RM", "missing")]),
        ({**COLUMN_FORM, "ZN": {"0": 18.0}}, [(None, "ZN", "unknown")]),
        ({**COLUMN_FORM, "RM": {}}, [(0, "RM", "missing")]),
        ({**COLUMN_FORM, "RM": {"1": 6.5}}, [(0, "RM", "missing"), *[(1, name, "missing") for name in WITHOUT_RM]]),
        ({"columns": COLUMNS, "data": [ROW, ROW[:-1]]}, [(1, None, "has 5 cells where there are 6 columns")]),
        ({"columns": COLUMNS, "data": [[*ROW, 1.0]]}, [(0, None, "has 7 cells where there are 6 columns")]),
        ({"columns": COLUMNS, "data": [ROW, 1]}, [(1, None, "not a list")]),
        ({"columns": ["RM", *COLUMNS], "data": [[6.5, *ROW]]}, [(None, "RM", "repeated")]),
        ({"columns": [*COLUMNS, 7], "data": [[*ROW, 7]]}, [(None, None, "the column names are not all strings")]),
        ({"columns": COLUMNS, "data": [ROW], "more": 1}, [(None, "more", "unknown")]),
        ({**HOUSE, "RM": float("nan"), "B": float("-inf")}, [(0, "RM", "not finite"), (0, "B", "not finite")]),
        (f"{HEADER}\n", [(None, None, "the request has no rows")]),
        (f"{HEADER}\n{LINE}\n0,a,NaN,,inf,1e300\n", None),
        (f"{HEADER}\n{LINE},9\n", [(0, None, "has 7 cells where there are 6 columns")]),
        (f"{HEADER}\n0,6.575\n", [(0, None, "has 2 cells where there are 6 columns")]),
        (f"RM,{HEADER}\n6.5,{LINE}\n", [(None, "RM", "repeated")]),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_rows_that_do_not_fit(client: FlaskClient, body: Any, expected: list[tuple[Any, ...]] | None) -> None:
    """Rows that do not fit the schema are 422 with exactly the row, feature and reason of each problem."""
    if expected is None:
        expected = [(1, "RM", "not a number"), (1, "TAX", "missing"), (1, "PTRATIO", "missing")]
        expected += [(1, "B", "not finite"), (1, "LSTAT", "out of range")]

    assert sorted(problems(client, body, CSV if isinstance(body, str) else JSON), key=str) == sorted(expected, key=str)


def test_all_problems_at_once(client: FlaskClient) -> None:
    """Every problem of every row of a request is reported in one reply."""
    rows = [HOUSE, {**WITHOUT_RM, "ZN": 1, "TAX": "high"}, {**HOUSE, "B": None, "LSTAT": 1e300}]

    assert set(problems(client, rows)) == {
        (1, "RM", "missing"),
        (1, "ZN", "unknown"),
        (1, "TAX", "not a number"),
        (2, "B", "missing"),
        (2, "LSTAT", "out of range"),
    }


def posted(client: FlaskClient, body: str, content_type: str) -> tuple[TestResponse, int]:
    """Return the reply to a body, and the peak of allocated bytes while it was made."""
    tracemalloc.start()
    try:
        return client.post("/predict", data=body, content_type=content_type), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (CSV, ",".join(f"c{i}" for i in range(200_000)) + "\n1"),
        (CSV, "," * 40_000 + "\n1" * 100),
        (JSON, json.dumps({"columns": [str(i) for i in range(200_000)], "data": [[1]]})),
        (JSON, json.dumps({"A": dict.fromkeys(range(2_000), 1), **{f"c{i}": {} for i in range(20_000)}})),
        (JSON, json.dumps({"columns": ["RM", "x" * 100_000], "data": [[1]] * 1_000})),
    ],
    ids=["names of CSV", "cells that CSV lacks", "names of a table", "cells that columns lack", "one long name"],
)
def test_refusing_costs_no_more_than_the_body(client: FlaskClient, content_type: str, body: str) -> None:
    """The cost of refusing a bad body grows with its length, not with rows times columns or names times names."""
    started = time.process_time()
    reply, peak = posted(client, body, content_type)
    seconds = time.process_time() - started

    refusal(reply, 422)
    assert peak < 40 * len(body) + 20e6  # bytes
    assert seconds < 30  # about 1 s, where names times names takes minutes
    assert len(reply.data) < 2 * len(body) + 200_000


@pytest.mark.parametrize(
    "body",
    [HEADER + "\n1" * 500_000, HEADER + "\r1" * 500_000, "RM" + "\n1" * 500_000, "[" + "1," * 500_000 + "1]"],
    ids=["csv", "csv of an old Mac", "csv of one column", "records"],
)
def test_too_many_rows_cost_little(client: FlaskClient, body: str) -> None:
    """Too many rows are refused before they are read one by one, whatever they contain."""
    reply, peak = posted(client, body, JSON if body.startswith("[") else CSV)

    refusal(reply, 413)
    assert peak < 20e6  # bytes; 500,000 lists of cells take more than 28 million


def test_no_model(tmp_path: Path) -> None:
    """Without a model a prediction request is 503 with Retry-After."""
    reply = create_app(Config(store=tmp_path)).test_client().post("/predict", json=HOUSE)

    assert refusal(reply, 503) == []
    assert reply.headers["Retry-After"] == "1"


def test_overloaded_worker(client: FlaskClient) -> None:
    """A worker with too many requests in flight answers predictions with 503, and health checks as usual."""
    service = cast(Service, client.application)
    service.server.in_flight = lambda: 513

    reply = client.post("/predict", json=HOUSE)
    assert refusal(reply, 503) == []
    assert reply.headers["Retry-After"] == "1"
    assert client.get("/livez").status_code == 200
    service.server.in_flight = lambda: 512
    assert client.post("/predict", json=HOUSE).status_code == 200


def test_failure_reveals_nothing_internal(client: FlaskClient, log_lines: list[dict[str, Any]]) -> None:
    """A 500 reveals no internals; the log has the exception's class under the request's id, without its message."""

    class Broken:
        def predict(self, X: Matrix) -> Matrix:
            raise ZeroDivisionError(f"secret {X.tolist()}")

    service = cast(Service, client.application)
    model = service.serving.loaded.models["boston-housing"]
    service.swap(service.serving.loaded.with_model(replace(model, engine=cast(Any, Broken()))))
    written = io.StringIO()
    log = logging.StreamHandler(written)
    log.setFormatter(JSONFormatter())
    logging.getLogger("tabserve").addHandler(log)
    try:
        reply = client.post("/predict", json=HOUSE, headers={"X-Request-Id": "who"})
    finally:
        logging.getLogger("tabserve").removeHandler(log)

    line = json.loads(written.getvalue())
    assert refusal(reply, 500) == []
    assert (line["request_id"], line["exception"]) == ("who", "ZeroDivisionError")
    assert [entry["status"] for entry in log_lines] == [500]
    for text in (reply.text, written.getvalue(), str(log_lines)):
        assert "secret" not in text
        assert "6.575" not in text
    assert "ZeroDivisionError" not in reply.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([*COLUMNS, HOUSE]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["columns", "data", "index", "", *COLUMNS]) | st.text(), inner, max_size=8)
    ),
    max_leaves=30,
)
bodies = json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, content_type=st.sampled_from([JSON, CSV]))
def test_no_body_breaks_the_service(client: FlaskClient, body: bytes, content_type: str) -> None:
    """Any body is answered or refused in the one format, never with a 5xx."""
    reply = client.post("/predict", data=body, content_type=content_type)

    if reply.status_code != 200:
        refusal(reply, reply.status_code)
        assert reply.status_code in (400, 422)


MANY = [f"c{i}" for i in range(27)]


@pytest.mark.parametrize(
    "body",
    [
        ",".join(MANY) + "\n" + ",".join("1" * 27) + "\n",
        {"columns": MANY, "data": [[1] * 27]},
        {name: {"0": 1} for name in MANY},
    ],
    ids=["CSV", "table", "columns"],
)
def test_far_too_many_columns(client: FlaskClient, body: Any) -> None:
    """A table much wider than the model is refused for its width: a small body can have a million columns."""
    content_type = CSV if isinstance(body, str) else JSON

    assert problems(client, body, content_type) == [(None, None, "has 27 columns where there are 6")]


def test_far_too_many_inputs(client: FlaskClient) -> None:
    """So are the columns of TensorFlow's format, before a cell of them is read."""
    reply = client.post("/v1/models/boston-housing:predict", json={"inputs": dict.fromkeys(MANY, "no list")})

    assert "has 27 columns where there are 6" in refused(reply, 400, "V1")


def test_far_too_many_names_in_a_record(client: FlaskClient) -> None:
    """Of a record's unknown names, the error lists the first and the number of the others."""
    told = problems(client, [{**HOUSE, **dict.fromkeys(MANY, 1)}, HOUSE])

    assert told == [*((0, name, "unknown") for name in MANY[:20]), (0, None, "has 7 more unknown names")]


def test_numbers_beyond_float64(client: FlaskClient) -> None:
    """A number beyond float64 is a problem of its cell, and is reported with all other problems."""
    body = json.dumps({**HOUSE, "TAX": None}).replace("6.575", "1e400").replace("15.3", "9" * 5000)

    assert sorted(problems(client, body, JSON)) == [
        (0, "PTRATIO", "not finite"),
        (0, "RM", "not finite"),
        (0, "TAX", "missing"),
    ]


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (JSON, b"[NaN," + b"0," * 2_000_000 + b"0]", 413),
        (JSON, b"[1e999," + b"0," * 2_000_000 + b"0]", 413),
        (JSON, b'{"RM":{' + b",".join(b'"%d":1' % i for i in range(300_000)) + b"}}", 413),
        (CSV, b"\n" * 4_000_000, 422),
        (CSV, HEADER.encode() + b"\r" * 4_000_000, 422),
        (CSV, b"," * 4_000_000, 422),
        (CSV, HEADER.encode() + b"\n" + b"," * 4_000_000, 422),
    ],
    ids=["NaN", "1e999", "keys", "newlines", "carriage returns", "wide header", "wide row"],
)
def test_too_large_tables_are_refused_early(client: FlaskClient, content_type: str, body: bytes, status: int) -> None:
    """More numbers, names, cells or lines than the largest table of the model has are refused before they are made."""
    tracemalloc.start()
    try:
        reply = client.post("/predict", data=body, content_type=content_type)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    refusal(reply, status)
    assert peak < 4 * len(body) + 20e6  # a text of 4 bytes a character; each number or cell would take 28 or more
    assert len(reply.data) < 1_000


def test_number_of_problems_is_bounded(client: FlaskClient) -> None:
    """Of very many wrong cells ten thousand are found, and the reply tells that there are more."""
    reply = client.post("/predict", json=[dict.fromkeys(HOUSE)] * 9_000)

    assert len(refusal(reply, 422)) == 1_000
    assert strict_json(reply)["error"].startswith("more than 10000 problems, the first: row 0, column ")


def test_long_name_is_shortened(client: FlaskClient) -> None:
    """A long made-up name is shortened in the error."""
    for body in ({**HOUSE, "x" * 1_000_000: 1}, {"x" * 1_000_000: {"0": 1}}):
        assert len(client.post("/predict", json=body).data) < 2_000


def test_request_of_another_content_type_is_no_inference(client: FlaskClient, log_lines: list[dict[str, Any]]) -> None:
    """A request that is refused by its content type counts as no failed inference of a model; a bad body does."""
    assert client.post("/predict", data=b"x", content_type="text/plain").status_code == 415
    assert "model" not in log_lines[0]
    assert 'outcome="failure"' not in client.get("/metrics").text
    assert client.post("/predict", data=b"x", content_type="application/json").status_code == 400

    assert "tabserve_inference_duration_seconds_count{" in client.get("/metrics").text
    assert 'outcome="failure"' in client.get("/metrics").text
