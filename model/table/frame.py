"""Makes of a described table what learners see: a frame of float64, categories and dates, and the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model import task as tasks
from model.engine.formula_syntax import nearest
from model.errors import DataError, Problem
from model.schema.feature import BOOLEAN, CATEGORY, DATE, INTEGER, MAX_CATEGORIES, NUMBER, Category
from model.table import reader
from model.table.description import LEARNED, ColumnDescription, Description
from model.table.reader import Relation, choose
from model.table.source import quoted
from model.table.values import moment_of, text_of, value_of

REGRESSION, CLASSIFICATION = (each.name for each in (tasks.REGRESSION, tasks.CLASSIFICATION))
MAX_LABELS = 1_000
# Of the cells that are there, more are not of their column's type: the column is something else.
MAX_WRONG_SHARE = 0.1
_FEW_NUMBERS = 10
_MAX_LISTED = 5  # wrong cells of a column
_TYPES_OF_NUMBERS = (NUMBER, INTEGER, BOOLEAN)


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a table that a model is fitted on, in the file's order.

    `frame` `(n_rows, n_features)` has numbers and booleans as float64, categories as categories of sorted strings, and
    dates as datetime64[us] in UTC. `target` `(n_rows,)` is float64 for a regression; for a classification it has
    labels, all of which are in `labels`, in order. `groups` `(n_rows,)` are numbers of groups, of which a row without
    one is its own; `times` `(n_rows,)` are numbers that order the rows. `row_numbers` `(n_rows,)` are those in the
    file, from 0, of its `n_rows_read` rows. `set_aside` counts the rows that are not used, by reason; `problems` are
    cells that count as missing, and choices that were made.
    """

    frame: pd.DataFrame
    columns: tuple[ColumnDescription, ...]
    target: NDArray[Any]
    labels: tuple[Category, ...]
    task: str
    groups: NDArray[np.int64] | None
    times: NDArray[np.float64] | None
    row_numbers: NDArray[np.int64]
    n_rows_read: int
    set_aside: Mapping[str, int]
    problems: tuple[Problem, ...]
    source: str
    sha256: str
    description: Description

    @property
    def n_rows(self) -> int:
        return len(self.frame)


def prepare(
    relation: Relation,
    description: Description,
    *,
    target: str = "",
    task: str = "",
    group: str = "",
    time: str = "",
    max_rows: int | None = None,
    seed: int = 0,
) -> Table:
    """Return the table as learners see it, at most `max_rows` rows of it, the same for the same seed.

    An empty target, task, group or time is the description's. A row without a target, or with one that is not of its
    type, is set aside. So is one without a time, if there is a time column. A cell that is not of its column's type
    counts as missing. Raises `DataError` with every reason for which there is no such table.
    """
    description = replace(
        description,
        target=target or description.target,
        task=task or description.task,
        group=group or description.group,
        time=time or description.time,
    )
    _check_columns(relation, description)
    of_target = description.column(description.target)
    described = {column.name: column for column in description.columns}
    problems: list[Problem] = []
    task = description.task or _task_of(relation, of_target, problems)
    _check_task(relation, of_target, task)
    rows, set_aside = _rows(relation, description, task)
    rows = rows if max_rows is None else choose(rows, max_rows, seed=seed)
    everything = len(rows) == relation.n_rows
    relation.connection.register("chosen_rows", pd.DataFrame({"row": rows}))
    try:
        table = "data" if everything else "(SELECT data.*, row AS rowid FROM data JOIN chosen_rows ON data.rowid = row)"
        problems += _wrong_cells(relation, description.learned, table)
        frame, left_out = _frame(relation, description.learned, table)
        problems += left_out
        read = _read_target(relation, of_target, task, table)
        groups = _values(relation, described[description.group], table) if description.group else None
        times = _values(relation, described[description.time], table) if description.time else None
    finally:
        relation.connection.unregister("chosen_rows")
    labels = () if task == REGRESSION else tuple(np.unique(read).tolist())
    if labels and not 1 < len(labels) <= MAX_LABELS:
        raise DataError(f"the target {of_target.name!r} has {len(labels):,} labels; 2 to {MAX_LABELS:,} can be learned")
    if task == REGRESSION and read.min() == read.max():
        raise DataError(f"the target {of_target.name!r} has only one value: there is nothing to learn")
    return Table(
        frame,
        tuple(column for column in description.learned if column.name in frame),
        read,
        labels,
        task,
        None if groups is None else _numbered(groups),
        None if times is None else _times(described[description.time], times),
        rows,
        relation.n_rows,
        set_aside,
        tuple(problems),
        relation.source,
        relation.sha256,
        description,
    )


