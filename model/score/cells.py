"""The cells of a model's features in a table that is written as the model's own, in the form that a server takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from model.schema.feature import CATEGORY, INTEGER, MISSING_TEXTS, NUMBER, Feature
from model.schema.features import Schema
from model.schema.reading import Reading
from model.score.text import is_text
from model.table.marks import alike, check, pattern

_PLAIN = (".", "")


@dataclass(frozen=True, slots=True)
class Written:
    """How the cells of a table are written.

    `decimal` and `thousands` are those of its numbers in texts; `columns` say otherwise of single columns, as those of
    `Reading` do, unless the marks were `given`.
    """

    decimal: str = "."
    thousands: str = ""
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    given: bool = False

    @classmethod
    def of(cls, reading: Reading, given: Mapping[str, Any]) -> Written:
        """Return how a table is written: as the model's own, but for what is `given`, which `check` checks."""
        check(given.get("decimal"), given.get("thousands"))
        dialect = {**reading.dialect, **given}
        decimal, thousands = str(dialect.get("decimal", ".")), str(dialect.get("thousands", ""))
        return cls(decimal, thousands, reading.columns, bool({"decimal", "thousands"} & given.keys()))

    def marks(self, name: str) -> tuple[str, str]:
        """Return the decimal mark and the separator of thousands in a column."""
        said = self.columns.get(name, {})
        if self.given or not said.get("decimal"):
            return self.decimal, self.thousands
        return said["decimal"], said.get("thousands", "")

    @property
    def of_answers(self) -> str:
        """The decimal mark that answers in a table of text get: that of the table, or of all columns that say one."""
        said = {each["decimal"] for each in self.columns.values() if each.get("decimal")}
        return said.pop() if len(said) == 1 and not self.given and self.decimal == "." else self.decimal

    def missing(self, name: str) -> tuple[str, ...]:
        """Return the texts that mean a missing value in a column, beside the usual ones."""
        return tuple(self.columns.get(name, {}).get("missing", ()))

    def is_plain(self, feature: Feature) -> bool:
        """Return whether the cells of a feature are written as a server takes them."""
        is_number = feature.type in (NUMBER, INTEGER)
        return not self.missing(feature.name) and (not is_number or self.marks(feature.name) == _PLAIN)

    def features_of(self, table: pa.Table, schema: Schema) -> pa.Table:
        """Return the columns of the features, `(n_rows, n_features)` or fewer, written as a server takes them."""
        names = [feature.name for feature in schema.features if feature.name in table.column_names]
        cells = [self._plain(table.column(name), schema.by_name[name]) for name in names]
        return pa.table(dict(zip(names, cells))) if names else table.select([])

    def _plain(self, column: pa.ChunkedArray, feature: Feature) -> pa.ChunkedArray:
        if is_text(_value_type(column.type)):
            return column if self.is_plain(feature) else self._plain_text(column.cast(pa.string()), feature)
        if feature.type == CATEGORY and feature.has_text:
            return _as_texts(column, feature)
        return column

    def _plain_text(self, column: pa.ChunkedArray, feature: Feature) -> pa.ChunkedArray:
        trimmed = pc.utf8_trim_whitespace(column)
        missing = self.missing(feature.name)
        if missing:
            column = pc.if_else(pc.is_in(trimmed, pa.array(missing)), pa.scalar(None, pa.string()), column)
        decimal, thousands = self.marks(feature.name)
        if feature.type not in (NUMBER, INTEGER) or (decimal, thousands) == _PLAIN:
            return column
        plain = trimmed
        for mark in alike(thousands) if thousands else "":
            plain = pc.replace_substring(plain, mark, "")
        plain = pc.replace_substring(plain, decimal, ".")
        is_number = pc.match_substring_regex(trimmed, f"^(?:{pattern(decimal, thousands)})$")
        is_missing = pc.or_kleene(pc.is_null(column), pc.is_in(pc.utf8_lower(trimmed), pa.array(sorted(MISSING_TEXTS))))
        # What is written otherwise must not be read as a server would: 1.234 is no number where the mark is a comma.
        return pc.case_when(
            pc.make_struct(is_missing, is_number), pa.scalar(None, pa.string()), plain, pa.scalar("not a number")
        )


def _value_type(type: pa.DataType) -> pa.DataType:
    """Return the type of cells, those of a dictionary included."""
    return type.value_type if pa.types.is_dictionary(type) else type


def _as_texts(column: pa.ChunkedArray, feature: Feature) -> pa.ChunkedArray:
    """Return numbers and booleans as the texts that they have in CSV: 1.0 is 1 in a column of pandas with gaps."""
    value = _value_type(column.type)
    if pa.types.is_integer(value) or pa.types.is_boolean(value):
        return column.cast(value).cast(pa.string())
    if not pa.types.is_floating(value):
        return column
    known = {*map(str, feature.categories)}
    distinct = {
        number: _text(number, known) for number in pc.unique(column.cast(value)).to_pylist() if number == number
    }
    return pa.chunked_array([pa.array(map(distinct.get, column.cast(value).to_pylist()), pa.string())])


def _text(number: float | None, known: set[str]) -> str | None:
    if number is None:
        return None
    return str(number) if str(number) in known else str(number).removesuffix(".0")
