"""Encoders of categories as tables of their own answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from model.schema.features import Matrix
from model.train.compile.blocks import NoColumns, Program, Refused, as_numbers

ENCODERS = (OneHotEncoder, OrdinalEncoder, TargetEncoder)
"""The steps that take numbers for categories."""

_MAX_ANSWERS = 2**24  # of a step for one column: 128 MiB
_MIN_ONE_HOT = 3  # columns of 0 and 1 that are worth operations of their own


def by_asking(
    program: Program,
    steps: Sequence[Any],
    block: int,
    ask: Callable[[Matrix], Any],
    n_places: Mapping[int, int] | None = None,
) -> int:
    """Add tables of what steps make of each category of a block, and return the number of the result.

    `ask` takes rows of the block. `n_places` are the numbers of places of the columns that have categories; other
    columns have numbers that an encoder takes for categories. Raises `Refused` if a column of the result depends on
    several columns, or on numbers that are not listed; `NoColumns` if there are none.
    """
    places = dict(n_places or {})
    base = program.values[block][:1]
    n_columns = base.shape[1]
    lists = _lists(steps, [column for column in range(n_columns) if column not in places], n_columns)
    tables: list[NDArray[np.float64]] = []
    for column in range(n_columns):
        names = getattr(steps[-1], "feature_names_in_", ()) if steps else ()
        name = repr(str(names[column])) if len(names) == n_columns else "that column"
        tables.append(_answers(ask, base, column, places.get(column), lists.get(column), name))
    if not tables[0].shape[1]:
        raise NoColumns
    depends = np.array([~_equal(table, table[:1]).all(axis=0) for table in tables])  # (n_columns, width)
    if (depends.sum(axis=0) > 1).any():
        raise Refused("a column that it makes depends on several columns")
    source = np.where(depends.any(axis=0), depends.argmax(axis=0), 0)
    if lists:
        block = _as_places(program, block, lists, n_columns)
    is_one_hot = _is_one_hot(tables, source)
    parts = [(_one_hot, np.flatnonzero(is_one_hot)), (_scalars, np.flatnonzero(~is_one_hot))]
    made = [add(program, block, tables, source, chosen) for add, chosen in parts if len(chosen)]
    order = np.argsort(np.concatenate([chosen for _, chosen in parts]))
    return program.add("take", program.join(made), order)


def _lists(steps: Sequence[Any], numbers: Sequence[int], n_columns: int) -> dict[int, NDArray[np.float64]]:
    """Return the numbers that an encoder takes for categories, in order, for each of these columns."""
    if not numbers:
        return {}
    known = getattr(steps[-1], "categories_", None) if steps else None
    if known is None or len(known) != n_columns:
        raise Refused("it turns numbers and categories into columns at once; give them steps of their own")
    found = {}
    for number in numbers:
        try:
            values = np.asarray(known[number], dtype=np.float64)
        except (TypeError, ValueError):
            raise Refused("it takes numbers for text") from None
        found[number] = np.unique(values[np.isfinite(values)])
        if not len(found[number]):
            raise Refused("a column of it has no values")
    return found


def _answers(
    ask: Callable[[Matrix], Any],
    base: Matrix,
    column: int,
    n_places: int | None,
    numbers: NDArray[np.float64] | None,
    name: str,
) -> Matrix:
    """Return what a step makes of each place of a column, an unseen number and, last, a missing value.

    What it refuses is as the first place: the schema does not let it in.
    """
    if n_places is not None:
        values = np.arange(n_places, dtype=np.float64)
    else:
        assert numbers is not None
        values = np.append(numbers, numbers[-1] + max(1.0, abs(float(numbers[-1]))))
    rows = np.repeat(base, len(values), axis=0)
    rows[:, column] = values
    if len(rows) * max(1, _width(ask, base)) > _MAX_ANSWERS:
        raise Refused("it makes too many columns; group rare categories, for example by max_categories")
    try:
        known = as_numbers(ask(rows))
    except Exception:  # each library has classes of its own
        if n_places is None:
            raise Refused(
                f"it refuses numbers that it was not fitted on; make {name} a category before the fit, or set "
                "handle_unknown"
            ) from None
        raise
    missing = base.copy()
    missing[0, column] = np.nan
    try:
        last = as_numbers(ask(missing))
    except Exception:  # each library has classes of its own
        last = known[:1]
    return np.vstack([known, last])


def _width(ask: Callable[[Matrix], Any], base: Matrix) -> int:
    return int(ask(base).shape[1])


def _equal(first: Matrix, second: Matrix) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (first == second) | (np.isnan(first) & np.isnan(second))
    return found


def _as_places(program: Program, block: int, lists: Mapping[int, NDArray[np.float64]], n_columns: int) -> int:
    """Turn the numbers of these columns into places in their lists."""
    columns = np.array(sorted(lists), dtype=np.int64)
    counts = np.array([len(lists[column]) for column in columns])
    taken = program.add("take", block, columns)
    places = program.add("places", taken, np.concatenate([lists[column] for column in columns]), counts)
    if len(columns) == n_columns:
        return places
    order = np.arange(n_columns)
    order[columns] = n_columns + np.arange(len(columns))
    return program.add("take", program.join([block, places]), order)


def _is_one_hot(tables: Sequence[Matrix], source: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which columns are 1 for places of their own and else 0, with others of the same source."""
    found = np.zeros(len(source), dtype=bool)
    for column, table in enumerate(tables):
        chosen = np.flatnonzero(source == column)
        of_source = table[:, chosen]
        chosen = chosen[((of_source == 0) | (of_source == 1)).all(axis=0)]
        if len(chosen) >= _MIN_ONE_HOT and (table[:, chosen].sum(axis=1) <= 1).all():
            found[chosen] = True
    return found


def _one_hot(
    program: Program, block: int, tables: Sequence[Matrix], source: NDArray[np.intp], chosen: NDArray[np.intp]
) -> int:
    """Add one table a source, of which of its columns is 1, and a comparison for each column."""
    sources = np.unique(source[chosen])
    lists, compared = [], np.empty(len(chosen))
    for column in sources:
        of_source = tables[column][:, chosen[source[chosen] == column]]
        lists.append(np.where(of_source.any(axis=1), of_source.argmax(axis=1), -1).astype(np.float64))
        compared[source[chosen] == column] = np.arange(of_source.shape[1])
    taken = program.add("take", block, sources)
    places = program.add("table", taken, np.concatenate(lists), np.array([len(each) for each in lists]))
    repeated = program.add("take", places, np.searchsorted(sources, source[chosen]))
    return program.add("equal", repeated, compared)


def _scalars(
    program: Program, block: int, tables: Sequence[Matrix], source: NDArray[np.intp], chosen: NDArray[np.intp]
) -> int:
    """Add a table for each column."""
    lists = [tables[source[column]][:, column] for column in chosen]
    taken = program.add("take", block, source[chosen])
    return program.add("table", taken, np.concatenate(lists), np.array([len(each) for each in lists]))
