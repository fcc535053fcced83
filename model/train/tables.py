"""Read a table: its text, the checks, then numbers only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd

from model.errors import DataError, SchemaError
from model.schema.csv_table import columns_from_csv
from model.train import checks
from model.train.checks import Finding
from model.train.dataset import Dataset


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
        raise DataError(checks.report(name, checks.findings_of(checks.CONSISTENCY, error.problems))) from None
    except ValueError as error:
        raise DataError(f"{name} is not a table: {error}") from None
    findings = checks.check(dataset, cells, n_rows, today=today or date.today())
    if any(finding.fatal for finding in findings):
        raise DataError(checks.report(name, findings))
    frame = pd.DataFrame({column.name: cells[column.name] for column in dataset.columns}, dtype="float64")
    source = path.name if path else dataset.source
    return Table(dataset, frame, source, hashlib.sha256(content).hexdigest(), tuple(findings))
