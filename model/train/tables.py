"""Read and check a table before training, and define the tables that come with the project.

A table is checked along the four usual dimensions of data quality: accuracy (types and plausible ranges),
completeness (missing cells), consistency (rows or columns that repeat or contradict each other) and timeliness (the
age of the rows by a date column).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model.errors import DataError, Problem, SchemaError
from model.schema.csv_table import columns_from_csv

ACCURACY = "accuracy"
COMPLETENESS = "completeness"
CONSISTENCY = "consistency"
TIMELINESS = "timeliness"

# Cross-validation with ten folds of the training rows needs at least this many rows in the table.
MINIMUM_ROWS = 20

# Rows with the same problem that are listed one by one; more are summed up in one line to keep the report readable.
MAX_LISTED_ROWS = 10


@dataclass(frozen=True, slots=True)
class Column:
    """What is known about a column before any row is read: unit, plausible range, allowed values."""

    name: str
    unit: str = ""
    description: str = ""
    plausible: tuple[float, float] = (float("-inf"), float("inf"))
    allowed: frozenset[float] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on the columns of one row; `holds` returns a boolean for each row of a frame."""

    sentence: str
    holds: Callable[[pd.DataFrame], pd.Series]


@dataclass(frozen=True, slots=True)
class Timeliness:
    """A column of ISO dates, and how old the newest row may be."""

    column: str
    max_age_days: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """A table that a model is trained on: its columns, its rules and the limits of its use.

    `content` returns the CSV that `read` parses, the same bytes each time. `algorithm` names the default learner.
    """

    name: str
    title: str
    content: Callable[[], bytes]
    source: str
    features: tuple[Column, ...]
    target: Column
    limits: str = ""
    rules: tuple[Rule, ...] = ()
    timeliness: Timeliness | None = None
    algorithm: str = "gbm"

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.features, self.target)


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem with a table's quality; a `fatal` one prevents training."""

    dimension: str
    problem: Problem
    fatal: bool = True

    def __str__(self) -> str:
        return f"{'error  ' if self.fatal else 'warning'}  {self.dimension:<12}  {self.problem}"


@dataclass(frozen=True, slots=True)
class Table:
    """A checked table: numbers only, the dataset's columns in its order."""

    dataset: Dataset
    frame: pd.DataFrame
    source: str
    sha256: str
    warnings: tuple[Finding, ...]

    @property
    def X(self) -> pd.DataFrame:
        return self.frame[[column.name for column in self.dataset.features]]

    @property
    def y(self) -> pd.Series:
        return self.frame[self.dataset.target.name]


def read(dataset: Dataset, path: Path | None = None, *, today: date | None = None) -> Table:
    """Read and check the dataset's table, or the one at `path` with the same columns.

    CSV with a header, UTF-8 with or without a byte order mark. Raises `DataError` with a report of every
    problem by row (data rows count from 0) and column.
    """
    name = str(path) if path else dataset.name
    try:
        content = path.read_bytes() if path else dataset.content()
        cells, n_rows = columns_from_csv(content.decode())
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{name} is not a table: it is not UTF-8 text") from None
    except SchemaError as error:
        raise DataError(report(name, _findings(CONSISTENCY, error.problems))) from None
    except ValueError as error:
        raise DataError(f"{name} is not a table: {error}") from None
    findings = check(dataset, cells, n_rows, today=today or date.today())
    if any(finding.fatal for finding in findings):
        raise DataError(report(name, findings))
    frame = pd.DataFrame({column.name: cells[column.name] for column in dataset.columns}, dtype="float64")
    source = path.name if path else dataset.source
    return Table(dataset, frame, source, hashlib.sha256(content).hexdigest(), tuple(findings))


def report(name: str, findings: Sequence[Finding]) -> str:
    """Return all findings about the table as text, a line each, errors first."""
    ordered = sorted(findings, key=lambda finding: not finding.fatal)
    fatal = sum(finding.fatal for finding in findings)
    head = f"{name}: {fatal} errors, {len(findings) - fatal} warnings"
    verdict = "; no model can be trained on it" if fatal else ""
    return "\n".join([head + verdict, *(f"  {finding}" for finding in ordered)])


