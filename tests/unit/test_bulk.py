"""Bulk scoring by the command `predict`: tables in, the same tables with the model's exact answers out."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
import pytest
from flask.testing import FlaskClient

from model.cli.main import main
from tests.support import classifiers, gems
from tests.support.service import COLUMNS, TABLE, bits, strict_json

HOUSE = "0,6.575,296.0,15.3,396.9,4.98"
NAMES = "CHAS,RM,TAX,PTRATIO,B,LSTAT"
Run = Callable[..., str]


@pytest.fixture
def run(store: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return the last line that `predict` for boston-housing prints, or the whole error with `status` 1."""

    def run(*arguments: object, model: str = "boston-housing", of: Path = store, status: int = 0) -> str:
        capsys.readouterr()
        command = ["--store", str(of), "predict", model, *map(str, arguments), "--jobs", "1"]
        found = main(command)
        output = capsys.readouterr()
        assert found == status, output.err
        return (output.err or output.out).splitlines()[-1] if not status else output.err

    return run


def compressed(text: bytes, suffix: str) -> bytes:
    """Return bytes as a file of this suffix has them, in two parts where it may have several."""
    half = len(text) // 2
    if suffix == ".gz":
        return gzip.compress(text[:half]) + gzip.compress(text[half:])
    if suffix == ".zst":
        return b"".join(pa.Codec("zstd").compress(part, asbytes=True) for part in (text[:half], text[half:]))
    if suffix == ".bz2":
        return bz2.compress(text)
    return lzma.compress(text) if suffix == ".xz" else text


def lines_of(path: Path) -> io.StringIO:
    """Return the text of a file with its newlines as they are."""
    return io.StringIO(path.read_bytes().decode(), newline="")


def read_back(path: Path) -> pa.Table:
    """Return a table that was written, read by Arrow's own readers."""
    name = path.name
    if ".parquet" in name:
        return pa.parquet.read_table(path)
    if name.endswith(".arrow"):
        return pa.ipc.open_file(path).read_all()
    if name.endswith(".arrows"):
        return pa.ipc.open_stream(path.read_bytes()).read_all()
    content = path.read_bytes()
    if name.endswith(".gz"):
        content = gzip.decompress(content)
    if name.endswith(".zst"):
        content = pa.CompressedInputStream(pa.BufferReader(content), "zstd").read()
    if ".json" in name:
        return pa.json.read_json(pa.BufferReader(content))
    return pa.csv.read_csv(pa.BufferReader(content))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "parquet", "arrow", "arrows"])
def test_every_format_gets_the_pipelines_bits(
    run: Run, houses: pd.DataFrame, pipeline: Any, tmp_path: Path, form: str, suffix: str
) -> None:
    """A table of any format, compressed or not, gets the trained model's answers, behind its own columns, in order."""
    table = pa.Table.from_pandas(houses.assign(note="a, “b”"), preserve_index=False)
    sink = io.BytesIO()
    if form == "csv":
        houses.assign(note='a, "b"').to_csv(sink, index=False)
    elif form == "jsonl":
        houses.to_json(sink, orient="records", lines=True)
    elif form == "json":
        houses.to_json(sink, orient="records")
    elif form == "parquet":
        pa.parquet.write_table(table, sink, row_group_size=100)
    else:
        with (pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream)(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=100)
    path, output = tmp_path / f"houses.{form}{suffix}", tmp_path / "out.parquet"
    path.write_bytes(compressed(sink.getvalue(), suffix))

    line = run(path, output)

    found = read_back(output)
    assert found.column_names[: len(houses.columns)] == list(houses.columns)
    assert found.column_names[-1] == "prediction"
    assert bits(found["prediction"].to_numpy()).tolist() == bits(pipeline.predict(houses.to_numpy())).tolist()
    assert bits(found["RM"].to_numpy()).tolist() == bits(houses["RM"].to_numpy()).tolist()
    assert line.startswith("506 rows, 0 rejected, ")
    assert f"input sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" in line


