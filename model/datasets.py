"""Read a table and check it before anything is trained on it; and the tables that come with the project.

A table is checked along the four usual dimensions of data quality: accuracy (types and plausible ranges),
completeness (missing cells), consistency (rows or columns that repeat or contradict one another) and
timeliness (how old a date column says the rows are).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from model.errors import DataError, Problem, SchemaError
from model.schema import columns_from_csv

ACCURACY = "accuracy"
COMPLETENESS = "completeness"
CONSISTENCY = "consistency"
TIMELINESS = "timeliness"

# Ten unshuffled folds of the training part need at least this many rows in the whole table.
MINIMUM_ROWS = 20


@dataclass(frozen=True, slots=True)
class Column:
    """What is known of one column before any row is read: unit, plausible range, the only values that it takes."""

    name: str
    unit: str = ""
    description: str = ""
    plausible: tuple[float, float] = (float("-inf"), float("inf"))
    allowed: frozenset[float] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that the columns of one row must agree on; `holds` answers a boolean for each row of a frame."""

    sentence: str
    holds: Callable[[pd.DataFrame], pd.Series]


@dataclass(frozen=True, slots=True)
class Timeliness:
    """A column of ISO dates, and how old the newest row may be."""

    column: str
    max_age_days: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """A table that a model is trained on: its columns, where it lies, what must hold in it and what it is not for."""

    name: str
    title: str
    path: Path
    source: str
    features: tuple[Column, ...]
    target: Column
    limits: str = ""
    rules: tuple[Rule, ...] = ()
    timeliness: Timeliness | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.features, self.target)


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark on a table's quality; a `fatal` one means that it cannot be trained on."""

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

    CSV with a header, UTF-8 with or without a byte order mark. Raises `DataError` with the report of every
    problem, by row (data rows count from 0) and column.
    """
    source = path.name if path else dataset.source
    path = path or dataset.path
    try:
        content = path.read_bytes()
        cells, n_rows = columns_from_csv(content.decode())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a table: it is not UTF-8 text") from None
    except SchemaError as error:
        raise DataError(report(path, [Finding(CONSISTENCY, problem) for problem in error.problems])) from None
    except ValueError as error:
        raise DataError(f"{path} is not a table: {error}") from None
    findings = check(dataset, cells, n_rows, today=today or date.today())
    if any(finding.fatal for finding in findings):
        raise DataError(report(path, findings))
    frame = pd.DataFrame({column.name: cells[column.name] for column in dataset.columns}, dtype="float64")
    return Table(dataset, frame, source, hashlib.sha256(content).hexdigest(), tuple(findings))


def report(path: Path, findings: Sequence[Finding]) -> str:
    """Render every finding, errors first, a line each."""
    ordered = sorted(findings, key=lambda finding: not finding.fatal)
    fatal = sum(finding.fatal for finding in findings)
    head = f"{path}: {fatal} errors, {len(findings) - fatal} warnings"
    verdict = "; nothing can be trained on it" if fatal else ""
    return "\n".join([head + verdict, *(f"  {finding}" for finding in ordered)])


def check(dataset: Dataset, cells: Mapping[str, Sequence[Any]], n_rows: int, *, today: date) -> list[Finding]:
    """Return everything that is wrong with the parsed cells, by column of `n_rows` values each."""
    findings = []
    if n_rows < MINIMUM_ROWS:
        findings.append(Finding(COMPLETENESS, Problem(None, None, f"{n_rows} rows, and it takes {MINIMUM_ROWS}")))
    for column in dataset.columns:
        if column.name in cells:
            findings += _check_cells(column, cells[column.name])
        else:
            findings.append(Finding(COMPLETENESS, Problem(None, column.name, "there is no such column")))
    wanted = {column.name for column in dataset.columns}
    if dataset.timeliness:
        wanted.add(dataset.timeliness.column)
    findings += [
        Finding(CONSISTENCY, Problem(None, name, "is no column of the data set and is left out"), fatal=False)
        for name in cells
        if name not in wanted
    ]
    if not any(finding.fatal for finding in findings):  # rows can be compared only where all cells are numbers
        findings += _check_rows(dataset, pd.DataFrame({c.name: cells[c.name] for c in dataset.columns}))
    if dataset.timeliness:
        findings += _check_timeliness(dataset.timeliness, cells, today)
    return findings


def _check_cells(column: Column, cells: Sequence[Any]) -> list[Finding]:
    findings = []
    low, high = column.plausible
    for row, cell in enumerate(cells):
        if cell is None:
            findings.append(Finding(COMPLETENESS, Problem(row, column.name, "missing")))
        elif isinstance(cell, str):
            findings.append(Finding(ACCURACY, Problem(row, column.name, f"{cell!r} is not a number")))
        elif column.allowed is not None and cell not in column.allowed:
            allowed = ", ".join(f"{value:g}" for value in sorted(column.allowed))
            findings.append(Finding(ACCURACY, Problem(row, column.name, f"{cell:g} is none of {allowed}")))
        elif not low <= cell <= high or abs(cell) == float("inf"):
            reason = f"{cell:g} is not plausible: {low:g} to {high:g} {column.unit}".rstrip()
            findings.append(Finding(ACCURACY, Problem(row, column.name, reason)))
    return findings


def _check_rows(dataset: Dataset, frame: pd.DataFrame) -> list[Finding]:
    findings = []
    duplicated = frame.duplicated()
    findings += [
        Finding(CONSISTENCY, Problem(int(row), None, "repeats an earlier row"), fatal=False)
        for row in frame.index[duplicated]
    ]
    contradicting = frame.duplicated([column.name for column in dataset.features]) & ~duplicated
    findings += [
        Finding(CONSISTENCY, Problem(int(row), dataset.target.name, "contradicts an earlier row alike"), fatal=False)
        for row in frame.index[contradicting]
    ]
    names = list(frame.columns)
    findings += [
        Finding(CONSISTENCY, Problem(None, name, f"is the same as {other}, row for row"), fatal=False)
        for i, other in enumerate(names)
        for name in names[i + 1 :]
        if frame[name].equals(frame[other])
    ]
    for rule in dataset.rules:
        broken = frame.index[~rule.holds(frame).astype(bool)]
        findings += [
            Finding(CONSISTENCY, Problem(int(row), None, f"breaks the rule: {rule.sentence}")) for row in broken
        ]
    if frame[dataset.target.name].nunique() == 1:
        findings.append(Finding(ACCURACY, Problem(None, dataset.target.name, "has one value only")))
    return findings


def _check_timeliness(timeliness: Timeliness, cells: Mapping[str, Sequence[Any]], today: date) -> list[Finding]:
    name = timeliness.column
    if name not in cells:
        return [Finding(TIMELINESS, Problem(None, name, "there is no such column"))]
    findings, dates = [], []
    for row, cell in enumerate(cells[name]):
        try:
            dates.append(date.fromisoformat(cell))
        except (TypeError, ValueError):
            findings.append(Finding(TIMELINESS, Problem(row, name, f"{cell!r} is not a date such as 2026-01-31")))
        else:
            if dates[-1] > today:
                findings.append(Finding(TIMELINESS, Problem(row, name, f"{cell} is in the future")))
    age = (today - max(dates)).days if dates else 0
    if age > timeliness.max_age_days:
        reason = f"the newest row is {age} days old, and at most {timeliness.max_age_days} will do"
        findings.append(Finding(TIMELINESS, Problem(None, name, reason)))
    return findings


BOSTON_HOUSING = Dataset(
    name="boston-housing",
    title="Median house prices in the suburbs of Boston, 1970",
    path=Path(__file__).parent / "data" / "boston_housing.csv",
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

DATASETS: Mapping[str, Dataset] = {BOSTON_HOUSING.name: BOSTON_HOUSING}
