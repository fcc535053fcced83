"""Rows of a piece with their answers, and how they are written as CSV, lines of JSON, or Arrow."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from model.schema.feature import BOOLEAN, INTEGER, NUMBER, Feature
from model.schema.features import Matrix
from model.score import text
from model.score.plan import ARROW, CSV, GZIP, LOWER, UPPER, VERSION, ZSTANDARD, Plan
from model.store.artifact import Artifact


@dataclass(frozen=True)
class Answered:
    """The rows that the model answers: their numbers in the piece, their columns, and their answers.

    `X` and `y` are what the model was given and what it returned: see `Artifact.predict`. `explained` are the columns
    of explanations by name, if they are wanted.
    """

    model: Artifact
    numbers: NDArray[np.intp]
    table: pa.Table
    X: Matrix
    y: NDArray[np.float64]
    explained: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def cells(self, plan: Plan) -> list[pa.Array]:
        """Return the columns of answers as cells of CSV."""
        return [self._cells(plan, name) for name in plan.answers(self.model.manifest)]

    def lines(self, plan: Plan, cells: Sequence[pa.Array]) -> bytes:
        """Return lines of CSV with these cells."""
        ends = text.repeated(plan.line_end, len(self.numbers))
        return text.content_of(text.joined([text.joined(cells, plan.marks.separator), ends], b""))

    def members(self, plan: Plan) -> list[bytes]:
        """Return for each row the answers as members of an object of JSON, without the braces."""
        names = plan.answers(self.model.manifest)
        keys = [to_json(name) + b":" for name in names]
        columns = [map(to_json, self._values(plan, name)) for name in names]
        return [b",".join(map(bytes.__add__, keys, values)) for values in zip(*columns)]

    def written(self, plan: Plan) -> bytes:
        """Return the rows with their answers, put together column by column, in the form that the plan wants."""
        answers = plan.answers(self.model.manifest)
        names = plan.only or (*(plan.names or self.table.column_names), *answers)
        if plan.target == CSV:
            columns = [self._cells(plan, name) if name in answers else self._texts(plan, name) for name in names]
            return self.lines(plan, columns)
        table = pa.table({name: self._array(plan, name) for name in names})
        if plan.target == ARROW:
            return text.to_stream(table)
        return b"".join(to_json(record) + b"\n" for record in table.to_pylist())

    def _numbers(self, plan: Plan, name: str) -> NDArray[Any]:
        """Return the values of a column of answers that are numbers."""
        manifest = self.model.manifest
        if name == VERSION:
            return np.full(len(self.y), self.model.version, dtype=np.int64)
        if name in (LOWER, UPPER) and plan.interval is not None and manifest.intervals:
            return manifest.intervals.around(self.y, plan.interval)[name == UPPER]
        if name in self.explained:
            return self.explained[name]
        if name == plan.prediction:
            return self.y
        names = plan.answers(manifest)
        return self.y[:, names.index(name) - names.index(plan.prediction)]

    def _is_label(self, plan: Plan, name: str) -> bool:
        return name == plan.prediction and bool(self.model.manifest.classes)

    def _cells(self, plan: Plan, name: str) -> pa.Array:
        """Return a column of answers as cells of CSV."""
        if self._is_label(plan, name):
            labels = [text.quoted_text(each, plan.marks).encode() for each in self.model.manifest.class_names]
            return text.of_places(labels, self.y[:, 0].astype(np.int64))
        decimal = plan.written.of_answers if plan.form == CSV else "."
        cells = text.numbers(self._numbers(plan, name), decimal=decimal)
        if plan.marks.separator == decimal.encode():
            quote = text.repeated(plan.marks.quote, len(cells))
            cells = text.joined([quote, cells, quote], b"")
        return cells

    def _values(self, plan: Plan, name: str) -> list[Any]:
        """Return a column of answers as values of JSON."""
        if self._is_label(plan, name):
            classes = self.model.manifest.classes
            return [classes[int(position)] for position in self.y[:, 0].tolist()]
        values: list[Any] = self._numbers(plan, name).tolist()
        return values

    def _array(self, plan: Plan, name: str) -> pa.Array | pa.ChunkedArray:
        """Return a column as Arrow has it; a feature that came as text is what the model was given."""
        if name in plan.answers(self.model.manifest):
            return pa.array(self._values(plan, name)) if self._is_label(plan, name) else self._numbers(plan, name)
        features = self.model.schema.by_name
        if plan.form != ARROW and name in features:
            return _typed(features[name], self.X[:, self.model.schema.names.index(name)], self.table.column(name))
        return self.table.column(name)

    def _texts(self, plan: Plan, name: str) -> pa.Array:
        """Return a column that is no answer as cells of CSV; a missing value is an empty cell."""
        cells = text.as_texts(self.table.column(name))
        return text.quoted(cells, plan.marks)


def _typed(feature: Feature, numbers: NDArray[np.float64], column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    missing = np.isnan(numbers)
    if feature.type == NUMBER:
        return pa.array(numbers, mask=missing)
    if feature.type == INTEGER:
        whole = np.where(missing, 0, numbers)
        is_large = len(whole) and np.abs(whole).max() >= 2**63
        return pa.array(
            numbers if is_large else whole.astype(np.int64), pa.float64() if is_large else pa.int64(), mask=missing
        )
    if feature.type == BOOLEAN:
        return pa.array(np.where(missing, 0, numbers).astype(np.bool_), mask=missing)
    return column


def to_json(value: Any) -> bytes:
    """Return a value as JSON; what JSON has no form for is its text."""
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)


def packed(content: bytes, compression: str) -> bytes:
    """Return bytes compressed as a part of a file: gzip and Zstandard read several one after the other as one."""
    if compression == GZIP:
        return gzip.compress(content, compresslevel=6, mtime=0)
    if compression == ZSTANDARD:
        return pa.Codec(ZSTANDARD).compress(content, asbytes=True) if content else b""
    return content