@pytest.mark.parametrize("source", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "target", ["csv", "csv.gz", "csv.zst", "jsonl", "jsonl.gz", "jsonl.zst", "parquet", "arrow", "arrows"]
)
def test_output_is_of_the_format_of_its_name(
    gems_store: Path, gems_pipeline: Any, run: Run, tmp_path: Path, source: str, target: str
) -> None:
    """From every format to every format: other readers find the same answers and the columns that pass through."""
    table = gems.table(60, seed=3).assign(näme="„x“ 😀, y")
    path, output = tmp_path / f"gems.{source}", tmp_path / f"out.{target}"
    if source == "csv":
        table.to_csv(path, index=False)
    elif source == "jsonl":
        table.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        table.astype({"color": "category"}).to_parquet(path)

    run(path, output, model=gems.NAME, of=gems_store)

    found = read_back(output)
    expected = gems.predictions(gems_pipeline, gems.rows(table))
    assert bits(found["prediction"].to_numpy()).tolist() == bits(expected).tolist()
    assert found["näme"].to_pylist() == ["„x“ 😀, y"] * 60
    assert found.column_names == [*table.columns, "prediction"]


@pytest.mark.parametrize("source", ["parquet", "arrow"])
@pytest.mark.parametrize("target", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_text_that_is_not_utf_8(run: Run, tmp_path: Path, source: str, target: str, kind: pa.DataType) -> None:
    """In Parquet and Arrow, too, a row is rejected for such a text: by its number and column, with the text."""
    notes = pa.array([b"fine", b"a\xff", None, "ü".encode()], pa.binary()).view(pa.string())
    notes = notes.dictionary_encode() if pa.types.is_dictionary(kind) else notes.cast(kind)
    table = pa.table({**{name: [6.5] * 4 for name in NAMES.split(",")}, "note": notes})
    path, output, rejects = tmp_path / f"table.{source}", tmp_path / f"out.{target}", tmp_path / "rejects.jsonl"
    if source == "parquet":
        pa.parquet.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    run(path, output, "--rejects", rejects)

    [rejected] = [json.loads(line) for line in rejects.read_text("utf-8").splitlines()]
    assert (rejected["row"], rejected["reason"]) == (1, "column 'note': not UTF-8")
    assert json.loads(rejected["record"])["note"] == "a\\xff"
    kept = read_back(output)["note"].to_pylist()
    assert [note or None for note in kept] == ["fine", None, "ü"]


def test_damaged_column_of_arrow(run: Run, tmp_path: Path) -> None:
    """A file of Arrow whose cells point outside their bytes ends the command with the column's name, and no output."""
    places = pa.py_buffer(np.array([0, 9, 2], dtype=np.int32))
    note = pa.Array.from_buffers(pa.binary(), 2, [None, places, pa.py_buffer(b"ab")])
    table = pa.table({**{name: [6.5] * 2 for name in NAMES.split(",")}, "note": note})
    with pa.OSFile(str(tmp_path / "table.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)

    error = run(tmp_path / "table.arrow", tmp_path / "out.jsonl", status=1)

    assert "column 'note' is damaged" in error
    assert not (tmp_path / "out.jsonl").exists()


BAD = [
    ("text in a number", b'{i},"x",0,many,296,15.3,396.9,4.98', "column 'RM': not a number"),
    ("missing", b"{i},x,0,,296,15.3,396.9,4.98", "column 'RM': missing"),
    ("not finite", b"{i},x,0,inf,296,15.3,396.9,4.98", "column 'RM': not finite"),
    ("NaN", b"{i},x,0,6.5,NaN,15.3,396.9,4.98", "column 'TAX': missing"),
    ("underscores", b"{i},x,0,6_5,296,15.3,396.9,4.98", "column 'RM': not a number"),
    ("too few", b"{i},x,0,6.5", "has 4 cells where the table has 8 columns"),
    ("too many", b"{i},x,0,6.5,296,15.3,396.9,4.98,9", "has 9 cells where the table has 8 columns"),
    ("open quote", b'{i},"x,0,6.5,296,15.3,396.9,4.98', "not CSV: a quote is never closed"),
    ("text behind a quote", b'{i},"x"y,0,6.5,296,15.3,396.9,4.98', "not CSV: a quote is never closed"),
    ("bytes", b"{i},\xff\xfe,0,6.5,296,15.3,396.9,4.98", "not UTF-8"),
    ("carriage return", b"{i},x\ry,0,6.5,296,15.3,396.9,4.98", "not CSV"),
]
# Cells as they are written, and as they are read.
NOTES = {
    "plain": "plain",
    '"with, comma"': "with, comma",
    '"two\nlines"': "two\nlines",
    '"""quoted"""': '"quoted"',
    "emoji 😀 ünïcode": "emoji 😀 ünïcode",
    '"a\r\nb"': "a\r\nb",
    '5" pipe': '5" pipe',
    "": "",
}


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["newline", "CRLF"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_bad_rows_go_to_the_rejects(
    run: Run, pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes, mark: bytes
) -> None:
    """Of 20,000 rows the 1 % bad ones, of every kind, are rejected with row, line and reason; none is lost or shifted.

    The columns that pass through have quotes, separators, newlines and characters of all kinds; the last newline is
    missing; the file is read in many pieces that end anywhere.
    """
    monkeypatch.setattr("model.score.inputs.PIECE_BYTES", 5_000)
    drawn = random.Random(7)
    lines = [f"id,nöte 😀,{NAMES}".encode()]
    expected: list[tuple[int, str, list[float]]] = []
    bad: list[tuple[int, str, bytes]] = []
    for i in range(20_000):
        if drawn.random() < 0.01:
            _, form, reason = BAD[len(bad) % len(BAD)]
            text = form.replace(b"{i}", str(i).encode())
            bad.append((i, reason, text))
            lines.append(text)
            continue
        house = [
            drawn.choice([0, 1]),
            round(drawn.uniform(3, 9), 3),
            296.0,
            15.3,
            396.9,
            round(drawn.uniform(1, 40), 2),
        ]
        note = drawn.choice(list(NOTES))
        lines.append(f"{i},{note},{','.join(map(str, house))}".encode())
        expected.append((i, note, house))
        if drawn.random() < 0.001:
            lines.append(b"")
    path, output, rejects = (tmp_path / name for name in ("table.csv", "out.csv", "rejects.csv"))
    path.write_bytes(mark + end.join(lines))

    line = run(path, output, "--rejects", rejects)

    content = output.read_bytes()
    header, *rows = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    answers = bits(pipeline.predict(np.array([house for *_, house in expected]))).tolist()
    assert header == ["id", "nöte 😀", *NAMES.split(","), "prediction"]
    assert [row[0] for row in rows] == [str(i) for i, *_ in expected]
    assert [row[1] for row in rows] == [NOTES[note] for _, note, _ in expected]
    assert bits([float(row[-1]) for row in rows]).tolist() == answers
    assert content.endswith(end)
    found = list(csv.DictReader(lines_of(rejects)))
    assert [int(each["row"]) for each in found] == [i for i, *_ in bad]
    for each, (_, reason, text) in zip(found, bad):
        assert each["reason"].startswith(reason)
        assert each["record"] == text.decode(errors="backslashreplace")
        assert path.read_bytes().split(b"\n")[int(each["line"]) - 1].rstrip(b"\r").endswith(text)
    assert line.startswith(f"20,000 rows, {len(bad)} rejected, ")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_bad_row_ends_the_command(run: Run, tmp_path: Path, suffix: str) -> None:
    """Without --rejects, a row that cannot be answered is an error with its number, and there is no output."""
    frame = pd.read_csv(io.StringIO(f"{NAMES}\n{HOUSE}\n{HOUSE}\n{HOUSE}\n"))
    frame.loc[1, "RM"] = np.nan
    path, output = tmp_path / f"table.{suffix}", tmp_path / "out.csv"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)

    message = run(path, output, status=1)

    place = "" if suffix == "parquet" else f" (line {2 + (suffix == 'csv')})"
    assert f"row 1{place}: column 'RM': missing" in message
    assert "--rejects FILE" in message
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_object_on_two_lines(run: Run, tmp_path: Path) -> None:
    """Each line is an object by itself, even if two lines together are as many objects as there are lines."""
    cells = json.dumps(dict(zip(NAMES.split(","), [0, 6.575, 296.0, 15.3, 396.9, 4.98])))
    path, output, rejects = tmp_path / "table.jsonl", tmp_path / "out.jsonl", tmp_path / "rejects.jsonl"
    path.write_text("\n".join([cells, cells.replace(', "B"', '\n"B"') + f",{cells}", cells]))
    assert run(path, output, "--rejects", rejects).startswith("4 rows, 2 rejected, ")

    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == [1, 2]
    assert output.read_text() == f'{cells[:-1]},"prediction":25.002145787183498}}\n' * 2


def test_byte_order_mark_below_the_header(run: Run, tmp_path: Path) -> None:
    """A byte order mark in front of the first row belongs to its first cell, and on a line of its own it is a row."""
    path, output, rejects = tmp_path / "table.csv", tmp_path / "out.csv", tmp_path / "rejects.csv"
    for rows, reason in ((f"\ufeff{HOUSE}", "column 'CHAS': not a number"), ("\ufeff", "has 1 cells where")):
        path.write_text(f"{NAMES}\n{rows}\n{HOUSE}\n")
        assert run(path, output, "--rejects", rejects).startswith("2 rows, 1 rejected, ")

        assert reason in rejects.read_text()
        assert output.read_text().splitlines()[1:] == [f"{HOUSE},25.002145787183498"]


def test_lines_of_json_are_rejected_one_by_one(run: Run, tmp_path: Path) -> None:
    """Lines that are no object, or have cells of other types, are rejected; the others keep their text."""
    good = dict(zip(NAMES.split(","), [0, 6.575, 296.0, 15.3, 396.9, 4.98]))
    lines = [
        json.dumps({"id": "ä", **good}, ensure_ascii=False),
        "[1, 2]",
        '{"CHAS": 0,',
        json.dumps({**good, "RM": "6.575"}),
        "",
        json.dumps({**good, "RM": {"a": 1}}),
        json.dumps({**good, "RM": True}),
        json.dumps({**good, "RM": None}),
        json.dumps({**good, "deep": {"a": [1]}}) + "  ",
    ]
    path, output, rejects = (tmp_path / name for name in ("table.jsonl", "out.jsonl", "rejects.jsonl"))
    path.write_text("\n".join(lines), "utf-8")

    run(path, output, "--rejects", rejects)

    answered = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [each.pop("prediction") for each in answered] == [25.002145787183498] * 3
    assert answered == [json.loads(lines[0]), json.loads(lines[3]), json.loads(lines[8])]
    found = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(each["row"], each["line"], each["reason"], each["record"]) for each in found] == [
        (1, 2, "not a JSON object", lines[1]),
        (2, 3, "not a JSON object", lines[2]),
        (4, 6, "column 'RM': nested", lines[5]),
        (5, 7, "column 'RM': not a number", lines[6]),
        (6, 8, "column 'RM': missing", lines[7]),
    ]


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("CHAS,RM\n0,1\n", [], r"table\.csv has no column 'TAX', 'PTRATIO', 'B', 'LSTAT'; its own are 'CHAS', 'RM'"),
        ("a;b\n1;2\n", [], r"has none of the model's columns; .*separator ','.*say --separator"),
        (f"{NAMES},RM\n{HOUSE},1\n", [], "has more than one column 'RM'; rename all but one"),
        (f"{NAMES},prediction\n{HOUSE},1\n", [], "has a column 'prediction' already; .* by --column"),
        (f"{NAMES}\n{HOUSE}\n", ["--only", "id"], "has no column 'id' for --only; there are 'CHAS'"),
        (f"{NAMES}\n{HOUSE}\n", ["--probabilities"], "is a regression, which has no probabilities"),
        (
            f"{NAMES}\n{HOUSE}\n",
            ["--explain", "guess"],
            "'guess' is not offered; choose one of: path_dependent, interv",
        ),
        (f"{NAMES}\n{HOUSE}\n", ["--interval", "0.123"], r"no prediction interval of 0\.123; its levels are 0\."),
        (f"{NAMES}\n{HOUSE}\n", ["--rejects", "r.txt.gz"], "rejected rows are written as .csv or .jsonl"),
        (f"{NAMES}\n{HOUSE}\n", ["--resume"], "name a folder as the output"),
        (f"{NAMES}\n{HOUSE}\n", ["--separator", "§"], "the separator is '§'; it is one character of ASCII here"),
        (f"{NAMES}\n{HOUSE}\n", ["--decimal", ""], "the decimal mark is ''; it is a point or a comma"),
        (f"{NAMES}\n{HOUSE}\n", ["--thousands", "[x"], r"the thousands separator is '\[x'; it is a point, comma"),
        (f"{NAMES}\n{HOUSE}\n", ["--encoding", "latin-99"], "there is no encoding 'latin-99'"),
        (f"{NAMES}\r{HOUSE}\r", [], "lines that end in a carriage return alone"),
        ("", [], "is empty"),
        ("<html>", [], "is a web page"),
    ],
)
def test_table_that_cannot_be_answered(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, options: list[str], message: str
) -> None:
    """What is wrong with a table as a whole, or with what is asked of it, is one clear error before any output."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "table.csv"
    path.write_text(table, newline="")

    error = run(path, tmp_path / "out.csv", *options, status=1)

    assert error.count("\n") == 1
    assert pd.Series([error]).str.contains(message).all(), error
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]


def test_cut_off_file(run: Run, tmp_path: Path) -> None:
    """A compressed file that ends too early is an error, and no output is left."""
    text = f"{NAMES}\n{f'{HOUSE}{chr(10)}' * 1_000}".encode()
    for suffix in (".gz", ".zst", ".xz", ".bz2"):
        path = tmp_path / f"table.csv{suffix}"
        path.write_bytes(compressed(text, suffix)[:-9])
        error = run(path, tmp_path / "out.csv", status=1)
        assert "cannot be" in error
        assert not (tmp_path / "out.csv").exists()


def test_columns_of_the_output(run: Run, tmp_path: Path) -> None:
    """--only names the columns and their order; the version and an interval's ends stand beside the prediction."""
    path, output = tmp_path / "table.csv", tmp_path / "out.csv"
    path.write_text(f'id,{NAMES}\n"a, b",{HOUSE}\n')
    names = ["score", "id", "upper", "lower", "model_version", "TAX"]

    run(path, output, "--only", ",".join(names), "--column", "score", "--with-version", "--interval", "0.9")

    header, row = csv.reader(lines_of(output))
    assert header == names
    assert (row[0], row[1], row[4], row[5]) == ("25.002145787183498", "a, b", "1", "296.0")
    assert float(row[3]) < float(row[0]) < float(row[2])


