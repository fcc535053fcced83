"""The clean table and the rejected rows: together all rows, each file whole, and each rejected row with its reasons."""

from __future__ import annotations

import csv
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.cli.main import main
from model.errors import DataError
from model.table import clean, quality
from model.table.checks import Quality, check
from model.table.description import Description
from model.table.reader import open_table
from tests.support.quality import COLUMNS, HEADER, HOUSES, N_ROWS, NAMES, TODAY, house, houses, write

FREE = replace(HOUSES, columns=tuple(replace(each, allowed=()) if each.name == "zone" else each for each in COLUMNS))

# Cells that break a rule in any row, each with the kind of the finding.
FAULTS = (
    ("area", "wide", "wrong type"),
    ("area", "1", "out of range"),
    ("area", "-inf", "infinite"),
    ("rooms", "1.5", "wrong type"),
    ("rooms", "17", "not allowed"),
    ("zone", "Ost", "not allowed"),
    ("lift", "perhaps", "wrong type"),
    ("sold", "1st of May", "wrong type"),
    ("sold", "2027-01-01", "date ahead"),
    ("net", "", "required"),
    ("gross", "", "missing target"),
    ("gross", "1", "broken rule"),
)


def cleaned(path: Path, output: Path, description: Description = HOUSES, **more: bool) -> tuple[Quality, clean.Cleaned]:
    """Check and clean a table."""
    with open_table(path) as relation:
        found = check(relation, description, today=TODAY)
        return found, clean.clean(found, output, **more)


def read(path: Path) -> list[list[str]]:
    """Return the cells of a CSV file, without its header."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def test_rows_that_pass_keep_their_order_and_their_texts(tmp_path: Path) -> None:
    """A clean row is as it was, to the character, and a rejected one has its number and every reason."""
    cells = {(3, "area"): "040.50", (5, "rooms"): "many", (5, "area"): "1", (8, "tax"): "190.800"}
    rows = houses(cells)
    found, result = cleaned(write(tmp_path / "houses.csv", rows), tmp_path / "ok.csv")

    assert (result.n_kept, result.n_rejected) == (N_ROWS - 1, 1)
    assert read(tmp_path / "ok.csv") == [row for number, row in enumerate(rows) if number != 5]
    reasons = "column 'area' is not plausible: 5 to 500 m²; column 'rooms' is not a whole number"
    assert read(tmp_path / "ok.rejected.csv") == [["5", *rows[5], reasons]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["houses.csv", "ok.csv", "ok.rejected.csv"]
    assert "clean: 60 rows = 59 kept + 1 rejected" in quality.to_text(found, result)


def test_right_table_is_kept_as_it_is(tmp_path: Path) -> None:
    """Of a table without faults all rows are kept, and the file of rejected rows has none."""
    path = write(tmp_path / "houses.csv", houses())
    cleaned(path, tmp_path / "ok.csv")

    assert (tmp_path / "ok.csv").read_bytes() == path.read_bytes()
    assert read(tmp_path / "ok.rejected.csv") == []


def test_first_of_equal_rows_is_kept(tmp_path: Path) -> None:
    """Of rows that are the same the first passes."""
    rows = [*houses(), house(4), house(4)]
    _, result = cleaned(write(tmp_path / "houses.csv", rows), tmp_path / "ok.csv")

    assert read(tmp_path / "ok.csv") == houses()
    assert [row[0] for row in read(result.rejected_path)] == ["60", "61"]


def test_outliers_pass_unless_they_are_to_be_rejected(tmp_path: Path) -> None:
    """Outliers are rejected only on demand."""
    path = write(tmp_path / "houses.csv", houses({(3, "area"): "450"}))
    _, kept = cleaned(path, tmp_path / "ok.csv")
    _, rejected = cleaned(path, tmp_path / "strict.csv", reject_outliers=True)

    assert (kept.n_rejected, rejected.n_rejected) == (0, 1)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zst", ".jsonl", ".jsonl.gz", ".parquet"])
def test_both_files_have_the_format_of_the_name(tmp_path: Path, suffix: str) -> None:
    """CSV, JSON lines and Parquet, compressed by the suffix, are read back with the same texts."""
    path = write(tmp_path / "houses.csv", houses({(5, "rooms"): "many"}))
    _, result = cleaned(path, tmp_path / f"ok{suffix}")

    assert result.rejected_path.name == f"ok.rejected{suffix}"
    with open_table(result.kept_path) as relation:
        assert relation.names == NAMES
        assert relation.sql(f"SELECT {relation.text('tax')} FROM data WHERE rowid = 10")[0][0] == "191.1"
    with open_table(result.rejected_path) as relation:
        assert relation.names == ("row", *NAMES, "reasons")


def test_separator_of_the_table_is_kept(tmp_path: Path) -> None:
    """A table with semicolons and decimal commas is written with them, and checks clean."""
    rows = [[cell.replace(".", ",") for cell in row] for row in houses({(5, "area"): "2"})]
    path = tmp_path / "houses.csv"
    path.write_text("\n".join([HEADER.replace(",", ";"), *map(";".join, rows)]) + "\n")
    comma = replace(HOUSES, columns=tuple(replace(each, decimal=",") for each in COLUMNS))
    cleaned(path, tmp_path / "ok.csv", comma)
    found, result = cleaned(tmp_path / "ok.csv", tmp_path / "again.csv", comma)

    assert found.errors == ()
    assert result.n_rejected == 0
    assert "h1;40,5;2;" in (tmp_path / "ok.csv").read_text()


def test_columns_of_the_rejected_rows_never_clash(tmp_path: Path) -> None:
    """A table that has columns named row and reasons keeps them."""
    header = HEADER.replace("id", "row").replace("lift", "Reasons")
    renamed = {"id": "row", "lift": "Reasons"}
    description = replace(
        HOUSES, columns=tuple(replace(each, name=renamed.get(each.name, each.name)) for each in COLUMNS)
    )
    rows = houses({(5, "rooms"): "many"})
    _, result = cleaned(write(tmp_path / "houses.csv", rows, header), tmp_path / "ok.csv", description)
    first_line = result.rejected_path.read_text().splitlines()[0]

    assert first_line == f"row_,{header},reasons_"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ok.txt", "its name says no format; end it in .csv"),
        ("ok.parquet.gz", "its name says no format"),
        ("ok", "its name says no format"),
        ("none/ok.csv", "is no folder; make it"),
        ("houses.csv", "is the table that is read"),
        ("folder.csv", "is a folder; name a file"),
    ],
)
def test_output_that_cannot_be_is_refused_first(tmp_path: Path, name: str, says: str) -> None:
    """An output without a format, in no folder, or in the place of the table is refused, and nothing is written."""
    path = write(tmp_path / "houses.csv", houses())
    (tmp_path / "folder.csv").mkdir()
    before = path.read_bytes()

    with pytest.raises(DataError, match=re.escape(says)):
        clean.check_output(tmp_path / name, str(path))
    if "is read" not in says:
        with pytest.raises(DataError, match=re.escape(says)):
            cleaned(path, tmp_path / name)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder.csv", "houses.csv"]


def test_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file cannot be put in its place, none of the temporary ones stays."""

    def full(*paths: Path) -> None:
        raise OSError(28, "No space left on device")

    path = write(tmp_path / "houses.csv", houses())
    monkeypatch.setattr("os.replace", full)

    with pytest.raises(DataError, match="cannot be written: "):
        cleaned(path, tmp_path / "ok.csv")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["houses.csv"]


