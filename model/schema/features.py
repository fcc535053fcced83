"""A model's schema: the features of a row and their order, and the conversion of named cells into a matrix.

Knows names, types and ranges; knows nothing about JSON, HTTP or models.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, islice
from operator import ge, le
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import Problem, SchemaError
from model.schema import dates
from model.schema.feature import (
    CATEGORY,
    DATE,
    MISSING,
    NOT_A_BOOLEAN,
    NOT_A_DATE,
    NOT_A_NUMBER,
    NOT_A_STRING,
    NOT_FINITE,
    NOT_WHOLE,
    OUT_OF_RANGE,
    UNKNOWN_CATEGORY,
    Category,
    Cells,
    Feature,
    from_document,
    to_document,
)

Matrix = NDArray[np.float64]

UNKNOWN = "unknown"
REPEATED = "repeated"
REASONS = (
    *(MISSING, UNKNOWN, NOT_A_NUMBER, NOT_FINITE, NOT_WHOLE, OUT_OF_RANGE),
    *(NOT_A_BOOLEAN, NOT_A_STRING, UNKNOWN_CATEGORY, NOT_A_DATE, REPEATED),
)
"""The reasons to reject a cell or a column: a bounded set for a metric's label. Problems of shape have free text."""

# Unknown names of a row that are listed one by one: a small body may have a million of them.
MAX_UNKNOWN = 20
# The check stops after so many problems: a small body may have a million wrong cells at a microsecond each.
MAX_PROBLEMS = 10_000
# Names from a client are cut to this length in messages: a name may be as long as a body.
_MAX_NAME = 200
# Without the name, in JSON with an indent of 4: 9 characters of white space, quotes, colon, comma, 24 for a number, and
# a part of the braces around a row.
_MAX_CELL_BYTES = 48
EXTRA_VALUES = 1_000  # for what surrounds the rows

# Problems for which the nearest known category is looked for: that takes up to milliseconds each.
MAX_NEAREST = 10

_log = logging.getLogger("tabserve")

_NUMBERS = frozenset({int, float})  # not bool: it is an int, and True is not a measurement


