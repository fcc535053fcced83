"""Owns tables in Arrow, NumPy's format, JSON lines and long CSV: their answers, refusals and bounds."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from app.errors import BodyError
from app.protocols import long_csv, tables
from model import Matrix, ModelError, Schema
from model.store import artifact
from tests.support import classifiers, gems, sales
from tests.support.arrow import ARROW, read, stream
from tests.support.metrics import by_label, series
from tests.support.service import ANSWER, COLUMNS, HOUSE, bits, everywhere_client, refused, strict_json

JSON, NPY, LINES = "application/json", "application/x-npy", "application/jsonlines"
ROWS = [HOUSE, {**HOUSE, "RM": 5.0, "LSTAT": 30.81}]
TABLE = pa.table({name: [float(row[name]) for row in ROWS] for name in COLUMNS})
PATHS = {"native": "/predict", "MLflow": "/invocations"}


@pytest.fixture(scope="module")
def classes(classifiers_store: Path) -> FlaskClient:
    """A client of a service of all classifiers. Tests must not change it."""
    return everywhere_client(classifiers_store, lambda lines: None)


def send(client: FlaskClient, body: Any, kind: str = ARROW, path: str = "/predict", **more: str) -> TestResponse:
    """Send a body of a type, or a table as a stream."""
    data = stream(body) if isinstance(body, pa.Table) else body
    return client.post(path, data=data, headers={"Content-Type": kind, **more})


def npy(array: Any) -> bytes:
    """Return an array in numpy's format."""
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


def answers(reply: TestResponse) -> list[float]:
    """Return the predictions of a reply in JSON."""
    assert reply.status_code == 200, reply.text
    found: list[float] = strict_json(reply).get("prediction") or strict_json(reply)["predictions"]
    return found


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("rows", [None, 1])
def test_arrow_is_answered_in_kind(everywhere: FlaskClient, path: str, compression: Any, rows: int | None) -> None:
    """A stream, compressed or not, in one batch or more, is answered by one with the bits of JSON and who answered."""
    expected = answers(send(everywhere, json.dumps(ROWS), JSON))
    reply = send(everywhere, stream(TABLE, compression=compression, rows=rows), path=path, **{"X-Request-Id": "here"})

    assert (reply.status_code, reply.content_type) == (200, ARROW)
    found = read(reply.data)
    assert found.column_names == ["prediction"]
    assert bits(found["prediction"].to_pylist()).tolist() == bits(expected).tolist()
    assert found.schema.metadata == {b"model": b"boston-housing", b"version": b"1", b"request_id": b"here"}
    assert (reply.headers["X-Request-Id"], reply.headers["X-Model-Version"]) == ("here", "1")


@pytest.mark.parametrize(
    ("kind", "accept", "expected"),
    [
        (ARROW, JSON, JSON),
        (ARROW, "*/*", ARROW),
        (ARROW, "text/html", ARROW),
        (ARROW, f"{JSON}; charset=utf-8", JSON),
        (ARROW, f"{ARROW};q=0.5, {JSON}", JSON),
        (JSON, "*/*", JSON),
        (JSON, ARROW, ARROW),
        (JSON, NPY, NPY),
        (JSON, "application/*", JSON),
    ],
)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_client_chooses_the_format(everywhere: FlaskClient, path: str, kind: str, accept: str, expected: str) -> None:
    """The Accept header chooses the format; without a word a stream gets a stream, and JSON gets JSON."""
    body = stream(TABLE) if kind == ARROW else json.dumps(ROWS if path == "/predict" else {"instances": ROWS})

    assert send(everywhere, body, kind, path, Accept=accept).content_type == expected


def test_intervals_are_columns(everywhere: FlaskClient) -> None:
    """Prediction intervals are columns of the reply, and their level is in its metadata."""
    expected = strict_json(send(everywhere, json.dumps(ROWS), JSON, "/predict?interval=0.9"))
    found = read(send(everywhere, TABLE, path="/predict?interval=0.9").data)

    assert found.to_pydict() == {name: expected[name] for name in ("prediction", "lower", "upper")}
    assert found.schema.metadata[b"interval"] == b"0.9"


@pytest.mark.parametrize("name", classifiers.LABELS)
def test_labels_and_probabilities_are_columns(classes: FlaskClient, name: str) -> None:
    """A classifier's label has its type, and the probability of each class is a column where JSON has it."""
    records = classifiers.rows(classifiers.table(20, seed=3).fillna(57.0))
    table = pa.Table.from_pylist(records)
    for query in ("", "?probabilities=true", "?probabilities=false"):
        path = f"/models/{name}/predict{query}"
        expected = strict_json(send(classes, json.dumps(records), JSON, path))
        found = read(send(classes, table, path=path).data)

        assert found["prediction"].to_pylist() == expected["prediction"]
        probabilities = [
            {column.removeprefix("probability_"): share for column, share in row.items() if column != "prediction"}
            for row in found.to_pylist()
        ]
        assert probabilities == expected.get("probability", [{}] * len(records))


