"""Owns the report: its figures are right, it states what is unknown, and it is one self-contained page."""

from __future__ import annotations

import html
import json
import math
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pytest
from numpy.typing import NDArray
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from model import Artifact, PredictionLogError, Store
from model.cli.main import main
from model.live import report
from model.live.judge import MINIMUM_ROWS, MINIMUM_TRUTHS, Verdict, judge
from model.live.prediction_log import PredictionLog
from model.metrics import Scores, rmse_interval
from model.plots import live as plots
from model.store import artifact
from tests.support.postgres import run_postgres
from tests.support.service import COLUMNS, rewrite

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MODEL = "boston-housing"

Matrix = NDArray[np.float64]


class Page(HTMLParser):
    """A parsed report: verdicts, rows of the tables, text, and everything that would load something."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.verdicts: list[tuple[str, str]] = []
        self.rows: dict[str, list[str]] = {}
        self.text = ""
        self.tags: list[str] = []
        self.links: list[str] = []
        self.pictures: list[str] = []
        self._row: list[str] | None = None
        self._verdict: str | None = None
        self._ignored = 0
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = {key: value or "" for key, value in attributes}
        self.tags.append(tag)
        self.links += [value for key, value in named.items() if key in ("href", "src", "action", "srcset", "data")]
        self.pictures += [named["alt"]] if tag == "img" else []
        if tag == "tr":
            self._row = []
        elif tag == "td" and self._row is not None:
            self._row.append("")
        elif tag == "li":
            self.verdicts.append((named["class"], ""))
            self._verdict = ""
        self._ignored += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr" and self._row:
            name, *cells = (cell.strip() for cell in self._row)
            self.rows[name] = cells
            self._row = None
        elif tag == "li":
            self._verdict = None
        self._ignored -= tag in ("style", "script")

    def handle_data(self, text: str) -> None:
        if self._ignored:
            return
        self.text += text
        if self._row:
            self._row[-1] += text
        if self._verdict is not None:
            which, sentence = self.verdicts[-1]
            self.verdicts[-1] = which, sentence + text

    def verdict(self, words: str) -> str:
        """Return the kind of the only verdict that contains these words."""
        (kind,) = [kind for kind, sentence in self.verdicts if words in sentence]
        return kind


@pytest.fixture(scope="module")
def model(store: Path) -> Artifact:
    """The trained model."""
    return Store(store).load(MODEL)


@pytest.fixture(scope="module")
def table(houses: pd.DataFrame) -> Matrix:
    """The features of all 506 rows."""
    return houses.to_numpy()


def log_rows(
    where: Path | str,
    X: Matrix,
    predictions: Matrix,
    *,
    ages: Matrix | None = None,
    truths: Matrix | None = None,
    with_features: bool = True,
    version: int = 1,
    now: datetime = NOW,
) -> str:
    """Write a log of rows, each some days old and the last of them new, with truths where they are not NaN.

    It is in a file or at a URL.
    """
    ages = np.linspace(20, 0.01, len(predictions)) if ages is None else ages
    url = where if isinstance(where, str) else f"sqlite:///{where}"
    log = PredictionLog(url)
    log.write(
        [
            {
                "request_id": f"{version}-{i}",
                "row": 0,
                "time": now - timedelta(days=float(ages[i])),
                "model": MODEL,
                "version": version,
                "features": dict(zip(COLUMNS, X[i].tolist())) if with_features else None,
                "prediction": float(predictions[i]),
            }
            for i in range(len(predictions))
        ]
    )
    if truths is not None:
        known = np.flatnonzero(~np.isnan(truths))
        log.add_truths([(f"{version}-{i}", 0, float(truths[i])) for i in known], oldest=now - timedelta(days=900))
    log.close()
    return url


def render(model: Artifact, url: str, folder: Path, *, days: int = 30) -> Page:
    """Return a report's parsed page."""
    log = PredictionLog(url, read_only=True)
    try:
        report.write(model, log, folder / "report.html", days=days, now=NOW)
    finally:
        log.close()
    return Page((folder / "report.html").read_text())


