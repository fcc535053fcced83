"""What can go wrong with a model, as classes that carry the facts; none of them knows of HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class ModelError(Exception):
    """Base of every error that `model` raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a table: where it is and why.

    `row` counts data rows from 0 and is None where the whole column is concerned;
    `feature` is None where the whole row is.
    """

    row: int | None
    feature: str | None
    reason: str

    def __str__(self) -> str:
        where = [] if self.row is None else [f"row {self.row}"]
        where += [] if self.feature is None else [f"column {self.feature!r}"]
        return f"{', '.join(where)}: {self.reason}" if where else self.reason


class SchemaError(ModelError):
    """Rows do not fit the schema; `problems` lists every one of them, `n_rows` how many rows were looked at.

    Where there are `more` problems, nobody looked for the rest.
    """

    def __init__(self, problems: Sequence[Problem], *, n_rows: int, more: bool = False) -> None:
        many = f"{'more than ' if more else ''}{len(problems)} problems, the first"
        super().__init__(f"{'1 problem' if len(problems) == 1 else many}: {problems[0]}")
        self.problems = tuple(problems)
        self.more = more
        self.n_rows = n_rows


class TooManyRowsError(ModelError):
    """A table has more rows than the caller takes."""

    def __init__(self, max_rows: int) -> None:
        super().__init__(f"more than {max_rows} rows")


class DataError(ModelError):
    """A table cannot be trained on; the message is the whole report."""


class ProofError(ModelError):
    """The compiled engine does not answer as the trained model does, so no artifact may be written."""


class DeviceError(ModelError):
    """The device that was asked for is not there, or not any more."""


class CheckpointError(ModelError):
    """A checkpoint is not of this training, or none at all."""


class NotebookError(ModelError):
    """A notebook stopped before its end; the message names the cell and what it raised."""


class ArtifactError(ModelError):
    """An artifact cannot be used; names the file, what is wrong with it and what to do."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path = path
        self.reason = reason
        self.remedy = remedy


class GoldenRowsError(ArtifactError):
    """A version answers its golden rows otherwise than the trained model did; carries its name and version."""

    def __init__(self, path: Path, reason: str, remedy: str, *, name: str, version: int) -> None:
        super().__init__(path, reason, remedy)
        self.name = name
        self.version = version


class PredictionLogError(ModelError):
    """The prediction log cannot be used just now; what was to be written to it was not."""


class RefusedRowsError(PredictionLogError):
    """The prediction log does not take these rows, and will not take them later."""


class ImplausibleTruthsError(ModelError):
    """True values are beyond what the model's target can be, and none was taken; `reasons` says why, by number."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(f"{len(reasons)} true values are outside the range of the model's target")
        self.reasons = dict(reasons)


class NotInStoreError(ModelError):
    """The store has no such model, version or alias."""


class ArchiveError(ModelError):
    """A model was not brought here and nothing was changed; names where it comes from, without what is secret there."""
