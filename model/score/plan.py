"""What a process that scores pieces of a table has to know, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from model.engine import explanation
from model.score.cells import Written
from model.score.records import Marks
from model.store.manifest import Manifest
from model.table.description import CSV as CSV
from model.table.description import JSON as JSON

ARROW = "arrow"
"""The form of pieces that are a stream of Arrow, also of Parquet; others are lines of `CSV` or `JSON`."""

ARROW_SUFFIXES = (".arrow", ".feather", ".arrows")
GZIP, ZSTANDARD = "gzip", "zstd"
PREDICTION, VERSION, LOWER, UPPER, PROBABILITY = "prediction", "model_version", "lower", "upper", "probability_"


@dataclass(frozen=True, slots=True)
class Plan:
    """How the pieces of one table are answered.

    `names` are the columns of the table; none for lines of JSON that stay so. `only` are the columns of the output,
    empty for all, with the answers behind them. With `interval` these have the ends of a prediction interval of that
    level, with `probabilities` one column for each class, with `explain`, a method, the columns of its explanations.
    Pieces of text are packed by `compression`: "" for none, "gzip" or "zstd".
    """

    form: str
    target: str
    names: tuple[str, ...] = ()
    marks: Marks = field(default_factory=Marks)
    written: Written = field(default_factory=Written)
    line_end: bytes = b"\n"
    only: tuple[str, ...] = ()
    prediction: str = PREDICTION
    version: bool = False
    probabilities: bool = False
    interval: float | None = None
    explain: str = ""
    compression: str = ""

    def answers(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the names of the columns that the model answers."""
        names = [VERSION] if self.version else []
        names += [self.prediction] + ([LOWER, UPPER] if self.interval is not None else [])
        names += [f"{PROBABILITY}{name}" for name in manifest.class_names] if self.probabilities else []
        if self.explain and manifest.explanations:
            names += explanation.columns_of(manifest.explanations.names)
        return tuple(names)


class Reject(NamedTuple):
    """A row without an answer: its number in the piece, from 0, that of its line, the reason and its text."""

    row: int
    line: int
    reason: str
    text: str


class Scored(NamedTuple):
    """A piece with its answers: how many rows and lines it had, the rejected ones, and the bytes of the output."""

    n_rows: int
    n_lines: int
    rejects: list[Reject]
    content: bytes
