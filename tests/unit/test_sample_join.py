"""The commands `sample` and `join`: which rows and cells are written, in which order, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import duckdb
import numpy as np
import pytest
from scipy import stats

from model.cli.main import main
from model.table import sample as sampling

ROWS = 1_000


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of CSV with a number for each row, and cells that need quotes."""
    path = tmp_path / "in.csv"
    path.write_text("n;text\n" + "".join(f'{n};"a ""{n}"";\n ü 🏠"\n' for n in range(ROWS)))
    return path


def cells(query: str) -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    return duckdb.connect().execute(query).fetchall()


def numbers(path: Path) -> list[int]:
    """Return the column n of any file that was written."""
    return [int(str(n)) for (n,) in cells(f"SELECT n FROM '{path}'")]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "csv.zst", "jsonl", "parquet"])
def test_sample_keeps_rows_whole_and_in_order(table: Path, tmp_path: Path, suffix: str) -> None:
    """A sample has so many different rows in the table's order, with their cells; the same seed gives the same."""
    samples = []
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        output = tmp_path / f"{name}.{suffix}"
        assert main(["sample", str(table), str(output), "-n", "100", "--seed", seed]) == 0
        samples.append(numbers(output))
    assert samples[0] == samples[1] == sorted(set(samples[0]))
    assert len(samples[0]) == 100
    assert samples[2] != samples[0]
    assert cells(f"SELECT text FROM '{tmp_path / f'a.{suffix}'}'") == [(f'a "{n}";\n ü 🏠',) for n in samples[0]]


def test_sample_of_csv_is_written_as_the_table_is(table: Path, tmp_path: Path) -> None:
    """CSV has the separator and the quotes of the table; a sample of more rows than there are is the whole table."""
    output = tmp_path / "out.csv.gz"
    assert main(["sample", str(table), str(output), "-n", "5000"]) == 0

    lines = gzip.decompress(output.read_bytes()).decode().splitlines()
    assert lines[:3] == ["n;text", '0;"a ""0"";', ' ü 🏠"']
    assert numbers(output) == list(range(ROWS))


@pytest.mark.parametrize(("n_rows", "k"), [(1_000, 15), (1_000, 400), (20_000, 300)])
def test_sample_is_uniform(n_rows: int, k: int) -> None:
    """Over many seeds every row is drawn equally often, and neighbours are not drawn together more often than others.

    The seeds are fixed, so that the test gives the same verdict each time. 300 of 20,000 rows are drawn one by one, the
    others from a list of all.
    """
    n_seeds = 1_000
    drawn = np.zeros((n_seeds, n_rows), dtype=bool)
    for seed in range(n_seeds):
        drawn[seed, sampling.draw(n_rows, k, seed=seed)] = True
    assert (drawn.sum(axis=1) == k).all()
    counts = drawn.sum(axis=0)
    expected = n_seeds * k / n_rows
    # Without replacement the variance is smaller by what is left of the table.
    chi_square = ((counts - expected) ** 2 / (expected * (1 - k / n_rows))).sum()
    assert 0.001 < stats.chi2(n_rows - 1).cdf(chi_square) < 0.999
    pairs = (drawn[:, 1:] & drawn[:, :-1]).sum()
    mean = n_seeds * k * (k - 1) / n_rows
    assert abs(pairs - mean) < 4 * np.sqrt(mean)