@dataclass(frozen=True)
class Schema:
    """The features of a model in the order of its matrix, and its target.

    Of a table's other columns the target is ignored, and with `ignore_unknown` every column.
    """

    features: tuple[Feature, ...]
    target: Feature
    ignore_unknown: bool = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @cached_property
    def cells(self) -> tuple[Cells, ...]:
        """What converts the cells of each feature."""
        return tuple(feature.cells for feature in self.features)

    @cached_property
    def n_places(self) -> tuple[int, ...]:
        """How many numbers the categories of each feature have, 0 for a feature that has none."""
        return tuple(cells.n_places for cells in self.cells)

    @cached_property
    def category_places(self) -> tuple[int, ...]:
        """How many numbers the categories of each feature have, 0 for any other feature, a boolean included."""
        return tuple(
            n_places if feature.type == CATEGORY else 0 for feature, n_places in zip(self.features, self.n_places)
        )

    @cached_property
    def parsers(self) -> Mapping[str, Callable[[str], Any]]:
        """What reads the texts of each feature in a table of text."""
        return {name: kind.parse for name, kind in zip(self.names, self.cells)}

    @cached_property
    def by_name(self) -> Mapping[str, Feature]:
        """The features by their names."""
        return {feature.name: feature for feature in self.features}

    @cached_property
    def _is_plain(self) -> bool:
        """Whether only finite numbers are accepted: then all cells are checked together."""
        return all(feature.is_plain for feature in self.features)

    @cached_property
    def _limits(self) -> tuple[Matrix, Matrix]:
        # Infinities are never accepted. Two dimensions, since numpy compares rows with rows in half the time.
        limits = np.array([(feature.lowest, feature.highest) for feature in self.features], dtype=np.float64)
        limits = limits.clip(-np.finfo(np.float64).max, np.finfo(np.float64).max)
        return limits[:, 0].reshape(1, -1), limits[:, 1].reshape(1, -1)

    @cached_property
    def _limits_as_lists(self) -> tuple[list[list[float]], list[list[float]]]:
        lowest, highest = self._limits
        return lowest.tolist(), highest.tolist()

    def max_values(self, max_rows: int) -> int:
        """Return the largest number of JSON values in a request of `max_rows`, with room for unknown columns."""
        return max_cells(max_rows, len(self.features))

    @cached_property
    def max_row_bytes(self) -> int:
        """The largest length of a row in JSON, with all names."""
        return sum(
            len(feature.name.encode()) + _MAX_CELL_BYTES + max(map(_length_in_json, _longest_texts(feature)), default=0)
            for feature in self.features
        )

    def ignores(self, name: str) -> bool:
        """Return whether a column that is not a feature is ignored. A warning about the target is logged once."""
        if name == self.target.name:
            _warn_ignored(name)
            return True
        return self.ignore_unknown

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Return the names that are neither features nor ignored; more than `MAX_UNKNOWN` are never ignored."""
        others = [name for name in names if name not in self.by_name]
        if self.ignore_unknown and len(others) > MAX_UNKNOWN:
            return others
        return [name for name in others if not self.ignores(name)]

    def matrix_from_records(self, records: Sequence[Mapping[str, Any]]) -> Matrix:
        """Return `(n_rows, n_features)` float64 from one mapping per row, keys in any order.

        A row may leave out what may be missing. Raises `SchemaError` with every problem of every row.
        """
        names = self.names
        width = len(names)
        try:
            cells = [record[name] for record in records for name in names]
            is_complete = [len(record) for record in records].count(width) == len(records)
        except KeyError:  # a name that is left out is the same as null
            cells, is_complete = [record.get(name) for record in records for name in names], False
        if not is_complete and any(map(self.unknown, records)):
            raise schema_error(self._record_problems(records), len(records))
        matrix = self._matrix(cells)
        if matrix is None:
            raise schema_error(self._record_problems(records), len(records))
        return matrix

    def matrix_from_rows(self, rows: Sequence[Any], header: Sequence[Any]) -> Matrix | None:
        """Return `(n_rows, n_features)` float64 from lists with the columns of `header`, in any order.

        A fast path for valid rows: returns None if there is any problem.
        """
        if set(map(type, rows)) != {list} or set(map(len, rows)) != {len(header)}:
            return None
        if tuple(header) == self.names:
            return self._matrix(list(chain.from_iterable(rows)))
        if set(map(type, header)) != {str} or len(set(header)) < len(header) or self.unknown(header):
            return None
        try:
            positions = [header.index(name) for name in self.names]
        except ValueError:
            return None
        return self._matrix([row[position] for row in rows for position in positions])

    def matrix_from_columns(self, columns: Mapping[str, Sequence[Any]]) -> Matrix:
        """Return `(n_rows, n_features)` float64 from columns of equal length, in any order.

        Raises `SchemaError` with every problem; a missing or unknown column is one problem, not one per row.
        """
        n_rows = max(map(len, columns.values()), default=0)
        problems = [Problem(None, name, MISSING) for name in self.names if name not in columns]
        problems += [Problem(None, shortened(name), UNKNOWN) for name in self.unknown(columns)]
        present = [(number, columns[name]) for number, name in enumerate(self.names) if name in columns]
        if not problems:
            matrix = self._matrix([cell for row in zip(*(columns[name] for name in self.names)) for cell in row])
            if matrix is not None:
                return matrix
        nearest_left = iter(range(MAX_NEAREST))
        cell_problems = (
            self.cell_problems(row, ((number, column[row]) for number, column in present), nearest_left)
            for row in range(n_rows)
        )
        raise schema_error(chain(problems, chain.from_iterable(cell_problems)), n_rows)

    def matrix_from_array(self, X: Matrix) -> Matrix:
        """Return `X` `(n_rows, n_features)`, in the schema's order, if every cell is acceptable.

        Raises `SchemaError` with every problem.
        """
        if self._is_plain:
            if self._accepts(X):
                return X
        else:
            matrix = _stacked([cells.from_array(column) for cells, column in zip(self.cells, X.T)])
            if matrix is not None:
                return matrix
        nearest_left = iter(range(MAX_NEAREST))
        cell_problems = (
            self.cell_problems(row, enumerate(cells), nearest_left) for row, cells in enumerate(X.tolist())
        )
        raise schema_error(chain.from_iterable(cell_problems), len(X))

    def to_log(self, X: Matrix) -> Iterable[Sequence[Any]]:
        """Return the rows of `X` `(n_rows, n_features)` as the prediction log has them: categories by their names."""
        if self._is_plain:
            rows: list[list[float]] = X.tolist()
            return rows
        return zip(*(map(kind.to_log, column) for kind, column in zip(self.cells, X.T.tolist())))

    def _matrix(self, cells: list[Any]) -> Matrix | None:
        """Return the cells as a matrix, or None if any is not acceptable: a fast path for valid rows."""
        if not self._is_plain:
            return self._mixed_matrix(cells)
        if not _NUMBERS.issuperset(map(type, cells)):
            return None
        width = len(self.features)
        try:
            if len(cells) == width:  # for one row, calling numpy takes longer than comparing its cells
                (lowest,), (highest,) = self._limits_as_lists
                row = list(map(float, cells))
                fits = all(map(le, lowest, row)) and all(map(ge, highest, row))
                return np.array([row]) if fits else None
            matrix = np.array(cells, dtype=np.float64).reshape(-1, width)
        except OverflowError:  # an integer beyond float64
            return None
        return matrix if self._accepts(matrix) else None

    def _mixed_matrix(self, cells: list[Any]) -> Matrix | None:
        width = len(self.features)
        if len(cells) == width:
            row = [kind.number(cell) for kind, cell in zip(self.cells, cells)]
            return None if None in row else np.array([row], dtype=np.float64)
        return _stacked([kind.numbers(cells[number::width]) for number, kind in enumerate(self.cells)])

    def _accepts(self, X: Matrix) -> bool:
        lowest, highest = self._limits
        # NaN compares false, so it is rejected, too. For a single row, numpy's all() takes as long as the rest.
        return 0 not in (lowest <= X).tobytes() and 0 not in (highest >= X).tobytes()

    def _record_problems(self, records: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
        """Yield every problem of `records`."""
        nearest_left = iter(range(MAX_NEAREST))
        for row, record in enumerate(records):
            yield from self.cell_problems(row, enumerate(map(record.get, self.names)), nearest_left)
            unknown = self.unknown(record)
            yield from (Problem(row, shortened(name), UNKNOWN) for name in unknown[:MAX_UNKNOWN])
            if len(unknown) > MAX_UNKNOWN:
                yield Problem(row, None, f"has {len(unknown) - MAX_UNKNOWN} more unknown names")

    def cell_problems(
        self, row: int, cells: Iterable[tuple[int, Any]], nearest_left: Iterator[object]
    ) -> Iterator[Problem]:
        """Yield the problems of a row's cells, each of which comes with its feature's number.

        For a number or a date out of range the limit is named, for a category the nearest known one while there is
        anything in `nearest_left`.
        """
        for number, cell in cells:
            reason = self.cells[number].reason(cell)
            if reason:
                is_near = reason == OUT_OF_RANGE or (
                    reason == UNKNOWN_CATEGORY and next(nearest_left, None) is not None
                )
                nearest = self.cells[number].nearest(cell) if is_near else None
                yield Problem(row, self.names[number], reason, nearest, self.cells[number].accepted(reason))


def _stacked(columns: list[Matrix | None]) -> Matrix | None:
    """Return columns `(n_rows,)` as one matrix; None if any column is None."""
    accepted = [column for column in columns if column is not None]
    return np.column_stack(accepted) if len(accepted) == len(columns) else None


def _longest_texts(feature: Feature) -> Sequence[Category]:
    """Return the texts of a feature, or one as long as the longest of them."""
    return ["x" * dates.MAX_LENGTH] if feature.type == DATE else feature.categories


def _length_in_json(category: Category) -> int:
    """Return the largest length of a category in JSON: a writer may escape every character."""
    return 3 * len(category.encode("utf-16-le")) if isinstance(category, str) else 0


def schema_error(problems: Iterable[Problem], n_rows: int) -> SchemaError:
    """Return the error with all problems, up to `MAX_PROBLEMS`."""
    found = list(islice(problems, MAX_PROBLEMS + 1))
    return SchemaError(found[:MAX_PROBLEMS], n_rows=n_rows, more=len(found) > MAX_PROBLEMS)


def shortened(name: str) -> str:
    """Return a client's name for a message, cut off if it is too long."""
    return name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…"


