"""The reports of the benchmarks: what the tables say, and that the tables of the last run are those of its figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import arrow, bulk, explanations, families, families_report, first_answer, own_table, report, shadow
from benchmarks.contenders import PEERS
from benchmarks.families_report import ALONE, LIBRARY, OURS, RANDOM, SPLITS, Difference, Engine, Measured
from benchmarks.servers import with_named
from benchmarks.trees import BINARY, FAMILIES, LARGE, REGRESSION, SMALL
from model import Store
from tests.support.service import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of the rows of all tables."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


@pytest.mark.parametrize(
    ("reporting", "figures", "tables"),
    [
        (report, "results.json", "table.md"),
        (families_report, "families.json", "families.md"),
        (first_answer, "first-answer.json", "first-answer.md"),
        (own_table, "own-table.json", "own-table.md"),
        (shadow, "shadow.json", "shadow.md"),
        (arrow, "arrow.json", "arrow.md"),
        (bulk, "bulk.json", "bulk.md"),
        (explanations, "explanations.json", "explanations.md"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tables_are_of_their_figures(reporting: Any, figures: str, tables: str) -> None:
    """The tables of the last run are what is made of its figures; neither is there without the other."""
    assert (RESULTS / figures).exists() == (RESULTS / tables).exists()
    if (RESULTS / figures).exists():
        assert (RESULTS / tables).read_text() == reporting.render(reporting.Results.read(RESULTS / figures))


@pytest.fixture
def of_families() -> families_report.Results:
    """A run with every kind of result."""

    def timed(one_row: float) -> dict[int, list[float]]:
        return {1: [one_row, 999.0, one_row], 100: [2.0] * 3, 10_000: [1.0] * 3}

    same = {RANDOM: Difference(0, 0, 0.0), SPLITS: Difference(0, 0, 0.0)}
    other = {RANDOM: Difference(1_234, 0, 3e-7), SPLITS: Difference(500, 40, 0.25)}
    engines = {
        LIBRARY: Engine("float64", microseconds=timed(700)),
        OURS: Engine("float64", differences=same, microseconds=timed(13)),
        ALONE: Engine("float64", microseconds=timed(10)),
        "onnx": Engine("float32", differences=other, microseconds=timed(9)),
        "treelite": Engine(problem="TypeError: no such model"),
        "hummingbird": Engine("float32", differences=same, microseconds=timed(500)),
    }
    tried = {RANDOM: 50_000, SPLITS: 6_000}
    return families_report.Results(
        {"CPU": "a fast one"},
        rounds=3,
        converters={"treelite": "4.8.1"},
        models=[
            Measured("lightgbm", REGRESSION, LARGE, "4.7.0", "", 1_000, 255_000, tried, engines),
            Measured("xgboost", BINARY, SMALL, problem="Killed"),
        ],
    )


def test_differences_of_families(of_families: families_report.Results) -> None:
    """A row of each kind that was tried: what differs, in which type, or why there is nothing."""
    text = families_report.render(of_families)
    title = "LightGBM 4.7.0: 1,000 trees, 255,000 leaves"

    assert [row for row in rows_of(text) if row[1].endswith(("random", "at splits"))] == [
        [
            *[title, "50,000 random", "0", "1,234 / 0 / 3e-07 (float32)"],
            *["not converted: TypeError: no such model", "0 (float32)"],
        ],
        ["", "6,000 at splits", "0", "500 / 40 / 2e-01 (float32)", "", "0 (float32)"],
    ]
    assert "Tabserve: 0 of 56,000 rows differ in any bit." in text
    assert "a fast one; treelite 4.8.1" in text


def test_times_of_families(of_families: families_report.Results) -> None:
    """Times are medians; a row that takes longer than aimed at is named, and a model that failed has its reason."""
    text = families_report.render(of_families)
    title = "LightGBM 4.7.0: 1,000 trees, 255,000 leaves"

    assert [title, "1", "700.0", "13.0", "10.0", "9.0", "", "500.0", "1.30"] in rows_of(text)
    assert f"more than 1.2 times what ONNX Runtime alone takes on the same graph: {title} (1.30)." in text
    assert text.splitlines()[-1] == "XGBoost, binary: small: Killed"


def test_families_can_be_read_again(of_families: families_report.Results, tmp_path: Path) -> None:
    """The tables can be made from the file of results, without another run."""
    of_families.write(tmp_path / "families.json")

    assert families_report.Results.read(tmp_path / "families.json") == of_families


def test_families_are_fitted_models_of_their_libraries() -> None:
    """Each family makes the estimators of its tasks, of either size, with one job."""
    for name, family in FAMILIES.items():
        for task in family.tasks:
            for size in (SMALL, LARGE):
                pytest.importorskip(family.path.partition(".")[0])
                estimator = family.make(task, size)
                assert hasattr(estimator, "predict_proba") == (task != REGRESSION), name
                assert {estimator.get_params().get(key, 1) for key in ("n_jobs", "thread_count")} == {1}, name


def test_converters_have_our_versions() -> None:
    """The converters are compared in an environment with our versions, but for one that they do not work with."""

    def pins(text: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==(\S+)", text.lower().replace("_", "-"), re.MULTILINE))

    requirements = PEERS / families.ENVIRONMENT / "requirements.txt"
    theirs = pins("\n".join(file.read_text() for file in with_named(requirements)))
    names = ("constraints.txt", "requirements.txt", "requirements-serve.txt", "requirements-extras.txt")
    ours = pins("\n".join((ROOT / name).read_text() for name in names))
    different = {name for name in theirs if ours.get(name, theirs[name]) != theirs[name]}

    assert {"numpy", "scikit-learn", "onnxruntime", "xgboost-cpu", "lightgbm", "catboost"} <= set(theirs)
    assert different == {"protobuf"}


def test_first_answers() -> None:
    """Each way has a line: the seconds of a round are added before the median is taken; a failure has its reason."""
    found = {
        "tabserve": first_answer.Found("Tabserve", "0.1.0", 3, "", [5.0, 9.0, 6.0], [1.0] * 3, [0.5] * 3, 200, 0, 200),
        "mlflow": first_answer.Found("MLflow", "3.17.2", 5, "", [1.0], [2.0], [3.0], 150, 50, 200),
        "litserve": first_answer.Found("LitServe", "0.2", 18, "not installed"),
    }
    text = first_answer.render(first_answer.Results({"CPU": "a fast one"}, 3, 3_000, 9, found))

    assert rows_of(text)[2:] == [
        ["Tabserve 0.1.0", "3", "7.5", "6.0", "1.0", "0.5", "200 of 200"],
        ["MLflow 3.17.2", "5", "6.0", "1.0", "2.0", "3.0", "150 of 200, 50 refused"],
        ["LitServe 0.2", "18", "not installed", "", "", "", ""],
    ]


def test_first_answers_can_be_read_again(tmp_path: Path) -> None:
    """The table can be made from the file of results, without another run."""
    found = {"mlflow": first_answer.Found("MLflow", "3.17.2", 5, "", [1.0], [2.0], [3.0], 150, 50, 200)}
    results = first_answer.Results({"CPU": "a fast one"}, 3, 3_000, 9, found)
    results.write(tmp_path / "first-answer.json")

    assert first_answer.Results.read(tmp_path / "first-answer.json") == results


def test_lines_are_counted_as_written() -> None:
    """A way's lines are its statements, without blank ones, and the command: ours are an import, a call, `make run`."""
    assert first_answer.lines_of("tabserve") == 3
    assert set(first_answer.WAYS) == {path.parent.name for path in first_answer.FOLDER.glob("*/save.py")}