@settings(max_examples=15, deadline=None)
@given(
    faults=st.lists(st.tuples(st.integers(0, N_ROWS - 1), st.sampled_from(FAULTS)), max_size=12),
    repeated=st.lists(st.integers(0, N_ROWS - 1), max_size=4),
    n_rows=st.integers(N_ROWS, 90),
)
def test_every_planted_fault_is_found_and_the_clean_table_has_none(
    faults: list[tuple[int, tuple[str, str, str]]], repeated: list[int], n_rows: int
) -> None:
    """Kept and rejected rows are all rows, the rejected are those with a fault, and the clean ones check clean."""
    planted = {(row, column): (cell, kind) for row, (column, cell, kind) in faults}
    rows = houses({place: cell for place, (cell, _) in planted.items()}, n_rows)
    rows += [rows[number] for number in repeated]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "houses.csv", rows)
        found, result = cleaned(path, Path(folder) / "ok.csv")
        rejected = {int(row[0]): row[1:-1] for row in read(result.rejected_path)}
        kept = read(result.kept_path)
        again, _ = cleaned(result.kept_path, Path(folder) / "again.csv")

    bad = {row for row, _ in planted} | set(range(n_rows, len(rows)))
    seen = {(kind, row) for each in found.broken for kind, row in ((each.rule.kind, row) for row in each.first_rows)}
    counts = {each.rule.kind: each.n_rows for each in found.broken}
    assert rejected == {row: rows[row] for row in bad}
    assert kept == [row for number, row in enumerate(rows) if number not in bad]
    assert result.n_kept + result.n_rejected == len(rows)
    for (row, column), (cell, kind) in planted.items():
        hidden = kind == "broken rule" and rows[row][NAMES.index("net")] == ""  # a rule of missing cells holds
        assert hidden or (kind, row) in seen or counts[kind] > 10, (row, column, cell)
    assert again.errors == ()
    assert {each.rule.kind for each in again.broken} <= {"missing", "outlier"}