def test_join_states_rows_and_cells(tmp_path: Path) -> None:
    """An inner join has the rows of both, in the first table's order; cells that one lacks come from the other."""
    (tmp_path / "a.csv").write_text("id,name,area\n3,C,30\n1,A,\n2,B,20\n,nobody,1\n")
    (tmp_path / "b.jsonl").write_text(
        "".join(
            json.dumps(row) + "\n" for row in [{"id": 1, "area": 10, "x": 0.1}, {"id": 3, "x": 0.3}, {"id": 9, "x": 1}]
        )
    )

    def rows(how: str) -> list[tuple[object, ...]]:
        words = ["join", str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl"), "--on", "id", "--how", how]
        assert main([*words, str(tmp_path / "out.csv")]) == 0
        return cells(f"SELECT * FROM read_csv('{tmp_path / 'out.csv'}', all_varchar = true)")

    both = [("3", "C", "30", "0.3"), ("1", "A", "10", "0.1")]
    left = [*both, ("2", "B", "20", None), (None, "nobody", "1", None)]
    assert rows("inner") == both
    assert rows("left") == left
    assert rows("outer") == [*left, ("9", None, None, "1.0")]
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "id,name,area,x"


def test_join_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line at the end counts the rows of each table that have no other."""
    (tmp_path / "a.csv").write_text("id,a\n1,x\n2,x\n3,x\n")
    (tmp_path / "b.csv").write_text("id,b\n3,y\n4,y\n")
    output = tmp_path / "out.parquet"
    assert main(["join", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), str(output), "--on", "id"]) == 0

    assert capsys.readouterr().out == f"1 rows in {output}; without another: 2 of A, 1 of B\n"


@pytest.mark.parametrize(("rule", "values"), [("left", ["1", "5", "3"]), ("right", ["9", "5", "3"])])
def test_conflicts(tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: str, values: list[str]) -> None:
    """Different values of the same row are an error that names them, unless a rule says whose count."""
    (tmp_path / "a.csv").write_text("id,day,price\na,1,1\nb,1,\nc,1,3\n")
    (tmp_path / "b.csv").write_text("id,day,price\na,1,9\nb,1,5\nc,1,\n")
    words = ["join", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), str(tmp_path / "out.csv"), "--on", "id"]
    assert main([*words, "--on", "day"]) == 1
    assert not (tmp_path / "out.csv").exists()
    lines = capsys.readouterr().err.splitlines()[-2:]
    assert lines[0].startswith("error: a.csv and b.csv have different values of the same row; say whose count")
    assert lines[1] == "  column 'price': 1 row, such as 'a', '1' with '1' and '9'"

    assert main([*words, "--on", "day", "--conflict", rule]) == 0
    assert [line.split(",")[-1] for line in (tmp_path / "out.csv").read_text().split()[1:]] == values


def test_numbers_of_two_types_are_compared_as_numbers(tmp_path: Path) -> None:
    """4 in one table of JSON is 4.0 in another: no conflict."""
    (tmp_path / "a.jsonl").write_text('{"id": 1, "x": 4}\n{"id": 2, "x": 5}\n')
    (tmp_path / "b.jsonl").write_text('{"id": 1, "x": 4.0}\n{"id": 2, "x": 5.0}\n{"id": 3, "x": 0.5}\n')

    output = tmp_path / "out.jsonl"
    assert main(["join", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--on", "id", str(output)]) == 0
    assert [json.loads(line) for line in output.read_text().splitlines()] == [{"id": 1, "x": 4.0}, {"id": 2, "x": 5.0}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([7.0, 8, None], ["7", "8.0"]),
        ([7, 8.5, 8.0], ["7", "8.0"]),
        (["2026-01-31", "2026-02-01"], ["2026-01-31"]),
        (["2026-01-31T10:00:00+02:00", "2026-01-31T08:00:00Z"], ["2026-01-31T08:00:00Z"]),
        (["007", "8"], ["007"]),
        ([True, False], ["true"]),
    ],
)
def test_keys_of_two_types(tmp_path: Path, given: list[object], expected: list[str]) -> None:
    """A key in CSV is that of JSON if it says the same number; texts are compared as they are."""
    (tmp_path / "a.csv").write_text("id\n7\n007\n8.0\n2026-01-31\n2026-01-31T08:00:00Z\ntrue\n9.50\n")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"id": key, "x": 1}) + "\n" for key in given))
    words = [str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl"), str(tmp_path / "out.csv")]
    assert main(["join", *words, "--on", "id"]) == 0
    assert (tmp_path / "out.csv").read_text().splitlines()[1:] == [f"{key},1" for key in expected]

    assert main(["join", words[1], words[0], str(tmp_path / "out.jsonl"), "--on", "id"]) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(expected)


def test_keys_whose_digits_are_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole numbers that float64 does not have exactly are no keys, since others would be equal to them."""
    (tmp_path / "a.csv").write_text("id\n9007199254740993\n")
    (tmp_path / "b.jsonl").write_text('{"id": 9007199254740993, "x": 1}\n{"id": 0.5, "x": 2}\n')
    words = [str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl"), str(tmp_path / "out.csv")]
    assert main(["join", *words, "--on", "id"]) == 1
    assert "error: b.jsonl has numbers beyond 2^53 in the key 'id'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["sample", "-n", "1"], ["join", "in.csv", "--on", "id"]])
def test_names_that_differ_in_case_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Columns whose names differ in upper case alone are refused: one of them would be written by another name."""
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("id,ID\n1,2\n")
    assert main([words[0], "in.csv", *words[1:2] * (words[0] == "join"), "out.csv", *words[-2:]]) == 1
    assert "error: out.csv cannot have both columns 'id' and 'ID'" in capsys.readouterr().err
    assert not Path("out.csv").exists()


def test_repeated_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys that repeat are refused with their values, or every pair is written; missing ones do not repeat."""
    (tmp_path / "a.csv").write_text("id,a\nx,1\nx,2\ny,3\n,4\n,5\n")
    (tmp_path / "b.csv").write_text("id,b\nx,7\nx,8\n")
    words = ["join", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), str(tmp_path / "out.csv"), "--on", "id"]
    assert main(words) == 1
    assert "\nerror: a.csv has several rows with the same key: id 'x' (2 rows); " in capsys.readouterr().err

    assert main([*words, "--repeated"]) == 0
    assert (tmp_path / "out.csv").read_text().split()[1:] == ["x,1,7", "x,1,8", "x,2,7", "x,2,8"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["sample", "in.csv", "out.txt", "-n", "1"], "out.txt: its name says no format; end it in "),
        (["sample", "in.csv", "nowhere/out.csv", "-n", "1"], "nowhere is no folder; make it, or name another output"),
        (["sample", "in.csv", "in.csv", "-n", "1"], "in.csv is the table that is read; name another output"),
        (["sample", "in.csv", "out.csv", "-n", "1", "--seed", "-1"], "the seed is -1; give a whole number"),
        (["sample", "none.csv", "out.csv", "-n", "1"], "none.csv cannot be read: No such file"),
        (["join", "in.csv", "in.csv", "out.csv", "--on", "m"], "in.csv has no column 'm'"),
        (["join", "in.csv", "none.csv", "in.csv", "--on", "n"], "in.csv is the table that is read"),
    ],
)
def test_what_cannot_be_done(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], error: str
) -> None:
    """A table or file that cannot be used is named in one line with what to do, and nothing is written."""
    monkeypatch.chdir(table.parent)
    before = table.read_bytes()

    assert main(words) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {error}")
    assert (table.read_bytes(), [path.name for path in table.parent.iterdir()]) == (before, ["in.csv"])