def _numbered(groups: NDArray[Any]) -> NDArray[np.int64]:
    """Return a number for each group `(n_rows,)`; a row whose group is missing is a group of its own."""
    codes, names = pd.factorize(groups)
    alone = codes < 0
    codes[alone] = len(names) + np.arange(np.count_nonzero(alone))
    return codes.astype(np.int64)


def _check_columns(relation: Relation, description: Description) -> None:
    """Raise `DataError` for columns that the table lacks, all at once."""
    if not description.target:
        raise DataError(f"no target is named; say --target COLUMN, one of {', '.join(relation.names)}")
    roles = {"target": description.target, "group": description.group, "time": description.time}
    described = [column.name for column in description.columns]
    faults = [
        f"the {role} {name!r} is no column{nearest(name, described)}"
        for role, name in roles.items()
        if name and name not in described
    ]
    faults += [
        f"column {column.name!r} is not in the table{nearest(column.name, relation.names)}"
        for column in description.columns
        if column.name not in relation.names and (column.use or column.name in roles.values())
    ]
    if not faults and not description.learned:
        faults = ["no column is left to learn from; see why by python -m model describe, and correct it by --as"]
    if faults:
        raise DataError("\n  ".join([f"{relation.source} cannot be used:", *faults]))


def _times(column: ColumnDescription, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the times of rows as numbers. Raises `DataError` for a column without an order."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(
            f"the time {column.name!r} is of the type {column.type}, which has no order; name a column of dates or "
            f"numbers, or say what it is by --as {column.name}=TYPE"
        ) from None


def _task_of(relation: Relation, target: ColumnDescription, problems: list[Problem]) -> str:
    """Return the task that the target's type says."""
    if target.type not in (NUMBER, INTEGER):
        return CLASSIFICATION
    if target.type == NUMBER:
        return REGRESSION
    value = value_of(relation, target, "t")
    query = f"SELECT DISTINCT {value} AS v FROM (SELECT {text_of(relation, target)} AS t FROM data) WHERE v IS NOT NULL"
    n_values = len(relation.sql(f"{query} LIMIT {_FEW_NUMBERS + 1}"))
    if not 2 <= n_values <= _FEW_NUMBERS:
        return REGRESSION
    task, other = (CLASSIFICATION, REGRESSION) if n_values == 2 else (REGRESSION, CLASSIFICATION)
    reason = f"has {n_values} different whole numbers; taken for a {task}: say --task {other} if it is one"
    problems.append(Problem(None, target.name, reason))
    return task


def _check_task(relation: Relation, target: ColumnDescription, task: str) -> None:
    if task not in (REGRESSION, CLASSIFICATION):
        raise DataError(f"there is no task {task!r}; choose {REGRESSION} or {CLASSIFICATION}")
    if target.type not in LEARNED or target.type == DATE:
        raise DataError(
            f"the target {target.name!r} is of the type {target.type}, which cannot be predicted"
            f"{f' ({target.reason})' if target.reason else ''}; if it is something else, say --as {target.name}=TYPE"
        )
    if task == REGRESSION and target.type not in _TYPES_OF_NUMBERS:
        raise DataError(f"the target {target.name!r} is a {target.type}, and a regression predicts numbers")


def _rows(relation: Relation, description: Description, task: str) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Return the numbers of the rows that can be used, and how many cannot, by reason."""
    target = description.column(description.target)
    text = text_of(relation, target)
    reasons = {f"{target.name} is missing": "y IS NULL"}
    value = "y"
    if target.type in _TYPES_OF_NUMBERS:
        value = value_of(relation, target, "y")
        reasons[f"{target.name} is not a {target.type}"] = f"y IS NOT NULL AND ({value}) IS NULL"
    columns, usable = [f"{text} AS y"], f"({value}) IS NOT NULL"
    if description.time:
        time = description.column(description.time)
        columns.append(f"{text_of(relation, time)} AS s")
        when = value_of(relation, time, "s") if time.type != CATEGORY else "s"
        reasons[f"{time.name} is missing or no {time.type}"] = f"{usable} AND ({when}) IS NULL"
        usable += f" AND ({when}) IS NOT NULL"
    cells = f"(SELECT rowid AS row, {', '.join(columns)} FROM data)"
    counts = ", ".join(f"count(*) FILTER (WHERE {where})" for where in reasons.values())
    found = relation.sql(f"SELECT {counts} FROM {cells}")[0]
    set_aside = {reason: count for reason, count in zip(reasons, found) if count}
    if sum(set_aside.values()) == relation.n_rows:
        raise DataError(f"{relation.source} has no row that can be used: {', '.join(set_aside)}")
    if not set_aside:
        return np.arange(relation.n_rows), set_aside
    rows = relation.query(f"SELECT row FROM {cells} WHERE {usable} ORDER BY row")["row"].to_numpy(dtype=np.int64)
    return rows, set_aside


def _wrong_cells(relation: Relation, columns: Sequence[ColumnDescription], table: str) -> list[Problem]:
    """Return cells that are not of their column's type. Raises `DataError` if they are many in a column."""
    problems, faults = [], []
    for column in columns:
        if column.type == CATEGORY or relation.type(column.name) != reader.TEXT:
            continue
        cells = f"(SELECT rowid AS row, {text_of(relation, column)} AS t FROM {table}) WHERE t IS NOT NULL"
        wrong = f"({value_of(relation, column, 't')}) IS NULL"
        n_present, n_wrong = relation.sql(f"SELECT count(*), count(*) FILTER (WHERE {wrong}) FROM {cells}")[0]
        if not n_wrong:
            continue
        listed = relation.sql(f"SELECT row, t FROM {cells} AND {wrong} ORDER BY row LIMIT {_MAX_LISTED}")
        what = f"is no {column.type}, and counts as missing"
        problems += [Problem(row, column.name, f"{cell[:40]!r} {what}") for row, cell in listed]
        if n_wrong > len(listed):
            problems.append(Problem(None, column.name, f"{n_wrong:,} cells are no {column.type}"))
        if n_wrong > MAX_WRONG_SHARE * n_present:
            row, cell = listed[0]
            faults.append(
                f"column {column.name!r} is no {column.type}: {n_wrong:,} of {n_present:,} cells are none, such as "
                f"{cell[:40]!r} in row {row}"
            )
    if faults:
        raise DataError("\n  ".join([f"{relation.source} is not as its description says:", *faults]))
    return problems