def check(dataset: Dataset, cells: Mapping[str, Sequence[Any]], n_rows: int, *, today: date) -> list[Finding]:
    """Return every problem of the parsed cells, columns of `n_rows` values each."""
    findings = []
    if n_rows < MINIMUM_ROWS:
        reason = f"{n_rows} rows; at least {MINIMUM_ROWS} are needed"
        findings.append(Finding(COMPLETENESS, Problem(None, None, reason)))
    for column in dataset.columns:
        if column.name in cells:
            findings += _check_cells(column, cells[column.name])
        else:
            findings.append(Finding(COMPLETENESS, Problem(None, column.name, "the table does not have this column")))
    wanted = {column.name for column in dataset.columns}
    if dataset.timeliness:
        wanted.add(dataset.timeliness.column)
    findings += [
        Finding(CONSISTENCY, Problem(None, name, "is no column of the data set and is left out"), fatal=False)
        for name in cells
        if name not in wanted
    ]
    if not any(finding.fatal for finding in findings):  # rows can be compared only if all cells are numbers
        findings += _check_rows(dataset, pd.DataFrame({c.name: cells[c.name] for c in dataset.columns}))
    if dataset.timeliness:
        findings += _check_timeliness(dataset.timeliness, cells, today)
    return findings


def _findings(dimension: str, problems: Sequence[Problem], *, fatal: bool = True) -> list[Finding]:
    """Return a finding for each problem of one kind, or one finding for all rows if there are many."""
    rows = [problem for problem in problems if problem.row is not None]
    if len(rows) > MAX_LISTED_ROWS:
        first = replace(rows[0], reason=f"{rows[0].reason} (the first of {len(rows):,} such rows)")
        problems = [*(problem for problem in problems if problem.row is None), first]
    return [Finding(dimension, problem, fatal) for problem in problems]


def _by_row(*findings: Finding) -> list[Finding]:
    return sorted(findings, key=lambda finding: finding.problem.row or 0)


def _check_cells(column: Column, cells: Sequence[Any]) -> list[Finding]:
    missing, wrong = [], []
    low, high = column.plausible
    for row, cell in enumerate(cells):
        if cell is None:
            missing.append(Problem(row, column.name, "missing"))
        elif isinstance(cell, str):
            wrong.append(Problem(row, column.name, f"{cell!r} is not a number"))
        elif column.allowed is not None and cell not in column.allowed:
            allowed = ", ".join(f"{value:g}" for value in sorted(column.allowed))
            wrong.append(Problem(row, column.name, f"{cell:g} is none of {allowed}"))
        elif not low <= cell <= high or abs(cell) == float("inf"):
            reason = f"{cell:g} is not plausible: {low:g} to {high:g} {column.unit}".rstrip()
            wrong.append(Problem(row, column.name, reason))
    return _by_row(*_findings(COMPLETENESS, missing), *_findings(ACCURACY, wrong))


def _check_rows(dataset: Dataset, frame: pd.DataFrame) -> list[Finding]:
    duplicated = frame.duplicated()
    contradicting = frame.duplicated([column.name for column in dataset.features]) & ~duplicated
    findings = [
        *_findings(CONSISTENCY, _problems(duplicated, None, "repeats an earlier row"), fatal=False),
        *_findings(
            CONSISTENCY,
            _problems(contradicting, dataset.target.name, "contradicts an earlier row alike"),
            fatal=False,
        ),
    ]
    names = list(frame.columns)
    findings += [
        Finding(CONSISTENCY, Problem(None, name, f"is the same as {other}, row for row"), fatal=False)
        for i, other in enumerate(names)
        for name in names[i + 1 :]
        if frame[name].equals(frame[other])
    ]
    for rule in dataset.rules:
        broken = ~rule.holds(frame).astype(bool)
        findings += _findings(CONSISTENCY, _problems(broken, None, f"breaks the rule: {rule.sentence}"))
    if frame[dataset.target.name].nunique() == 1:
        findings.append(Finding(ACCURACY, Problem(None, dataset.target.name, "has only one value")))
    return findings


def _problems(rows: pd.Series, feature: str | None, reason: str) -> list[Problem]:
    """Return a problem for each row that is True in `rows`."""
    return [Problem(int(row), feature, reason) for row in rows.index[rows]]