def test_numpys_format_has_no_intervals(everywhere: FlaskClient) -> None:
    """Intervals that a reply in numpy's format could not have are refused, and not left out without a word."""
    reply = send(everywhere, json.dumps(ROWS), JSON, "/predict?interval=0.9", Accept=NPY)

    assert reply.status_code == 400
    assert "no place for intervals or explanations; accept JSON or Arrow" in strict_json(reply)["error"]


def test_labels_in_numpys_format(classes: FlaskClient) -> None:
    """Labels in numpy's format need no pickle, and probabilities on request are a matrix."""
    records = classifiers.rows(classifiers.table(20, seed=3).fillna(57.0))
    for name in classifiers.LABELS:
        path = f"/models/{name}/predict"
        expected = strict_json(send(classes, json.dumps(records), JSON, f"{path}?probabilities=true"))
        labels = np.load(io.BytesIO(send(classes, json.dumps(records), JSON, path, Accept=NPY).data))
        shares = send(classes, json.dumps(records), JSON, f"{path}?probabilities=true", Accept=NPY).data

        assert labels.tolist() == expected["prediction"]
        assert np.load(io.BytesIO(shares)).tolist() == [list(row.values()) for row in expected["probability"]]


def test_every_type_of_feature(gems_everywhere: FlaskClient) -> None:
    """Dictionary columns are categories, the validity bitmap is missing, and the answers are those of JSON."""
    records = gems.rows(gems.table(50, seed=4))
    table = pa.Table.from_pylist(records)
    texts = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)]
    encoded = table
    for name in texts:
        encoded = encoded.set_column(encoded.column_names.index(name), name, table[name].dictionary_encode())
    expected = answers(send(gems_everywhere, json.dumps(records), JSON))

    for same in (table, encoded):
        assert (
            bits(read(send(gems_everywhere, same).data)["prediction"].to_pylist()).tolist() == bits(expected).tolist()
        )


BAD: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "null": (TABLE.set_column(1, "RM", pa.array([None, 1.0])), [{"row": 0, "feature": "RM", "reason": "missing"}]),
    "text": (TABLE.set_column(1, "RM", pa.array(["1", "2"])), [{"row": 0, "feature": "RM", "reason": "not a number"}]),
    "unknown": (TABLE.append_column("x", pa.array([1, 2])), [{"row": None, "feature": "x", "reason": "unknown"}]),
    "missing": (TABLE.drop_columns("RM"), [{"row": None, "feature": "RM", "reason": "missing"}]),
    "no feature": (pa.table({"x": [1]}), [{"row": None, "feature": "CHAS", "reason": "missing"}]),
    "no rows": (TABLE[:0], [{"row": None, "feature": None, "reason": "the request has no rows"}]),
    "repeated": (
        pa.Table.from_arrays([*TABLE.columns, TABLE["RM"]], names=[*COLUMNS, "RM"]),
        [{"row": None, "feature": "RM", "reason": "repeated"}],
    ),
    "nested": (
        TABLE.set_column(1, "RM", pa.array([[1.0], [2.0]])),
        [
            {
                "row": None,
                "feature": "RM",
                "reason": "has the type list<item: double>; send numbers, booleans, strings or dates, "
                "or a dictionary of them",
            }
        ],
    ),
}


@pytest.mark.parametrize(("table", "details"), BAD.values(), ids=BAD)
def test_refused_tables_have_their_reasons(client: FlaskClient, table: Any, details: list[dict[str, Any]]) -> None:
    """What does not fit is refused as in JSON, with row, feature and reason."""
    reply = send(client, table)

    refused(reply, 422, "native")
    assert strict_json(reply)["details"][: len(details)] == details


def test_rejected_rows_are_counted(client: FlaskClient) -> None:
    """Rows that are refused in a stream count in the metrics, as those of JSON do."""
    send(client, TABLE.set_column(1, "RM", pa.array([None, None], pa.float64())))
    found = by_label(series(client.get("/metrics").text), "tabserve_rejected_rows_total", "reason", "feature")

    assert found["missing", "RM"] == 2


def wide(text: str) -> pa.Table:
    """Return a good table of 10,000 rows with a column more, which compresses to next to nothing."""
    rows = pa.table({name: np.full(10_000, HOUSE[name], float) for name in COLUMNS})
    return rows.append_column("x", pa.array([text] * 10_000))