def plain_psi(live: Matrix, facts: dict[str, Any]) -> float:
    """Return the index by its textbook sum, with half a row for an empty bin, without any of the model's code."""
    cuts = [-np.inf, *facts["edges"][:-1], np.inf]  # what is outside counts in the bin beside it
    counts = [sum(low < value <= high for value in live) for low, high in pairwise(cuts)]
    shares = [max(count, 0.5) / len(live) for count in counts]
    return sum(((p - q) * math.log(p / q) for p, q in zip(shares, facts["shares"])), 0.0)


def plain_ks(live: Matrix, facts: dict[str, Any]) -> float:
    """Return the largest distance of the distribution functions at the minimum and the edges, by counting."""
    at = [np.nextafter(facts["minimum"], -np.inf), *facts["edges"]]
    training = [0.0, *np.cumsum(facts["shares"])]
    return max(abs(float(np.mean(live <= cut)) - float(share)) for cut, share in zip(at, training))


def test_figures_are_those_of_independent_computations(
    model: Artifact, store: Path, table: Matrix, tmp_path: Path
) -> None:
    """Every number of the tables is that of NumPy and scikit-learn for the same rows."""
    rng = np.random.default_rng(1)
    X = table[rng.integers(0, len(table), 700)]
    X[:, 1] += 0.7
    predictions = model.predict(X)
    truths = np.where(rng.random(700) < 0.4, predictions + rng.normal(1, 6, 700), np.nan)
    page = render(model, log_rows(tmp_path / "log.db", X, predictions, truths=truths), tmp_path)
    known = ~np.isnan(truths)
    y, predicted = truths[known], predictions[known]
    validation = validation_of(model)
    reference = json.loads((store / MODEL / "1" / "reference.json").read_text())

    live = {name: float(cells[0].replace(",", "")) for name, cells in page.rows.items()}
    assert live["rows"] == known.sum()
    assert live["RMSE, root mean squared error"] == pytest.approx(root_mean_squared_error(y, predicted), rel=5e-4)
    assert live["MAE, mean absolute error"] == pytest.approx(mean_absolute_error(y, predicted), rel=5e-4)
    assert live["bias, predicted less true"] == pytest.approx(np.mean(predicted - y), rel=5e-4)
    assert live["R²"] == pytest.approx(r2_score(y, predicted), rel=5e-4)
    assert float(page.rows["RMSE, root mean squared error"][-1]) == pytest.approx(validation.rmse, rel=5e-4)
    columns = {**dict(zip(COLUMNS, X.T)), "prediction": predictions}
    facts = {**reference["features"], "prediction": reference["prediction"]}
    for name, values in columns.items():
        rows, missing, outside, psi, psi_threshold, ks, ks_threshold, verdict = page.rows[name]
        beyond = np.mean((values < facts[name]["minimum"]) | (values > facts[name]["edges"][-1]))
        assert (rows, missing, outside) == ("700", "0.0%", f"{beyond:.1%}"), name
        assert float(psi) == pytest.approx(plain_psi(values, facts[name]), abs=5.1e-4), name
        assert float(ks) == pytest.approx(plain_ks(values, facts[name]), abs=5.1e-4), name
        drifts = float(psi) > float(psi_threshold) or float(ks) > float(ks_threshold)
        assert verdict == ("drifts" if drifts else "no drift")
    assert page.rows["RM"][-1] == "drifts"
    assert page.rows["LSTAT"][-1] == "no drift"
    assert page.verdict("1 of 6 features drifted away from training: RM (PSI") == "attention"


def validation_of(model: Artifact) -> Scores:
    """Return how good the model is on the rows that were held out."""
    assert isinstance(model.manifest.metrics.validation, Scores)
    return model.manifest.metrics.validation


