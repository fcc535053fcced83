"""Check a table before training.

A table is checked along the four usual dimensions of data quality: accuracy (types and plausible ranges),
completeness (missing cells), consistency (rows or columns that repeat or contradict each other) and timeliness (the
age of the rows by a date column).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import pandas as pd

from model.errors import Problem
from model.train.dataset import Column, Dataset, Timeliness

ACCURACY = "accuracy"
COMPLETENESS = "completeness"
CONSISTENCY = "consistency"
TIMELINESS = "timeliness"

# Cross-validation with ten folds of the training rows needs at least this many rows in the table.
MINIMUM_ROWS = 20

# Rows with the same problem that are listed one by one; more are summed up in one line to keep the report readable.
MAX_LISTED_ROWS = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem with a table's quality; a `fatal` one prevents training."""

    dimension: str
    problem: Problem
    fatal: bool = True

    def __str__(self) -> str:
        return f"{'error  ' if self.fatal else 'warning'}  {self.dimension:<12}  {self.problem}"


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


def findings_of(dimension: str, problems: Sequence[Problem], *, fatal: bool = True) -> list[Finding]:
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
    return _by_row(*findings_of(COMPLETENESS, missing), *findings_of(ACCURACY, wrong))


def _check_rows(dataset: Dataset, frame: pd.DataFrame) -> list[Finding]:
    duplicated = frame.duplicated()
    contradicting = frame.duplicated([column.name for column in dataset.features]) & ~duplicated
    findings = [
        *findings_of(CONSISTENCY, _problems(duplicated, None, "repeats an earlier row"), fatal=False),
        *findings_of(
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
        findings += findings_of(CONSISTENCY, _problems(broken, None, f"breaks the rule: {rule.sentence}"))
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
    findings = _by_row(*findings_of(TIMELINESS, wrong), *findings_of(TIMELINESS, future))
    age = (today - max(dates)).days if dates else 0
    if age > timeliness.max_age_days:
        reason = f"the newest row is {age} days old; at most {timeliness.max_age_days} are allowed"
        findings.append(Finding(TIMELINESS, Problem(None, name, reason)))
    return findings
