"""The errors of `model` as classes that carry data. They know nothing about HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Between the URLs of a chain, of which fsspec reads one: messages hide the credentials in each.
URL_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*(?:::|://))")

_MAX_SHOWN = 200  # characters of a formula in a message


class ModelError(Exception):
    """Base of every error that `model` raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a table: its place and the reason.

    `row` counts data rows from 0 and is None for a whole column; `feature` is None for a whole row. `nearest` is the
    known category that is most like an unknown one, if it was looked for and there is one, or the limit that a number
    is beyond. `accepted` says in words what is accepted, where the reason does not.
    """

    row: int | None
    feature: str | None
    reason: str
    nearest: str | float | None = None
    accepted: str = ""

    def __str__(self) -> str:
        where = [] if self.row is None else [f"row {self.row}"]
        where += [] if self.feature is None else [f"column {self.feature!r}"]
        reason = self.reason if self.nearest is None else f"{self.reason}; the nearest is {self.nearest!r}"
        reason += f"; accepted is {self.accepted}" if self.accepted else ""
        return f"{', '.join(where)}: {reason}" if where else reason


class SchemaError(ModelError):
    """Rows do not fit the schema: `problems` lists the problems, `n_rows` counts the checked rows.

    With `more` the check stopped at a limit, and there are further problems.
    """

    def __init__(self, problems: Sequence[Problem], *, n_rows: int, more: bool = False) -> None:
        many = f"{'more than ' if more else ''}{len(problems)} problems, the first"
        super().__init__(f"{'1 problem' if len(problems) == 1 else many}: {problems[0]}")
        self.problems = tuple(problems)
        self.more = more
        self.n_rows = n_rows


class TooManyRowsError(ModelError):
    """A table has more rows than the caller allows."""

    def __init__(self, max_rows: int) -> None:
        super().__init__(f"more than {max_rows} rows")


class ExplanationError(ModelError):
    """An answer cannot be explained as it was asked for; the message says why, and what can be."""


class DataError(ModelError):
    """A table cannot be trained on; the message is the whole report."""


class FormulaError(ModelError):
    """A formula cannot be read or computed.

    Carries its text, the reason, and the place in it, from 0, if there is one.
    """

    def __init__(self, text: str, reason: str, place: int | None = None) -> None:
        where = "" if place is None else f" at character {place + 1}"
        shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
        super().__init__(f"the formula {shown!r}{where}: {reason}")
        self.text = text
        self.reason = reason
        self.place = place


class FeatureFileError(ModelError):
    """A file of shared definitions cannot be used; carries the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f'{path}: {reason}; write a table such as [features.per_room] with formula = "price / rooms"')
        self.path = path
        self.reason = reason


class ExportError(ModelError):
    """A fitted model cannot be compiled or exported; the message names the step or column and what to do."""


class ProofError(ModelError):
    """The compiled model predicts differently than the trained one, so no artifact may be written."""


class DeviceError(ModelError):
    """The chosen device does not exist or was lost."""


class CheckpointError(ModelError):
    """A file is not a checkpoint, or belongs to another training."""


class NotebookError(ModelError):
    """A cell of a notebook failed; the message names the cell and its error."""


class ArtifactError(ModelError):
    """An artifact cannot be used; carries the file, the reason and the remedy."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path = path
        self.reason = reason
        self.remedy = remedy


class KeyFileError(ModelError):
    """A file of keys cannot be used; carries the file, the reason and the remedy."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path = path
        self.reason = reason
        self.remedy = remedy


class GoldenRowsError(ArtifactError):
    """A version predicts its golden rows differently than the trained model; carries its name and version."""

    def __init__(self, path: Path, reason: str, remedy: str, *, name: str, version: int) -> None:
        super().__init__(path, reason, remedy)
        self.name = name
        self.version = version


class PredictionLogError(ModelError):
    """The prediction log cannot be used at the moment; nothing was written."""


class RefusedRowsError(PredictionLogError):
    """The prediction log rejects these rows permanently."""


class ImplausibleTruthsError(ModelError):
    """True values do not fit the targets of their models, and none was stored.

    `problems` has a problem without a row by the position of each such value.
    """

    def __init__(self, problems: Mapping[int, Problem]) -> None:
        super().__init__(f"{len(problems)} true values do not fit the targets of their models")
        self.problems = dict(problems)


class NotInStoreError(ModelError):
    """The store has no such model, version or alias."""


class MovedError(ModelError):
    """The aliases of a model were moved meanwhile by another writer, and nothing was changed; says what moved."""


class StoreError(ModelError):
    """A store behind a URL cannot be used; carries its URL without credentials, and the reason with what to do."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason


class ArchiveError(ModelError):
    """An archive could not be pulled, and the store is unchanged; names its URL without the credentials."""


def first_line(error: Exception) -> str:
    """Return the first line of what another library's error says, or its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun, such as 1 error or 2 errors; `many` is the plural that has more than an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def one_line(text: str) -> str:
    """Return a text with its newlines, control characters and other invisible ones escaped, as `repr` has them.

    A name or cell of a table then cannot break a report's lines, or send commands to the terminal that shows it.
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