@pytest.mark.parametrize(("rows", "kind"), [(29, "unknown"), (30, "attention")])
def test_live_error_is_judged_from_thirty_truths(
    model: Artifact, table: Matrix, tmp_path: Path, rows: int, kind: str
) -> None:
    """The live error is judged from 30 truths on; ten times the validation error is more than chance explains."""
    predictions = model.predict(table[:50])
    truths = np.where(np.arange(50) < rows, predictions - 10 * validation_of(model).rmse, np.nan)
    page = render(model, log_rows(tmp_path / "log.db", table, predictions, truths=truths), tmp_path)

    assert page.verdict("live error") == kind


@pytest.mark.parametrize(("factor", "verdict"), [(0.999, Verdict.FINE), (1.001, Verdict.ATTENTION)])
def test_limit_of_the_live_error(
    model: Artifact, table: Matrix, tmp_path: Path, factor: float, verdict: Verdict
) -> None:
    """The limit is validation's RMSE, 10 % more, and three deviations of both figures."""
    n, validation = 200, validation_of(model)
    limit = validation.rmse * (1.1 + 3 * (2 / n + 2 / validation.rows) ** 0.5)
    predictions = model.predict(table[:n])
    truths = predictions + limit * factor * np.where(np.arange(n) % 2, 1, -1)
    log = PredictionLog(log_rows(tmp_path / "log.db", table, predictions, truths=truths))
    logged = log.read(MODEL, 1, features=COLUMNS, since=NOW - timedelta(days=30))
    log.close()
    errors = judge(model, logged).whole.errors

    assert errors
    assert errors.limit == pytest.approx(limit, rel=1e-12)
    assert errors.verdict == verdict


@pytest.mark.parametrize(("rows", "verdict"), [(MINIMUM_ROWS - 1, "too few rows"), (MINIMUM_ROWS, "drifts")])
def test_drift_is_judged_from_a_hundred_rows(
    model: Artifact, table: Matrix, tmp_path: Path, rows: int, verdict: str
) -> None:
    """Below 100 rows there is no verdict, however large the drift is."""
    X = table[:rows] + 1000
    page = render(model, log_rows(tmp_path / "log.db", X, model.predict(X)), tmp_path)

    assert {page.rows[name][-1] for name in COLUMNS} == {verdict}


def test_drift_that_has_just_begun_is_told(model: Artifact, table: Matrix, tmp_path: Path) -> None:
    """Drift and errors in only the last seven days are reported, even if earlier days hide them."""
    rng = np.random.default_rng(2)
    X = table[rng.integers(0, len(table), 3000)]
    ages = np.linspace(29, 0.01, 3000)
    is_new = ages < 4
    X[is_new, 5] += 8
    predictions = model.predict(X)
    truths = predictions + np.where(ages < 7, 12, 1) * rng.normal(size=3000)
    page = render(model, log_rows(tmp_path / "log.db", X, predictions, ages=ages, truths=truths), tmp_path)

    assert page.rows["LSTAT"][-1] == "no drift"
    assert page.verdict("Drift in the last 7 days alone: LSTAT (") == "attention"
    assert page.verdict("The live error is within") == "fine"
    assert page.verdict("In the last 7 days alone, the live error is further beyond validation") == "attention"


def test_features_that_are_not_logged(model: Artifact, table: Matrix, tmp_path: Path) -> None:
    """Without features, the report says how to log them, and still judges predictions and errors."""
    predictions = model.predict(table)
    url = log_rows(tmp_path / "log.db", table, predictions, truths=predictions + 1, with_features=False)
    page = render(model, url, tmp_path)

    assert page.verdict("Drift of the features is unknown") == "unknown"
    assert "TABSERVE_PREDICTION_LOG_FEATURES=0.01" in page.text
    assert page.rows["prediction"][-1] == "no drift"
    assert "RM" not in page.rows
    assert page.rows["RMSE, root mean squared error"][0] == "1.000"
    assert not [alt for alt in page.pictures if "each bin, live and in training, for each feature" in alt]