def _check_timeliness(timeliness: Timeliness, cells: Mapping[str, Sequence[Any]], today: date) -> list[Finding]:
    name = timeliness.column
    if name not in cells:
        return [Finding(TIMELINESS, Problem(None, name, "the table does not have this column"))]
    dates, wrong, future = [], [], []
    for row, cell in enumerate(cells[name]):
        try:
            dates.append(date.fromisoformat(cell))
        except (TypeError, ValueError):
            wrong.append(Problem(row, name, f"{cell!r} is not a date such as 2026-01-31"))
        else:
            if dates[-1] > today:
                future.append(Problem(row, name, f"{cell} is in the future"))
    findings = _by_row(*_findings(TIMELINESS, wrong), *_findings(TIMELINESS, future))
    age = (today - max(dates)).days if dates else 0
    if age > timeliness.max_age_days:
        reason = f"the newest row is {age} days old; at most {timeliness.max_age_days} are allowed"
        findings.append(Finding(TIMELINESS, Problem(None, name, reason)))
    return findings


BOSTON_HOUSING = Dataset(
    name="boston-housing",
    title="Median house prices in the suburbs of Boston, 1970",
    content=(Path(__file__).parents[1] / "data" / "boston_housing.csv").read_bytes,
    source="scikit-learn 1.1.3, sklearn/datasets/data/boston_house_prices.csv; Harrison and Rubinfeld (1978)",
    features=(
        Column("CHAS", "", "1 if the tract bounds the Charles River, else 0", allowed=frozenset({0.0, 1.0})),
        Column("RM", "rooms", "average number of rooms per dwelling", (1, 20)),
        Column("TAX", "USD per 10,000 USD", "full-value property tax rate", (0, 2000)),
        Column("PTRATIO", "pupils per teacher", "pupil-teacher ratio by town", (1, 50)),
        # B = 1000 (share - 0.63)^2 for a share from 0 to 1: its largest value is at share 0.
        Column("B", "", "a transformed share of Black residents by town; see the data card", (0, 396.9)),
        Column("LSTAT", "%", "share of the population of lower status", (0, 100)),
    ),
    target=Column("MEDV", "1,000 USD", "median value of owner-occupied homes, capped at 50", (0, 50)),
    limits=(
        "Prices of 1970, capped at 50. Column B is a transformed share of Black residents, which is why scikit-learn "
        "dropped the data set. The model is here to reproduce a published example, not to price a house."
    ),
)


def draw_heights_and_weights() -> bytes:
    """Return a CSV of 25,000 rows of two correlated normal variables with the published sample moments."""
    n_rows, correlation = 25_000, 0.5028585
    means, deviations = np.array([67.993114, 127.079421]), np.array([1.901679, 11.660898])
    covariance = np.outer(deviations, deviations) * [[1, correlation], [correlation, 1]]
    Z = np.random.default_rng(7).standard_normal((n_rows, 2))
    Z -= Z.mean(axis=0)
    Z = np.linalg.solve(np.linalg.cholesky(np.cov(Z.T)), Z.T).T  # variance 1 and correlation 0 except for rounding
    rows = Z @ np.linalg.cholesky(covariance).T + means
    # Seven digits, as in the original: few enough that processors cannot round them differently.
    lines = [f"{height:.7g},{weight:.7g}\n" for height, weight in rows.tolist()]
    return "".join(["Height-Inches,Weight-Pounds\n", *lines]).encode()


HEIGHT_WEIGHT = Dataset(
    name="height-weight",
    title="Weights of 18-year-olds by their height, simulated",
    content=draw_heights_and_weights,
    source=(
        "simulated: normal variables drawn with seed 7 and given the sample moments of a published table of 25,000 "
        "heights and weights, itself simulated from a growth survey"
    ),
    # Includes every person of that age, but no table in centimetres.
    features=(Column("Height-Inches", "inches", "height of a person of 18 years", (40, 100)),),
    target=Column("Weight-Pounds", "pounds", "weight of the same person", (50, 500)),
    limits=(
        "The rows are drawn, not measured: nobody has these heights and weights, and the straight line between them "
        "holds because they were made so. The model is here to reproduce a published example, not to judge a body."
    ),
    algorithm="mlp",
)

DATASETS: Mapping[str, Dataset] = {dataset.name: dataset for dataset in (BOSTON_HOUSING, HEIGHT_WEIGHT)}