def test_ratios_of_formats(tmp_path: Path) -> None:
    """A ratio is the median of the rounds' ratios, in which both formats took turns. The file can be read again."""
    found = arrow.Found(
        {"1": {"JSON": [10.0, 20.0, 40.0], "Arrow": [60.0, 80.0, 200.0]}},
        {"nothing": [2.0, 1.0, 4.0], "JSON": [8.0, 3.0, 16.0], "Arrow": [3.0, 2.0, 4.0]},
    )
    results = arrow.Results({"CPU": "a fast one"}, 3, 1, {"JSON": 869_745, "Arrow": 480_744}, {"as shipped": found})
    results.write(tmp_path / "arrow.json")
    text = arrow.render(results)

    assert arrow.Results.read(tmp_path / "arrow.json") == results
    assert rows_of(text)[2] == ["as shipped", "1", "20.0", "80.0", "5.00"]
    assert rows_of(text)[-1] == ["as shipped", "2.00", "8.00", "3.00", "4.00", "1.50"]


def test_ratios_of_shadows(tmp_path: Path) -> None:
    """A ratio is the median of the rounds' ratios, in which both servers took turns, with its interval: of nine rounds
    the second and the eighth, which have the median between them with 96 %. The file can be read again.
    """
    servers = {
        "without": shadow.Found([0.5] * 9, [2.0, 1.0, 4.0] * 3, [6_000.0] * 9),
        "with": shadow.Found([0.5] * 7 + [0.4, 1.0], [2.0, 1.1, 4.8] * 3, [5_940.0] * 9, 1_000, 900),
    }
    results = shadow.Results({"CPU": "a fast one"}, 9, 10, 3_000, servers)
    results.write(tmp_path / "shadow.json")
    text = shadow.render(results)

    assert shadow.Results.read(tmp_path / "shadow.json") == results
    assert rows_of(text)[2:] == [
        ["p50 ms, 3,000 requests/s", "0.500", "0.500", "1.000", "1.000 to 1.000"],
        ["p99 ms, 3,000 requests/s", "2.000", "2.000", "1.100", "1.000 to 1.200"],
        ["requests/s, 8 connections of wrk", "6,000", "5,940", "0.990", "0.990 to 0.990"],
    ]
    assert "Of 1,000 rows the shadow answered and compared 90.0%" in text