def test_features_that_are_logged_since_lately(model: Artifact, table: Matrix, tmp_path: Path) -> None:
    """Rows from before features were logged count for the predictions, and not as missing values."""
    predictions = model.predict(table)
    path = tmp_path / "log.db"
    log_rows(path, table, predictions, ages=np.linspace(20, 10, 506), with_features=False)
    rows = np.random.default_rng(0).permutation(506)[:200]
    log = PredictionLog(f"sqlite:///{path}")
    log.write(
        [
            {
                "request_id": f"new-{i}",
                "row": 0,
                "time": NOW - timedelta(days=1),
                "model": MODEL,
                "version": 1,
                "features": dict(zip(COLUMNS, table[i].tolist())),
                "prediction": float(predictions[i]),
            }
            for i in rows
        ]
    )
    log.close()
    page = render(model, f"sqlite:///{path}", tmp_path)

    assert (page.rows["RM"][:2], page.rows["prediction"][0]) == (["200", "0.0%"], "706")
    assert page.rows["RM"][-1] == "no drift"


def test_missing_values_are_told(model: Artifact, table: Matrix, tmp_path: Path) -> None:
    """A feature that is missing in many rows is reported with its share, and its other values are judged."""
    X = table.copy()
    X[::10, 2] = np.nan
    url = log_rows(tmp_path / "log.db", X, model.predict(table))
    connection = sqlite3.connect(tmp_path / "log.db")
    with connection:
        connection.execute("""UPDATE predictions SET features = json_remove(features, '$.TAX')
                              WHERE json_extract(features, '$.TAX') IS NULL""")
    connection.close()
    page = render(model, url, tmp_path)

    assert page.rows["TAX"][:2] == ["506", f"{51 / 506:.1%}"]
    assert page.rows["TAX"][-1] == "drifts"
    assert page.verdict("TAX (missing in 10.1%)") == "attention"


@pytest.mark.parametrize("truths", [0, 1, 2])
def test_hardly_any_truth(model: Artifact, table: Matrix, tmp_path: Path, truths: int) -> None:
    """Without truths, or with one or two, the error is unknown, and the rest of the report is complete."""
    predictions = model.predict(table)
    known = np.where(np.arange(506) < truths, predictions + np.arange(506), np.nan)
    page = render(model, log_rows(tmp_path / "log.db", table, predictions, truths=known), tmp_path)

    assert page.verdict("live error") == "unknown"
    assert ("POST /feedback" in page.text) == (truths == 0)
    assert page.rows["RM"][-1] == "no drift"


def test_nothing_was_logged(model: Artifact, table: Matrix, tmp_path: Path) -> None:
    """For a version without rows in that time, the report says so, and lists the versions with rows."""
    url = log_rows(tmp_path / "log.db", table, model.predict(table), version=3)
    log_rows(tmp_path / "log.db", table, model.predict(table), ages=np.full(506, 40.0))
    page = render(model, url, tmp_path)

    assert page.verdicts[0][0] == "unknown"
    assert "Nothing was logged for boston-housing version 1 in the last 30 days" in page.text
    assert "version 3 with 506 rows" in page.text
    assert page.pictures == []


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_a_few_rows(model: Artifact, table: Matrix, tmp_path: Path, rows: int) -> None:
    """A log of one row, or of rows at one moment, gives a report."""
    predictions = model.predict(table[:rows])
    url = log_rows(
        tmp_path / "log.db", table, predictions, ages=np.full(rows, 0.5), truths=np.full(rows, predictions[0])
    )
    page = render(model, url, tmp_path)

    assert page.rows["prediction"][0] == str(rows)
    assert page.verdict("live error") == ("unknown" if rows < MINIMUM_TRUTHS else "fine")