def test_page_has_every_finding_and_runs_nothing(tmp_path: Path) -> None:
    """The page is one file with the findings and a picture of each column; a name or a cell cannot inject markup."""
    hostile = "<script>alert(1)</script>"
    header = HEADER.replace("zone", hostile)
    columns = tuple(replace(each, name=hostile, allowed=()) if each.name == "zone" else each for each in COLUMNS)
    rows = houses({(3, "zone"): "'\"><img src=x onerror=alert(2)>", (4, "rooms"): "</style><svg onload=alert(3)>"})
    with open_table(write(tmp_path / "<b>.csv", rows, header)) as relation:
        found = check(relation, replace(HOUSES, columns=columns), today=TODAY)
        quality.write_html(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()

    assert "&lt;script&gt;alert(1)" in page
    for harm in ("<script", "<img", "onload=alert(3)>'", "</style><svg", "<b>.csv", "http://", "https://"):
        assert harm not in page
    assert page.count("<svg") >= len(COLUMNS)
    assert page.count("What to do:") == len(found.findings)
    assert "default-src 'none'" in page
    assert sorted(each.name for each in tmp_path.iterdir()) == ["<b>.csv", "page.html"]


def test_json_states_every_fact(tmp_path: Path) -> None:
    """The document has the keys that docs/quality.md lists, and every count of the findings."""
    path = write(tmp_path / "houses.csv", houses({(5, "rooms"): "many", (6, "area"): "inf"}))
    found, result = cleaned(path, tmp_path / "ok.csv")
    document = json.loads(quality.to_json(found, result))
    wrong = next(each for each in document["findings"] if each["kind"] == "wrong type")

    assert document["version"] == 1
    assert (document["rows"], document["errors"], document["sha256"]) == (N_ROWS, 2, found.sha256)
    assert wrong == {
        "dimension": "accuracy",
        "kind": "wrong type",
        "severity": "error",
        "column": "rooms",
        "problem": "'many' is not a whole number",
        "rows": 1,
        "share": 1 / N_ROWS,
        "first_rows": [5],
        "examples": ["many"],
        "what_to_do": "correct the cells, say the column's type by --as, name texts that mean missing by --missing "
        "or in the schema file, or leave the rows out by check --clean",
    }
    assert [each["name"] for each in document["columns"]] == list(NAMES)
    assert document["age"]["newest"] == "2026-01-28"
    assert document["cleaned"]["kept"] + document["cleaned"]["rejected"] == N_ROWS


def test_command_ends_with_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the findings and returns 1 for errors, 0 for none; --json prints the document alone."""
    good, bad = write(tmp_path / "good.csv", houses()), write(tmp_path / "bad.csv", houses({(5, "rooms"): "many"}))
    old = ["--date", "sold", "--max-age", "1d"]

    assert main(["check", str(good), "--target", "gross"]) == 0
    assert capsys.readouterr().out.startswith("good.csv: 0 errors, ")
    assert main(["check", str(bad), "--as", "rooms=integer", "--clean", str(tmp_path / "ok.csv")]) == 1
    assert "clean: 60 rows = 59 kept + 1 rejected" in capsys.readouterr().out
    assert main(["check", str(good), *old, "--json", "--html", str(tmp_path / "page.html")]) == 1
    assert json.loads(capsys.readouterr().out)["errors"] == 1
    assert (tmp_path / "page.html").exists()
    assert main(["check", str(good), "--reject-outliers"]) == 1
    assert capsys.readouterr().err == "error: --reject-outliers needs --clean FILE\n"
    with pytest.raises(SystemExit):
        main(["check", str(good), "--max-age", "soon"])


@pytest.mark.parametrize(
    "content",
    [
        b"a\n1\n",
        b"a,b\n,\n,\n",
        b'"a ""x"" \'y\'",b;c\n1,2\n3,4\n',
        "A,a,\u202eb\n1,2,3\n4,5,6\n".encode(),
        ("a,b\n" + "x" * 100_000 + ",1\n1e308,-1e308\n").encode(),
        b"a,b\n" + b"1e308,9007199254740993\n-1e308,1\n" * 30,
        b"n,d\n" + b"\x01\x1b[31m,0001-01-01\n\x02,9999-12-31\n" * 20,
        b"t\n" + b"".join(b"2020-01-%02d\n" % (day % 28 + 1) for day in range(40)),
        (",".join(f"c{i}" for i in range(60)) + "\n" + (",".join(["1"] * 60) + "\n") * 3).encode(),
    ],
)
def test_hostile_table_ends_in_a_report(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """A strange table is reported on or refused in a sentence, and what is written is whole."""
    (tmp_path / "in.csv").write_bytes(content)
    output = tmp_path / "out.csv"
    status = main(["check", str(tmp_path / "in.csv"), "--clean", str(output), "--html", str(tmp_path / "page.html")])
    printed = capsys.readouterr()

    assert status == (0 if ": 0 errors, " in printed.out else 1)
    assert printed.err.startswith("error: ") or printed.out.startswith("in.csv: ")
    assert "\x1b" not in printed.out
    if output.exists():
        n_rows = len(read(output)) + len(read(tmp_path / "out.rejected.csv"))
        assert f"clean: {n_rows:,} rows" in printed.out
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