def test_bulk_report_has_ratios_and_failures() -> None:
    """Each size and format has a table with the ratio to pandas in it; a way that failed has its reason."""
    runs = [
        bulk.Run("tabserve", "csv", 1_000_000, 2.0, 321.4, 0),
        bulk.Run("pandas", "csv", 1_000_000, 20.0, 1_234.5, 7),
        bulk.Run("duckdb", "csv", 1_000_000, 1.0, problem="it broke"),
        bulk.Run("tabserve", "parquet", 1_000_000, 1.0, 300.0, 0),
    ]
    found = rows_of(bulk.render(bulk.Results({"date": "2026-11-27"}, runs)))

    assert found[2:5] == [
        ["Tabserve: `python -m model predict`", "2.0", "500,000", "10.0", "321", "0"],
        ["pandas with the fitted pipeline", "20.0", "50,000", "1.0", "1,234", "7"],
        ["DuckDB, with our engine as a function", "not measured: it broke", "", "", "", ""],
    ]
    assert found[7] == ["Tabserve: `python -m model predict`", "1.0", "1,000,000", "", "300", "0"]


def test_bulk_outputs_are_compared_cell_by_cell(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell with another last bit counts, of an input's column or a prediction; rows that are missing count whole."""
    monkeypatch.setattr(bulk, "CHUNK_ROWS", 300)
    model = Store(store).load("boston-housing")
    names = model.schema.names
    files = bulk.write_table(names, 1_000, tmp_path)
    table = pd.read_parquet(files["parquet"])
    assert [bulk.count_different(model, file, 1_000, is_answered=False) for file in files.values()] == [0, 0]

    predictions = model.predict(table[list(names)].to_numpy(np.float64))
    cells = table["LSTAT"].to_numpy(np.float64, copy=True)
    output = tmp_path / "out.csv"
    table.assign(prediction=predictions).to_csv(output, index=False)
    assert bulk.count_different(model, output, 1_000, is_answered=True) == 0
    predictions[700], cells[3] = np.nextafter(predictions[700], np.inf), np.nextafter(cells[3], np.inf)
    table = table.assign(prediction=predictions, LSTAT=cells)
    table.to_csv(output, index=False)
    assert bulk.count_different(model, output, 1_000, is_answered=True) == 2
    table[:-1].to_csv(output, index=False)
    assert bulk.count_different(model, output, 1_000, is_answered=True) > 1_000