def test_largest_values(model: Artifact, table: Matrix, tmp_path: Path) -> None:
    """The largest accepted truths break no figure."""
    predictions = model.predict(table)
    truths = np.where(np.arange(506) == 3, 1e150, predictions)
    page = render(model, log_rows(tmp_path / "log.db", table, predictions, truths=truths), tmp_path)

    assert float(page.rows["RMSE, root mean squared error"][0]) == pytest.approx(1e150 / 506**0.5, rel=1e-3)


def test_hostile_names_are_text(model: Artifact, store: Path, table: Matrix, tmp_path: Path) -> None:
    """Whatever a manifest says, in its title, owner, limits, names or units, is shown as text."""
    evil = "<script>alert(1)</script><img src=x onerror=y>\"'&$\\frac$ {{ 7 * 7 }}"
    folder = tmp_path / "store" / MODEL / "1"
    shutil.copytree(store / MODEL / "1", folder)

    def change(manifest: dict[str, Any]) -> None:
        manifest.update(title=evil, limits=evil, algorithm=evil)
        manifest["tags"]["owner"] = evil
        manifest["target"].update(name=evil, unit=evil, description=evil)
        manifest["features"][1].update(unit=evil, description=evil, name=evil)

    golden = json.loads((folder / "golden.json").read_text())
    golden["columns"][1] = evil
    reference = json.loads((folder / "reference.json").read_text())
    reference["features"][evil] = reference["features"].pop("RM")
    rewrite(
        folder,
        change,
        {"golden.json": json.dumps(golden).encode(), "reference.json": json.dumps(reference).encode()},
    )
    hostile = Store(tmp_path / "store").load(f"{MODEL}@1")
    predictions = hostile.predict(table)
    log = PredictionLog(f"sqlite:///{tmp_path / 'log.db'}")
    names = hostile.schema.names
    log.write(
        [
            {
                "request_id": f"{i}",
                "row": 0,
                "time": NOW - timedelta(days=1),
                "model": MODEL,
                "version": 1,
                "features": dict(zip(names, table[i].tolist())),
                "prediction": float(predictions[i]),
            }
            for i in range(200)
        ]
    )
    log.add_truths([(f"{i}", 0, 20.0) for i in range(200)], oldest=NOW - timedelta(days=30))
    log.close()
    page = render(hostile, f"sqlite:///{tmp_path / 'log.db'}", tmp_path)
    source = (tmp_path / "report.html").read_text()

    assert "script" not in page.tags
    assert page.tags.count("img") == len(page.pictures) == 6
    assert "onerror=y>" not in source
    assert html.escape(evil, quote=False).split('"')[0] in source
    assert evil in page.rows
    assert page.text.count("{{ 7 * 7 }}") >= 6


def test_page_needs_nothing_beside_it(model: Artifact, table: Matrix, tmp_path: Path) -> None:
    """The page loads and runs nothing, its policy forbids it, and every figure has an alternative text."""
    X = np.tile(table, (5, 1))
    predictions = model.predict(X)
    page = render(model, log_rows(tmp_path / "log.db", X, predictions, truths=predictions + 1), tmp_path)
    source = (tmp_path / "report.html").read_text()

    assert len(page.pictures) == 7
    assert all(page.pictures)
    assert [link for link in page.links if not link.startswith("data:")] == []
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert re.findall(r"https?://|url\(|@import", source) == []
    assert "default-src 'none'" in source
    for digest in (model.manifest.digest, "2026-10-22 12:00 to 2026-11-21 12:00 UTC", "2,530"):
        assert digest in page.text


def test_same_log_gives_the_same_bytes(model: Artifact, table: Matrix, tmp_path: Path) -> None:
    """A report of the same rows at the same time is the same file, even if it draws only a sample of the truths."""
    rows = np.resize(np.arange(506), report._MAX_POINTS + 500)
    predictions = model.predict(table[rows])
    url = log_rows(tmp_path / "log.db", table[rows], predictions, truths=predictions + 1, with_features=False)
    pages = []
    for _ in range(2):
        render(model, url, tmp_path)
        pages.append((tmp_path / "report.html").read_bytes())

    assert pages[0] == pages[1]
    assert b"5,000 rows drawn at random" in pages[0]