def overlapping(length: int) -> pa.Array:
    """Return two strings that are the same bytes."""
    views = np.array([[length, 0, 0, 0]] * 2, dtype=np.int32)
    views[:, 1] = np.frombuffer(b"aaaa", np.int32)
    return pa.Array.from_buffers(pa.string_view(), 2, [None, pa.py_buffer(views), pa.py_buffer(b"a" * length)])


HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "Arrow"),
    "a letter": (b"x", 400, "Arrow"),
    "a file": (b"ARROW1\0\0" + stream(TABLE), 400, "Arrow"),
    "cut off": (stream(TABLE)[:-40], 400, "Arrow"),
    "two streams": (stream(TABLE) * 2, 400, "goes on behind its end"),
    "no batch": (stream(TABLE[:0]), 422, "no rows"),
    "more rows": (stream(pa.concat_tables([TABLE] * 5_001).combine_chunks()), 413, "more than 10000 rows"),
    "a bomb": (stream(wide("a" * 2_000), compression="zstd"), 413, "decompressed"),
    "many batches": (stream(pa.concat_tables([TABLE] * 1_100), rows=1), 400, "1000 batches"),
    "a large dictionary": (
        stream(
            TABLE.set_column(1, "RM", pa.chunked_array([pa.DictionaryArray.from_arrays([0, 1], np.arange(400_000.0))])),
            compression="zstd",
        ),
        413,
        "dictionaries",
    ),
    "overlapping views": (
        stream(
            TABLE.set_column(1, "RM", overlapping(5_000_000)),
        ),
        413,
        "strings of more than",
    ),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(("body", "status", "words"), HOSTILE.values(), ids=HOSTILE)
def test_streams_are_bounded(everywhere: FlaskClient, path: str, body: bytes, status: int, words: str) -> None:
    """What is no stream, or is beyond a bound, is refused with words before it is decompressed."""
    reply = send(everywhere, body, path=path)
    protocol = "native" if path == "/predict" else "MLflow"
    message = refused(reply, 400 if status == 422 and protocol == "MLflow" else status, protocol)

    assert words in message


@pytest.mark.parametrize("kind", [LINES, "application/x-ndjson", "application/jsonl"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_json_lines(everywhere: FlaskClient, path: str, kind: str) -> None:
    """A JSON object or a list in the schema's order a line is answered as the same rows in JSON are."""
    expected = answers(send(everywhere, json.dumps(ROWS), JSON))
    records = "".join(f"{json.dumps(row)}\n" for row in ROWS)
    lists = "\r\n\n".join(json.dumps(list(row.values())) for row in ROWS)

    for body in (records, lists):
        assert answers(send(everywhere, body, kind, path)) == expected


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("", 422, "no rows"),
        ("\n \n", 422, "no rows"),
        ("{}\n" * 10_001, 413, "more than 10000 rows"),
        (f"{json.dumps(HOUSE)}\n{{", 400, "line 2 is not one JSON value"),
        (f"{json.dumps(HOUSE)},{json.dumps(HOUSE)}", 400, "line 1 is not one JSON value"),
        (f"{json.dumps(HOUSE)}\n1", 422, "not an object"),
        (f"[{'1,' * 300_000}1]", 413, "values"),
    ],
)
def test_bad_json_lines(client: FlaskClient, body: str, status: int, words: str) -> None:
    """Lines that are not one value each are refused with the number of the line, and the body is bounded."""
    assert words in refused(send(client, body, LINES), status, "native")


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<i8", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpys_format(everywhere: FlaskClient, dtype: str, order: Any) -> None:
    """An array of numbers of any type and order is answered as its rows in JSON are, in kind where that is accepted."""
    X = np.array([[int(cell) % 200 for cell in row.values()] for row in ROWS])
    expected = answers(send(everywhere, json.dumps({"columns": COLUMNS, "data": X.tolist()}), JSON))
    body = npy(np.asarray(X, dtype=dtype, order=order))

    for path in PATHS.values():
        assert answers(send(everywhere, body, NPY, path)) == expected
        reply = send(everywhere, body, NPY, path, Accept=NPY)
        assert (reply.content_type, np.load(io.BytesIO(reply.data)).tolist()) == (NPY, expected)
    assert answers(send(everywhere, npy(np.array(list(HOUSE.values()))), NPY)) == [ANSWER]