def test_columns_of_any_type_pass_through(run: Run, tmp_path: Path) -> None:
    """In CSV a moment is that of the table, whatever its time zone; bytes, intervals and runs are texts."""
    houses = pa.csv.read_csv(io.BytesIO(f"{NAMES}\n{HOUSE}\n{HOUSE}\n".encode()))
    moments = pa.array([1_600_000_000, None], pa.timestamp("s", "Europe/Berlin"))
    columns = {
        "moment": (moments, ["2020-09-13T12:26:40Z", ""]),
        "bytes": (pa.array([b"\xe4", b"a, b"], pa.large_binary()), ["\\xe4", "a, b"]),
        "fixed": (pa.array([b"\xff\xff", None], pa.binary(2)), ["\\xff\\xff", ""]),
        "interval": (
            pa.array(pd.arrays.IntervalArray.from_breaks([0, 1, 2])),
            ['{"left":0,"right":1}', '{"left":1,"right":2}'],
        ),
        "runs": (pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["x"])), ["x", "x"]),
        "length": (pa.array([1.5, None]).cast(pa.float16()), ["1.5", ""]),
    }
    for name, (cells, _) in columns.items():
        houses = houses.append_column(name, cells)
    path, output = tmp_path / "table.arrow", tmp_path / "out.csv"
    with pa.ipc.new_file(path, houses.schema) as file:
        file.write_table(houses)

    run(path, output)

    found = list(csv.DictReader(lines_of(output)))
    assert {name: [row[name] for row in found] for name in columns} == {
        name: texts for name, (_, texts) in columns.items()
    }