def _frame(relation: Relation, columns: Sequence[ColumnDescription], table: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the features' cells, and the columns that have none in these rows."""
    texts, values, names, problems = [], [], [], []
    for number, column in enumerate(columns):
        text = f"t{number}"
        texts.append(f"{text_of(relation, column)} AS {text}")
        if column.type == CATEGORY:
            found = relation.sql(
                f"SELECT DISTINCT {text_of(relation, column)} AS t FROM {table} WHERE t IS NOT NULL "
                f"LIMIT {MAX_CATEGORIES + 1}"
            )
            categories = sorted(category for (category,) in found)
            if len(categories) > MAX_CATEGORIES:
                raise DataError(
                    f"column {column.name!r} has more than {MAX_CATEGORIES:,} categories; leave it out by --as "
                    f"{column.name}=ignore, or group the rare ones"
                )
            if not categories:
                problems.append(Problem(None, column.name, "has no value in these rows and is left out"))
                continue
            value = f"CAST({text} AS ENUM({', '.join(map(quoted, categories))}))"
        elif column.type == DATE:
            value = moment_of(column.format, text)
        else:
            value = f"CAST({value_of(relation, column, text)} AS DOUBLE)"
        values.append(f"{value} AS v{number}")
        names.append(column.name)
    if not names:
        raise DataError(f"{relation.source} has no column with values to learn from")
    cells = f"SELECT rowid AS row, {', '.join(texts)} FROM {table}"
    frame = relation.query(f"SELECT {', '.join(values)} FROM ({cells}) ORDER BY row")
    frame.columns = pd.Index(names)
    kinds = {column.name: column.type for column in columns}
    for name in names:
        if kinds[name] == DATE:
            frame[name] = frame[name].astype("datetime64[us]")
        elif kinds[name] == CATEGORY:
            frame[name] = frame[name].cat.as_unordered()
    return frame, problems


def _read_target(relation: Relation, column: ColumnDescription, task: str, table: str) -> NDArray[Any]:
    """Return the target's numbers, or its labels: strings, booleans, or numbers, whole ones as int64."""
    read = _values(relation, column, table)
    if task == REGRESSION:
        return np.asarray(read, dtype=np.float64)
    if column.type == BOOLEAN:
        return np.asarray(read == 1)
    if column.type == CATEGORY:
        return np.asarray(read, dtype=object)
    numbers = np.asarray(read, dtype=np.float64)
    return numbers.astype(np.int64) if (numbers == np.trunc(numbers)).all() else numbers


def _values(relation: Relation, column: ColumnDescription, table: str) -> NDArray[Any]:
    """Return a column's numbers, dates as seconds, or its texts; missing ones are NaN or None."""
    numeric = column.type in (*_TYPES_OF_NUMBERS, DATE)
    value = f"CAST({value_of(relation, column, 't')} AS DOUBLE)" if numeric else "t"
    cells = f"SELECT rowid AS row, {text_of(relation, column)} AS t FROM {table}"
    read = relation.query(f"SELECT {value} AS v FROM ({cells}) ORDER BY row")["v"]
    return read.to_numpy(dtype=np.float64) if numeric else read.to_numpy(dtype=object)