def header(shape: str = "(1, 6)", descr: str = "'<f8'") -> bytes:
    """Return the beginning of a file of numpy's with this text in its header."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "NPY format"),
        (b"\x93NUMPY\x03\x00\x00\x00\x00\x00", 400, "version"),
        (header("(" * 400), 400, "NPY format"),
        (header("(10**9, 6)"), 400, "NPY format"),
        (header("(1000000000, 6)"), 413, "more than 10000 rows"),
        (header("(1, 6)"), 400, "bytes"),
        (header("(-1, -6)") + bytes(48), 400, "shape"),
        (header("(6, 1)") + bytes(48), 422, "has 1 columns"),
        (header("(1, 2, 3)") + bytes(48), 400, "shape"),
        (header("()") + bytes(8), 400, "shape"),
        (header("(True, 6)") + bytes(48), 400, "shape"),
        (header("(0, 6)"), 422, "no rows"),
        (npy(np.array([{}] * 6, dtype=object)), 400, "integers or floats"),
        (npy(np.array(["a"] * 6)), 400, "integers or floats"),
        (npy(np.array([1j] * 6)), 400, "integers or floats"),
        (npy(np.array([[np.nan] * 6])), 422, "not finite"),
        (header(descr="[('a', '<f8')]") + bytes(48), 400, "integers or floats"),
    ],
)
def test_bad_arrays(client: FlaskClient, body: bytes, status: int, words: str) -> None:
    """What is no array of rows of numbers is refused with the reason, and no pickle is opened."""
    assert words in refused(send(client, body, NPY), status, "native")


@pytest.fixture(scope="module")
def schemas(store: Path, gems_store: Path, sales_store: Path) -> list[Schema]:
    """The schemas of models with features of every type."""
    names = ((store, "boston-housing"), (gems_store, gems.NAME), (sales_store, sales.NAME))
    return [artifact.load(root / name / "1").schema for root, name in names]


cells = st.sampled_from(
    [
        "1",
        "2.5",
        "",
        " 3 ",
        "-0",
        "1e999",
        "NA",
        "x",
        "Ideal",
        "true",
        "2020-01-01",
        "nan",
        '"1"',
        "é",
        "1_0",
        "\t",
        "+5",
    ]
)


@settings(max_examples=300)
@given(data=st.data())
def test_long_csv_is_read_by_the_same_rules(schemas: list[Schema], data: st.DataObject) -> None:
    """What the fast way reads of CSV is what the rules of the service read, to the last bit, or it reads nothing."""
    schema = data.draw(st.sampled_from(schemas))
    names = data.draw(
        st.permutations([*schema.names, *data.draw(st.sampled_from([[], [], [], ["", schema.target.name]]))])
    )
    good = [str(kind.cell(0.0)) if kind.n_places else "2020-01-01" for kind in schema.cells]
    by_name = dict(zip(schema.names, good))
    row = st.one_of(
        st.just([by_name.get(name, "7") for name in names]), st.lists(cells, min_size=len(names), max_size=len(names))
    )
    rows = data.draw(st.lists(row, max_size=4))
    header = data.draw(st.sampled_from([True, True, None, False]))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\n\n", "\r"]))
    start = data.draw(st.sampled_from(["", "\ufeff", "\n"]))
    text = start + end.join(map(",".join, [names, *rows])) + data.draw(st.sampled_from(["", "\n", "\n1,2"]))
    expected: Matrix | None = None
    with suppress(ModelError, BodyError):
        expected = tables.from_csv(text.encode(), schema, max_rows=3, header=header)
    found = long_csv.matrix(text.encode(), schema, max_rows=3, header=header)

    if found is not None:
        assert expected is not None
        assert found.shape == expected.shape
        assert (bits(found) == bits(expected))[~np.isnan(expected)].all()
        assert np.isnan(found).tolist() == np.isnan(expected).tolist()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_long_csv_is_answered_as_json_is(everywhere: FlaskClient, houses: pd.DataFrame, path: str, end: str) -> None:
    """A long table of CSV, with pandas' index and a header or not, is read the fast way, with the bits of JSON."""
    many = pd.concat([houses] * 16, ignore_index=True)
    expected = answers(send(everywhere, json.dumps(many.to_dict("records")), JSON))
    written = [many.to_csv(lineterminator=end), many[COLUMNS[::-1]].to_csv(index=False, lineterminator=end)]

    for body in written:
        assert len(body) > 200_000
        assert bits(answers(send(everywhere, body, "text/csv", path))).tolist() == bits(expected).tolist()
    bare = many.to_csv(index=False, header=False, lineterminator=end)
    assert answers(send(everywhere, bare, "text/csv; header=absent", path)) == expected
    broken = f"{written[1]}1,2,3{end}"
    assert "has 3 cells where there are 6 columns" in send(everywhere, broken, "text/csv", path).text
    marked = written[1].replace(end, f"{end}\ufeff", 1).encode()
    assert "not a number" in send(everywhere, marked, "text/csv", path).text
