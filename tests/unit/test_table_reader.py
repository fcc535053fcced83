"""Tables are read as they are written: every dialect, format and compression, with all their cells."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import signal
import threading
from _thread import interrupt_main
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.errors import DataError
from model.table.reader import choose, open_table
from model.table.source import shown

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Of every encoding below; a carriage return is a line's end to DuckDB, in quotes too.
LETTERS = st.characters(codec="cp1252", exclude_characters="\0\r", exclude_categories=["Cc"]) | st.just("\n")
CELLS = st.text(LETTERS, max_size=8)


def cells(source: str | Path, **options: object) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return the names and the cells of a table, a missing cell as an empty text."""
    with open_table(source, **options) as relation:  # type: ignore[arg-type]
        frame = relation.query(f"SELECT {', '.join(relation.identifiers)} FROM data ORDER BY rowid")
        return relation.names, frame.astype(object).where(frame.notna(), "").to_numpy().tolist()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return what writes a file and returns its path."""

    def write(content: bytes | str, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_interrupted_query(write: Callable[..., Path]) -> None:
    """Ctrl-C during a query ends it as Ctrl-C ends everything else, also where DuckDB loses it."""
    source = write("a\n1\n")

    def query() -> None:
        with open_table(source) as relation:
            timer.start()
            relation.sql("SELECT count(*) FROM range(500000000) t(i) WHERE i % 7 = 3")
            timer.join()  # a query on a fast machine may end before

    timer = threading.Timer(0.2, interrupt_main)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            query()
    finally:
        signal.signal(signal.SIGINT, before)


@QUICK
@given(
    rows=st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=5)),
    separator=st.sampled_from(",;\t|"),
    quote=st.sampled_from("\"'"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252", "utf-16-le"]),
    newline=st.sampled_from(["\n", "\r\n"]),
    compress=st.sampled_from([bytes, gzip.compress, bz2.compress, lzma.compress]),
)
def test_every_dialect_keeps_all_cells(
    rows: list[list[str]],
    separator: str,
    quote: str,
    encoding: str,
    newline: str,
    compress: Callable[[bytes], bytes],
) -> None:
    """A table in any dialect that is named, in any encoding and compression, has the cells that were written."""
    names = [f"c{number}" for number in range(len(rows[0]))]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, quotechar=quote, lineterminator=newline, quoting=csv.QUOTE_ALL)
    writer.writerows([names, *rows])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes(compress(text.getvalue().encode(encoding)))

        assert cells(path, separator=separator, quote=quote, encoding=encoding, header=True) == (tuple(names), rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_is_not_misread_by_an_encoding_that_takes_any_bytes(write: Callable[..., Path], encoding: str) -> None:
    """A schema file says how an older file was written; a newer one in UTF-8 has its letters all the same."""
    text = "town,n\nKöln,1\nMünchen,2\n"
    path = write(text.encode(encoding))
    with open_table(path, encoding="cp1252") as relation:
        assert any("not read as cp1252" in note for note in relation.notes)
        assert relation.dialect.encoding == encoding
    assert cells(path, encoding="cp1252") == (("town", "n"), [["Köln", "1"], ["München", "2"]])
    assert cells(write(text.encode("cp1252")), encoding="cp1252")[1] == [["Köln", "1"], ["München", "2"]]
    assert cells(write("a,b\nx,1\n"), encoding="cp1252")[1] == [["x", "1"]]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_dialect_is_found(write: Callable[..., Path], separator: str, encoding: str) -> None:
    """Separator, encoding and header of a table with numbers are found, and so are quotes."""
    text = separator.join(["naïve", "size"]) + f'\nä{separator}1,5\n"a{separator}b"{separator}2,5\n'
    if separator == ",":
        text = 'naïve,size\nä,"1,5"\n"a,b","2,5"\n'

    names, rows = cells(write(text.encode(encoding)))

    assert names == ("naïve", "size")
    assert rows == [["ä", "1,5"], [f"a{separator}b", "2,5"]]


def test_what_was_found_is_said(write: Callable[..., Path]) -> None:
    """A table that is not UTF-8 is read as Windows-1252, and the notes say so, beside separator and header."""
    with open_table(write("größe;x\n1,5;2\n".encode("cp1252"))) as relation:
        notes = " | ".join(relation.notes)

        assert relation.names == ("größe", "x")
        assert "not UTF-8" in notes
        assert "cp1252" in notes
        assert "semicolon" in notes
        assert "header" in notes


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,2\n3,4\n", ("x0", "x1")),  # numbers over numbers
        ("red,1\nblue,2\nred,3\n", ("x0", "x1")),
        ("country,2019,2020\nNO,5,6\n", ("country", "2019", "2020")),  # years in a row
        ("name,colour\nann,red\nbob,blue\n", ("name", "colour")),
        ("sep=;\na;b\n1;2\n", ("a", "b")),  # as spreadsheets write it
        ("\n\na;b\n1;2\n", ("a", "b")),
    ],
)
def test_header_is_found(write: Callable[..., Path], text: str, names: tuple[str, ...]) -> None:
    """The first row is the header unless its cells are like those below."""
    assert cells(write(text))[0] == names


def test_header_can_be_given(write: Callable[..., Path]) -> None:
    """What a person says of the header holds."""
    assert cells(write("a,b\nc,d\n"), header=False) == (("x0", "x1"), [["a", "b"], ["c", "d"]])
    assert cells(write("1,2\n3,4\n"), header=True) == (("1", "2"), [["3", "4"]])


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["is empty"]),
        (b"\n\n", ["no cells"]),
        (b"a,b\n", ["no rows below its header"]),
        (b"a,b\n1,2\n3\n4,5\n6,7,8\n", ["2 faults", "line 3: has 1 cells", "line 5: has 3 cells"]),
        (
            b"a,a,,c\n1,2,3,4\n1,2\n",
            ["3 faults", "2 columns are called 'a'", "column 2 has cells and no name", "line 3"],
        ),
        (b'a,b\n1,"2\n3,4\n', ["line 2", "quote is never closed"]),
        (b"a,b\n1,\0\n", ["NUL", "byte 6"]),
        ("a,b\n1,2\n".encode("utf-16-le"), ["NUL", "utf-16-le"]),
        (b"<!DOCTYPE html>\n<html>", ["web page", "raw file"]),
        (b"PK\x03\x04rest", ["zip archive"]),
        (b"\x89PNG\r\n", ["image"]),
        (b"\x80\x04pickle", ["pickle", "never opened"]),
        (gzip.compress(b"a,b\n1,2\n" * 999, mtime=0)[:40], ["cannot be unpacked", "cut off"]),
    ],
)
def test_what_is_no_table_is_refused(write: Callable[..., Path], content: bytes, parts: list[str]) -> None:
    """One error names every fault of a file that is no table."""
    with pytest.raises(DataError) as raised, open_table(write(content)):
        pass

    assert [part for part in parts if part not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("source", "part"),
    [("missing.csv", "No such file"), ("none-*.csv", "no file is called"), ("what://x/y.csv", "Protocol not known")],
)
def test_source_that_is_not_there(source: str, part: str) -> None:
    """A source that cannot be opened is named, with the reason."""
    with pytest.raises(DataError, match=part), open_table(source):
        pass


def test_package_of_a_url_is_named() -> None:
    """A URL that needs a package that is not installed names it."""
    with pytest.raises(DataError, match="needs a package"), open_table("sftp://host/table.csv"):
        pass


def test_url_is_shown_without_credentials() -> None:
    """Manifests and messages have no credentials of a URL, nor of one in a chain of them."""
    assert shown("s3://ann:secret@bucket/t.csv?secret") == "s3://bucket/t.csv"
    assert shown("zip://t.csv::s3://ann:secret@bucket/t.zip") == "zip://t.csv::s3://bucket/t.zip"
    assert shown("https://ann:secret@[::1]:80/t.csv") == "https://[::1]:80/t.csv"


def test_url_is_read() -> None:
    """A URL that fsspec knows is read like a file; the hash is that of its bytes."""
    content = gzip.compress(b"a,b\n1,x\n")
    with fsspec.open("memory://tables/one.csv.gz", "wb") as file:
        file.write(content)

    with open_table("memory://tables/one.csv.gz") as relation:
        assert (relation.names, relation.n_rows) == (("a", "b"), 1)
        assert relation.sha256 == hashlib.sha256(content).hexdigest()


def test_several_files_are_one_table(write: Callable[..., Path], tmp_path: Path) -> None:
    """Files that a pattern names are read in their order; one with other columns is refused."""
    write("a,b\n1,x\n", "2026-01.csv")
    write("a,b\n2,y\n", "2026-02.csv")
    assert cells(tmp_path / "2026-*.csv") == (("a", "b"), [["1", "x"], ["2", "y"]])

    write("a,c\n2,y\n", "2026-03.csv")
    with pytest.raises(DataError, match=r"2026-03\.csv has other columns"), open_table(tmp_path / "2026-*.csv"):
        pass


def test_file_whose_name_is_a_pattern(write: Callable[..., Path]) -> None:
    """A file is read by its name, also where that looks like a pattern."""
    assert cells(write("a,b\n1,2\n", "prices [1].csv"))[1] == [["1", "2"]]


def test_mixed_line_ends(write: Callable[..., Path]) -> None:
    """Lines of files that were put together may end in different ways."""
    assert cells(write(b"a,b\r\n1,2\n3,4\r\n"))[1] == [["1", "2"], ["3", "4"]]


def test_index_without_a_name_is_left_out(write: Callable[..., Path]) -> None:
    """A first column without a name is an index, and a last one without name and cells is a separator too many."""
    assert cells(write(",a,\n0,5,\n1,6,\n")) == (("a",), [["5"], ["6"]])


def test_zstandard_is_unpacked(tmp_path: Path) -> None:
    """Zstandard, which Python 3.11 lacks, is read line by line."""
    path = tmp_path / "table.csv.zst"
    duckdb.sql(f"COPY (SELECT 'é,\"' AS a, 1 AS b) TO '{path}' (HEADER, COMPRESSION zstd)")

    assert cells(path) == (("a", "b"), [['é,"', "1"]])


def test_types_of_parquet_are_kept(tmp_path: Path) -> None:
    """Columns of Parquet keep their types; a nested one is left out, and the notes say so."""
    path = tmp_path / "table.parquet"
    columns = (
        "1 AS i, 1.5::FLOAT AS f, true AS b, DATE '2026-01-02' AS d, 'x' AS t, [1] AS nested, 2.50::DECIMAL(5,2) AS m"
    )
    duckdb.sql(f"COPY (SELECT {columns}) TO '{path}'")

    with open_table(path) as relation:
        assert dict(zip(relation.names, relation.types)) == {
            "i": "BIGINT",
            "f": "DOUBLE",
            "b": "BOOLEAN",
            "d": "TIMESTAMP",
            "t": "VARCHAR",
            "m": "DOUBLE",
        }
        assert "nested" in " ".join(relation.notes)


@pytest.mark.parametrize("name", ["table.jsonl", "table.json", "table"])
def test_json_is_read(write: Callable[..., Path], name: str) -> None:
    """JSON lines, and an array of objects, are tables; keys that a row lacks are missing."""
    rows = [{"a": 1, "b": "x"}, {"a": 2.5}, {"a": None, "b": "y"}]
    text = json.dumps(rows) if name == "table.json" else "".join(f"{json.dumps(row)}\n" for row in rows)

    names, read = cells(write(text, name))

    assert names == ("a", "b")
    assert read == [[1.0, "x"], [2.5, ""], ["", "y"]]


def test_texts_of_json_stay_as_they_are(write: Callable[..., Path]) -> None:
    """A text is one, also where it looks like a time, a date or another type; whole numbers keep all digits."""
    row = {
        "time": "10:30",
        "day": "2025-04-28",
        "moment": "2025-04-28T10:00:00Z",
        "id": "550E8400-E29B-41D4-A716-446655440000",
        "digits": "007",
        "long": 12345678901234567890,
    }
    path = write(f"{json.dumps(row)}\n", "table.jsonl")

    with open_table(path) as relation:
        assert relation.types == ("VARCHAR",) * len(row)
    assert cells(path)[1] == [list(map(str, row.values()))]


def test_json_with_values_of_several_types_is_text(write: Callable[..., Path]) -> None:
    """A column of JSON with numbers and texts is one of texts, without quotes."""
    assert cells(write('{"a": 1}\n{"a": "x"}\n', "table.jsonl"))[1] == [["1"], ["x"]]


def test_sample_is_the_same_for_a_seed() -> None:
    """A sample is drawn by numpy: the same seed gives the same rows, in order."""
    rows = np.arange(1000)
    first, again, other = (choose(rows, 50, seed=seed).tolist() for seed in (1, 1, 2))

    assert first == again == sorted(set(first))
    assert first != other
    assert choose(rows, 5000, seed=1).tolist() == list(range(1000))


def test_rows_have_their_numbers(write: Callable[..., Path]) -> None:
    """Rows are in the file's order with their numbers."""
    with open_table(write("a,b\n" + "".join(f"{number},x\n" for number in range(1000)))) as relation:
        read = [(row, int(cell)) for row, cell in relation.sql(f"SELECT rowid, {relation.identifier('a')} FROM data")]

        assert read == [(number, number) for number in range(1000)]


@pytest.mark.parametrize(
    "options",
    [{"separator": ",,"}, {"decimal": "x"}, {"encoding": "klingon"}, {"format": "xlsx"}, {"separator": '"'}],
)
def test_options_that_cannot_be(write: Callable[..., Path], options: dict[str, str]) -> None:
    """An option that is none is an error that shows it."""
    with pytest.raises(DataError, match=r"klingon|xlsx|,,|'x'|must differ"), open_table(write("a,b\n1,2\n"), **options):  # type: ignore[arg-type]
        pass