@cache
def _warn_ignored(target: str) -> None:
    """Warn, once per process, that a table has the target among its columns."""
    _log.warning("a table has the column %r, which is the model's target: the column is ignored", target)


def max_cells(max_rows: int, width: int) -> int:
    """Return the largest number of cells in a table of `max_rows` and `width` columns, with room for unknown ones."""
    return max_rows * (width + MAX_UNKNOWN) + EXTRA_VALUES


def check_width(n_columns: int, names: Sequence[str] | None) -> None:
    """Raise `SchemaError` for far more columns than `names`, before the columns are processed."""
    if names is not None and n_columns > len(names) + MAX_UNKNOWN:
        raise SchemaError([Problem(None, None, f"has {n_columns} columns where there are {len(names)}")], n_rows=0)


def shape_problems(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> list[Problem]:
    """Return a problem for each repeated name in the header and for each row of another length than the header."""
    problems = [Problem(None, shortened(name), REPEATED) for name, count in Counter(header).items() if count > 1]
    width = len(header)
    problems += [
        Problem(number, None, f"has {len(row)} cells where there are {width} columns")
        for number, row in enumerate(rows)
        if len(row) != width
    ]
    return problems


def to_manifest(schema: Schema) -> dict[str, Any]:
    """Return the schema for the manifest."""
    *of_features, target = (to_document(feature) for feature in (*schema.features, schema.target))
    return {"features": of_features, "target": target}


def from_manifest(manifest: Mapping[str, Any]) -> Schema:
    """Return the schema that `to_manifest` wrote. Raises `TypeError` or `ValueError` for anything else."""
    schema = Schema(
        features=tuple(from_document(feature) for feature in manifest["features"]),
        target=from_document(manifest["target"]),
    )
    if not schema.features:
        raise ValueError("there are no features")
    if len(set(schema.names)) < len(schema.names):
        raise ValueError("two features have the same name")
    return schema