def test_keys_that_come_late(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of lines of JSON no value is lost, and none doubled: rows with keys that an output cannot have are rejected."""
    monkeypatch.setattr("model.score.inputs.PIECE_BYTES", 100)
    monkeypatch.chdir(tmp_path)
    good = dict(zip(NAMES.split(","), [0, 6.575, 296.0, 15.3, 396.9, 4.98]))
    records = [good, {**good, "late": 1}, {**good, "prediction": 2}, {"RM": 6.575, **good}]
    Path("table.jsonl").write_text("\n".join(map(json.dumps, records)))

    for output, rejected in (("out.jsonl", [2]), ("out.csv", [1, 2]), ("out.parquet", [1, 2])):
        run("table.jsonl", output, "--rejects", "r.jsonl")
        found = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
        assert [each["row"] for each in found] == rejected
        assert found[-1]["reason"].startswith("has a key 'prediction'")
        assert "'late', which the first records have not" in found[0]["reason"] or output == "out.jsonl"
        table = read_back(Path(output))
        assert table["prediction"].to_pylist() == [25.002145787183498] * (4 - len(rejected))
    run("table.jsonl", "out.csv", "--column", "y", "--only", "late,y")
    assert Path("out.csv").read_text().splitlines()[1:3] == [",25.002145787183498", "1,25.002145787183498"]

    Path("table.jsonl").write_text(json.dumps({**good, "prediction": 2}))
    for output in ("out.jsonl", "out.csv"):
        assert "has a column 'prediction' already" in run("table.jsonl", output, status=1)
    assert "has a column 'model_version' already" in run(
        "table.jsonl", "out.csv", "--column", "model_version", "--with-version", status=1
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.tsv", [], "out.tsv would have other separators than tabs; end it in .csv"),
        ("out.csv", ["--output-format", "parquet"], "out.csv is no name for parquet; end it in .parquet"),
        ("out.xlsx", [], "its name says no format; end it in .csv, .csv.gz"),
    ],
)
def test_name_that_does_not_fit(run: Run, tmp_path: Path, name: str, options: list[str], message: str) -> None:
    """An output whose name says another format than it would have is refused."""
    path = tmp_path / "table.csv"
    path.write_text(f"{NAMES}\n{HOUSE}\n")

    assert message in run(path, tmp_path / name, *options, status=1)
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]


def test_header_without_rows(run: Run, tmp_path: Path) -> None:
    """A table without rows gives a table without rows."""
    path = tmp_path / "table.csv"
    path.write_text(f"{NAMES}\n")

    for name in ("out.csv", "out.parquet"):
        assert run(path, tmp_path / name).startswith("0 rows, 0 rejected")

    assert (tmp_path / "out.csv").read_text() == f"{NAMES},prediction\n"
    assert read_back(tmp_path / "out.parquet").column_names == [*NAMES.split(","), "prediction"]


def test_decimal_commas(run: Run, tmp_path: Path) -> None:
    """A table with decimal commas gets answers with decimal commas, and the same bits."""
    path, output = tmp_path / "table.csv", tmp_path / "out.csv"
    path.write_text(f"{NAMES.replace(',', ';')}\n0;6,575;296;15,3;396,9;4,98\n")

    run(path, output, "--separator", ";", "--decimal", ",")

    assert output.read_text().splitlines()[1] == "0;6,575;296;15,3;396,9;4,98;25,002145787183498"


def test_numbers_of_json_have_a_point(run: Run, tmp_path: Path) -> None:
    """A number of JSON is itself beside texts with decimal commas; the columns keep the order of the records."""
    path, output = tmp_path / "table.jsonl", tmp_path / "out.csv"
    good = {"id": "a", **dict(zip(NAMES.split(","), [0, 6.575, 296.0, 15.3, 396.9, 4.98]))}
    path.write_text(f"{json.dumps(good)}\n{json.dumps({**good, 'RM': '6,575'})}\n")

    run(path, output, "--decimal", ",", "--thousands", ".")

    header, *rows = csv.reader(lines_of(output))
    assert header == ["id", *NAMES.split(","), "prediction"]
    assert [row[-1] for row in rows] == ["25.002145787183498"] * 2
    assert [row[:3] for row in rows] == [["a", "0", "6,575"]] * 2


def test_folder_of_parts(run: Run, tmp_path: Path) -> None:
    """Each file of a folder, and of those below it, gets one of its name; what is no table is left alone.

    With --resume only those are answered that are not done, or were changed since.
    """
    folder, output = tmp_path / "in", tmp_path / "out"
    for day in (1, 2, 3):
        part = folder / f"day={day}" / "part.csv"
        part.parent.mkdir(parents=True)
        part.write_text(f"id,{NAMES}\n{day},{HOUSE}\n")
    (folder / "_SUCCESS").touch()
    (folder / "readme.md").touch()
    (folder / ".hidden.csv").touch()

    assert run(folder, f"{output}/", "--manifest", tmp_path / "manifest.json").startswith("3 rows, 0 rejected")
    written = {path: path.stat().st_mtime_ns for path in output.rglob("part.csv")}
    assert sorted(path.parent.name for path in written) == ["day=1", "day=2", "day=3"]
    (folder / "day=2" / "part.csv").write_text(f"id,{NAMES}\n2,{HOUSE}\n2,{HOUSE}\n")
    line = run(folder, output, "--resume", "--manifest", tmp_path / "manifest.json")

    again = {path.parent.name for path in output.rglob("part.csv") if path.stat().st_mtime_ns != written[path]}
    assert again == {"day=2"}
    assert line.startswith("4 rows, 0 rejected")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [(part["name"], part["rows"], part["resumed"]) for part in manifest["parts"]] == [
        ("day=1/part.csv", 1, True),
        ("day=2/part.csv", 2, False),
        ("day=3/part.csv", 1, True),
    ]
    run(folder, output, "--resume", "--with-version")
    assert all("model_version" in path.read_text() for path in output.rglob("part.csv"))


def test_what_is_not_done_is_answered_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--resume writes what is not there any more, and rejected rows to another place; two outputs have two names."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in/a.csv").write_text(f"{NAMES}\n{HOUSE}\nx\n")
    run("in", "out/", "--rejects", "bad/")

    Path("out/a.csv").unlink()
    run("in", "out/", "--rejects", "bad/", "--resume")
    run("in", "out/", "--rejects", "other/", "--resume")

    assert Path("out/a.csv").exists()
    assert Path("other/a.csv.csv").read_text() == Path("bad/a.csv.csv").read_text()
    Path("in/a.txt").write_text(f"{NAMES}\n{HOUSE}\n")
    message = run("in", "new/", "--output-format", "parquet", "--rejects", "bad/", status=1)
    assert "more than one file would be written to 'a.parquet'" in message


def test_names_with_points(run: Run, tmp_path: Path) -> None:
    """Of a file's name only what says its format and compression gives way to another format."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("prices.2026.01.csv", "prices.2026.02.csv.gz"):
        text = f"{NAMES}\n{HOUSE}\n".encode()
        (folder / name).write_bytes(compressed(text, Path(name).suffix))

    run(folder, f"{tmp_path}/out/", "--output-format", "parquet")

    found = sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
    assert found == ["prices.2026.01.parquet", "prices.2026.02.parquet"]


def test_pattern_into_one_file(run: Run, tmp_path: Path) -> None:
    """The files of a pattern go into one file in the order of their names; other columns are an error."""
    for number in (2, 1):
        (tmp_path / f"part-{number}.csv").write_text(f"id,{NAMES}\n{number},{HOUSE}\n")
    output = tmp_path / "all.csv"

    run(tmp_path / "part-*.csv", output)
    assert [line.split(",")[0] for line in output.read_text().splitlines()] == ["id", "1", "2"]

    (tmp_path / "part-3.csv").write_text(f"{NAMES}\n{HOUSE}\n")
    before = output.read_bytes()
    assert "part-3.csv has other columns than part-1.csv" in run(tmp_path / "part-*.csv", output, status=1)
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("in/a.csv", "in/a.csv"),
        ("in/a.csv", "link.csv"),
        ("link.csv", "in/../in/a.csv"),
        ("in/*.csv", "in/b.csv"),
        ("in", "in/"),
        ("in", "in/out/"),
        ("in/", "in/all.parquet"),
        ("memory://in/", "memory://in/out/"),
        ("memory://in/a.csv", "memory://in/a.csv"),
    ],
)
def test_output_never_replaces_the_table(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    """An output, or rejected rows, in the place of the table or in its folder is an error, and the table stays."""
    import fsspec

    monkeypatch.chdir(tmp_path)
    text = f"{NAMES}\n{HOUSE}\n"
    fsspec.filesystem("memory").pipe("/in/a.csv", text.encode())
    Path("in").mkdir()
    for name in ("in/a.csv", "in/b.csv"):
        Path(name).write_text(text)
    Path("link.csv").symlink_to("in/a.csv")

    for arguments in ([source, target], [source, "out.csv", "--rejects", target]):
        message = run(*arguments, status=1)
        assert message == f"error: {target} is the table, or in its folder; name an output in another place\n"

    assert sorted(path.as_posix() for path in Path().rglob("*")) == ["in", "in/a.csv", "in/b.csv", "link.csv"]
    assert {Path(name).read_text() for name in ("in/a.csv", "in/b.csv", "link.csv")} == {text}
    assert fsspec.filesystem("memory").cat("/in/a.csv") == text.encode()
    fsspec.filesystem("memory").rm("/in", recursive=True)


def test_output_is_a_file(run: Run, tmp_path: Path) -> None:
    """A pipe or a device in the place of the output is left as it is; behind a link the file is replaced."""
    path, pipe, link = tmp_path / "table.csv", tmp_path / "pipe.csv", tmp_path / "link.csv"
    path.write_text(f"{NAMES}\n{HOUSE}\n")
    os.mkfifo(pipe)
    link.symlink_to("real.csv")

    assert "pipe.csv is there and is no file" in run(path, pipe, status=1)
    run(path, link)

    assert pipe.is_fifo()
    assert link.is_symlink()
    assert (tmp_path / "real.csv").read_text().startswith(f"{NAMES},prediction\n")


def test_url_of_fsspec(run: Run, tmp_path: Path) -> None:
    """Tables, folders and patterns behind a URL of fsspec are read, and outputs are written there."""
    import fsspec

    files = fsspec.filesystem("memory")
    text = f"id,{NAMES}\n1,{HOUSE}\n".encode()
    files.pipe({"/bulk/in/a.csv": text, "/bulk/in/deep/b.csv.gz": gzip.compress(text), "/bulk/in/_log/c.csv": b"x"})

    run("memory://bulk/in/", "memory://bulk/out/", "--rejects", "memory://bulk/rejects/")
    run("memory://bulk/in/a.csv", "memory://bulk/one.parquet")
    run("memory://bulk/in/*.csv", tmp_path / "one.csv")

    assert files.cat("/bulk/out/a.csv") == (tmp_path / "one.csv").read_bytes()
    assert gzip.decompress(files.cat("/bulk/out/deep/b.csv.gz")) == (tmp_path / "one.csv").read_bytes()
    assert pa.parquet.read_table(files.open("/bulk/one.parquet"))["prediction"].to_pylist() == [25.002145787183498]
    files.rm("/bulk", recursive=True)


def test_url_of_local_files(run: Run, tmp_path: Path) -> None:
    """Folders of outputs are made behind file://, too; a URL of no kind is a clear error."""
    path = tmp_path / "table.csv"
    path.write_text(f"{NAMES}\n{HOUSE}\n")

    run(f"file://{path}", f"file://{tmp_path}/deep/out/")

    assert (tmp_path / "deep" / "out" / "table.csv").read_text().startswith(f"{NAMES},prediction\n")
    assert "foo://x.csv cannot be written: Protocol not known: foo" in run(path, "foo://x.csv", status=1)


def test_store_without_credentials(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a provider's library raises names the table, or the output."""
    pytest.importorskip("s3fs", reason="requirements-s3.txt is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    path = tmp_path / "table.csv"
    path.write_text(f"{NAMES}\n{HOUSE}\n")

    assert "s3://tables/a.csv cannot be read: " in run("s3://tables/a.csv", tmp_path / "out.csv", status=1)
    assert "s3://tables/b.csv cannot be written: " in run(path, "s3://tables/b.csv", status=1)


def test_standard_input_and_output(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table from a pipe goes into a pipe, in its own format; what is said of it goes to standard error."""
    for text in (f"{NAMES}\n{HOUSE}\n", json.dumps(dict(zip(NAMES.split(","), map(float, HOUSE.split(",")))))):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert main(["--store", str(store), "predict", "boston-housing", "-"]) == 0
        output = capsys.readouterr()
        assert output.out.splitlines()[-1].endswith(("25.002145787183498", '"prediction":25.002145787183498}'))
        assert output.err.startswith("1 row, 0 rejected, ")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("method", [[], ["interventional"]])
def test_explanations_are_columns(
    client: FlaskClient, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, method: list[str]
) -> None:
    """Each row has what the service answers for it: base, contributions and residual add up to the prediction."""
    monkeypatch.chdir(tmp_path)
    pd.read_csv(TABLE).to_parquet("table.parquet")
    run("table.parquet", f"out.{form}", "--explain", *method)
    read = {"csv": pa.csv.read_csv, "jsonl": pa.json.read_json, "parquet": pa.parquet.read_table}[form]
    table = read(f"out.{form}")
    houses = table.select(COLUMNS).to_pylist()
    query = f"/predict?explain={method[0] if method else 'true'}"
    replies = strict_json(client.post(query, json=houses))
    for row, prediction, expected in zip(
        table.to_pylist(), replies["prediction"], replies["explanations"], strict=True
    ):
        assert row["prediction"] == row["explained"] == expected["value"] == prediction
        total = row["base"]
        for name in COLUMNS:
            assert row[f"contribution_{name}"] == expected["contributions"][name]
            total += row[f"contribution_{name}"]
        assert total + row["residual"] == row["prediction"]


def test_labels_and_probabilities(
    classifiers_store: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classifier's answers are labels, in CSV in quotes where they need them; probabilities are columns."""
    monkeypatch.chdir(tmp_path)
    classifiers.table(40, seed=2).fillna(57.0).to_csv("table.csv", index=False)
    for name, labels in classifiers.LABELS.items():
        run("table.csv", "out.csv", "--probabilities", model=name, of=classifiers_store)
        run("table.csv", "out.jsonl", "--probabilities", model=name, of=classifiers_store)
        found = list(csv.DictReader(lines_of(Path("out.csv"))))
        records = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
        texts = [str(label).lower() if isinstance(label, bool) else str(label) for label in labels]
        for row, record in zip(found, records, strict=True):
            assert row["prediction"] == texts[list(labels).index(record["prediction"])]
            shares = [float(row[f"probability_{each}"]) for each in texts]
            assert shares == [record[f"probability_{each}"] for each in texts]
            assert max(shares) == shares[texts.index(row["prediction"])]