def test_half_a_report_is_none(model: Artifact, table: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If drawing or writing fails, the previous report is unchanged, and no other file is in its folder."""
    url = log_rows(tmp_path / "log.db", table, model.predict(table))
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "report.html").write_text("before")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    for module, name in ((plots, "to_svg"), (os, "replace"), (artifact, "write")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with pytest.raises(OSError, match="no space"):
                render(model, url, folder)
        assert [path.name for path in folder.iterdir()] == ["report.html"]
        assert (folder / "report.html").read_text() == "before"


def test_command(store: Path, model: Artifact, table: Matrix, tmp_path: Path, capsys: Any) -> None:
    """The command writes the report, and prints its verdict and its path."""
    now = datetime.now(UTC)
    url = log_rows(tmp_path / "log.db", table, model.predict(table), ages=np.linspace(1.9, 0.1, 506), now=now)
    output = tmp_path / "out.html"
    arguments = ["--store", str(store), "report", f"{MODEL}@1", "--log", url, "--days", "2", "--output", str(output)]
    status = main(arguments)
    printed = capsys.readouterr().out.splitlines()
    page = Page(output.read_text())

    assert status == 0
    assert printed[:-1] == [sentence.removeprefix(WORDS[kind]) for kind, sentence in page.verdicts]
    assert printed[-1] == f"{MODEL} version 1: written to {output}"
    assert "the last 2 days" in page.text


WORDS = {"attention": "Attention", "fine": "In order", "unknown": "Not known"}


def test_log_is_only_looked_at(store: Path, model: Artifact, table: Matrix, tmp_path: Path) -> None:
    """A report does not change the log and leaves no file beside it, even if the log is read-only."""
    folder = tmp_path / "log"
    folder.mkdir()
    url = log_rows(folder / "log #1%.db", table, model.predict(table), now=datetime.now(UTC))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "log #1%.db").chmod(0o444)
    status = main(["--store", str(store), "report", MODEL, "--log", url, "--output", str(tmp_path / "report.html")])

    assert status == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_report_from_postgresql(model: Artifact, table: Matrix, tmp_path: Path) -> None:
    """PostgreSQL gives the same page as SQLite in any time zone; a database without a log stays empty."""
    predictions = model.predict(table)
    with run_postgres() as server:
        with pytest.raises(PredictionLogError, match="no prediction log is in this database"):
            render(model, server.url(), tmp_path)
        with psycopg.connect(server.url()) as connection:
            tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        pages = []
        for where in (tmp_path / "log.db", server.url()):
            url = log_rows(where, table, predictions, truths=predictions + 1)
            render(model, url, tmp_path)
            pages.append((tmp_path / "report.html").read_bytes())

    assert pages[0] == pages[1]
    assert tables == (0,)


def empty_file(path: Path) -> str:
    path.touch()
    return f"sqlite:///{path}"


def foreign_file(path: Path) -> str:
    path.write_text("no database " * 100)
    return f"sqlite:///{path}"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (lambda path: f"sqlite:///{path}", "there is no prediction log '"),
        (lambda path: f"sqlite:///{path.parent}", "there is no prediction log '"),
        (lambda path: "sqlite:///:memory:", "the prediction log's URL is not sqlite:///FILE or post"),
        (empty_file, "no prediction log is in '"),
        (foreign_file, "the prediction log '"),
        (lambda path: "postgresql://me:s3cret@127.0.0.1:1/log", "the prediction log cannot be used: OperationalError"),
        (
            lambda path: "postgresql://me:x@127.0.0.1:s3cret/log",
            "the prediction log's URL is not sqlite:///FILE or post",
        ),
        (lambda path: "mysql://me:s3cret@127.0.0.1/log", "the prediction log's URL is not sqlite:///FILE or post"),
        (lambda path: "", "the prediction log's URL is not sqlite:///FILE or post"),
    ],
)
def test_log_that_is_none(store: Path, tmp_path: Path, capsys: Any, log: Callable[[Path], str], message: str) -> None:
    """Without a log there is an error without any password, and neither a log nor a report is created."""
    url = log(tmp_path / "missing.db")
    there = sorted(tmp_path.iterdir())
    status = main(["--store", str(store), "report", MODEL, "--log", url, "--output", str(tmp_path / "report.html")])
    stderr = capsys.readouterr().err

    assert (status, stderr[: 7 + len(message)]) == (1, f"error: {message}")
    assert "s3" not in stderr
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-model"], "there is no model 'no-such-model'"),
        ([f"{MODEL}@9"], "has no version or alias '9'"),
        ([MODEL, "--output", "no/such/folder.html"], "No such file or directory"),
    ],
)
def test_mistakes(store: Path, table: Matrix, tmp_path: Path, capsys: Any, arguments: list[str], message: str) -> None:
    """An invalid argument is reported, and no report is written."""
    url = log_rows(tmp_path / "log.db", table, np.ones(3))
    output = ["--output", str(tmp_path / "report.html")] if "--output" not in arguments else []
    status = main(["--store", str(store), "report", *arguments, "--log", url, *output])

    assert status == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("span", "name", "most"),
    [(0, "hour", 2), (2, "6 hours", 10), (28, "day", 30), (90, "week", 15), (400, "30 days", 15)],
)
def test_periods_divide_the_time(model: Artifact, tmp_path: Path, span: int, name: str, most: int) -> None:
    """Periods are whole hours, days or weeks of UTC, follow each other, and hold every row once."""
    ages = np.sort(np.random.default_rng(3).uniform(0.01, span or 0.02, 200))[::-1]
    url = log_rows(tmp_path / "log.db", np.ones((200, 6)), np.ones(200), ages=ages, with_features=False)
    log = PredictionLog(url)
    logged = log.read(MODEL, 1, features=COLUMNS, since=NOW - timedelta(days=900))
    log.close()
    periods = judge(model, logged).periods
    width = np.diff(periods.starts)

    assert periods.name == name
    assert len(periods.starts) <= most
    assert (width == width[:1]).all()
    assert [row for rows in periods.slices for row in range(rows.start, rows.stop)] == list(range(200))
    for start, rows in zip(periods.starts, periods.slices):
        assert (logged.times[rows] >= start).all()
        assert (logged.times[rows.stop :] > start).all()
    if name == "week":
        assert {str(start.astype(object).strftime("%A %H:%M")) for start in periods.starts} == {"Monday 00:00"}


def test_interval_holds_the_true_error() -> None:
    """The interval covers the true RMSE about as often as its docstring says, and scales with the errors."""
    rng = np.random.default_rng(4)
    samples = rng.normal(0, 3, (2000, 100))
    intervals = np.array([rmse_interval(sample) for sample in samples])
    held = np.mean((intervals[:, 0] <= 3) & (intervals[:, 1] >= 3))

    assert held == pytest.approx(0.94, abs=0.02)
    assert rmse_interval(samples[0] * 1e160) == pytest.approx(tuple(intervals[0] * 1e160))
    assert rmse_interval(np.zeros(5)) == (0, 0)
    assert rmse_interval(np.array([2.0, -2.0])) == (2, 2)


def test_version_without_limits_or_owner(store: Path, table: Matrix, tmp_path: Path) -> None:
    """A version whose manifest has no limits and no tags has a report without these lines."""
    folder = tmp_path / "store" / MODEL / "1"
    shutil.copytree(store / MODEL / "1", folder)
    rewrite(folder, lambda manifest: [manifest.pop(name) for name in ("limits", "tags")])
    bare = Store(tmp_path / "store").load(f"{MODEL}@1")
    page = render(bare, log_rows(tmp_path / "log.db", table, bare.predict(table)), tmp_path)

    assert "Algorithm" in page.text
    assert "Limits" not in page.text
    assert "Owner" not in page.text
