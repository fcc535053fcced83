"""Joins the records of two tables by a key: which rows, and which cell where both have another one, is stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.engine.formula_syntax import nearest
from model.errors import DataError, counted
from model.table import output
from model.table.reader import NUMBER, TEXT, TIME, WHOLE, Relation
from model.table.source import quoted

INNER, LEFT, OUTER = "inner", "left", "outer"
KINDS = (INNER, LEFT, OUTER)
ERROR, RIGHT = "error", "right"
RULES = (ERROR, LEFT, RIGHT)
_MAX_LISTED = 10


@dataclass(frozen=True, slots=True)
class Side:
    """A table that was set aside as a file of Parquet: its name for people, and its columns with their types."""

    path: Path
    source: str
    types: dict[str, str]


@dataclass(frozen=True, slots=True)
class Joined:
    """How many rows were written, and how many rows of the first and the second table have no other."""

    n_rows: int
    n_left_alone: int
    n_right_alone: int


def set_aside(relation: Relation, path: Path) -> Side:
    """Write a table with the number of each row to a file, so that its database can be closed."""
    columns = ", ".join(f"{relation.identifier(each)} AS c{place}" for place, each in enumerate(relation.names))
    relation.sql(f"COPY (SELECT rowid AS row, {columns} FROM data) TO {quoted(path)} (FORMAT parquet)")
    return Side(path, relation.source, dict(zip(relation.names, relation.types)))


def join(
    left: Relation,
    right: Side,
    path: Path,
    *,
    on: Sequence[str],
    kind: str = INNER,
    conflict: str = ERROR,
    repeated: bool = False,
) -> Joined:
    """Write the rows of two tables that have the same cells in the columns `on`: the same text, number or moment.

    The rows are in the order of the first table; those of the second alone come last, if `kind` is `OUTER`. A missing
    cell of the key equals none. Of a column that both have, the cell that is not missing counts; if both have one, and
    they differ, `conflict` says whose, or that it is an error. Each pair of rows is written if keys repeat and
    `repeated` allows it. Raises `DataError`.
    """
    for each in on:
        for source, known in ((left.source, left.names), (right.source, tuple(right.types))):
            if each not in known:
                raise DataError(
                    f"{source} has no column {each!r}{nearest(each, known)}; its columns are {', '.join(known)}"
                )
    names = [*left.names, *(each for each in right.types if each not in left.names)]
    output.listed(path, dict.fromkeys(names, ""))
    places = {each: f"c{place}" for place, each in enumerate(right.types)}
    rows = f"read_parquet({quoted(right.path)})"
    keys = [_comparable(left.identifier(each), places[each], left.type(each), right.types[each]) for each in on]
    for each in on:
        _check_exact(left, left.source, "data", each, left.identifier(each), left.type(each))
        _check_exact(left, right.source, rows, each, places[each], right.types[each])
    if not repeated:
        _check_unique(left, left.source, "data", on, [key for key, _ in keys])
        _check_unique(left, right.source, rows, on, [key for _, key in keys])
    own = ", ".join([f"{key} AS k{place}" for place, (key, _) in enumerate(keys)])
    others = ", ".join([f"{key} AS k{place}" for place, (_, key) in enumerate(keys)])
    same = " AND ".join(f"l.k{place} = r.k{place}" for place in range(len(keys)))
    how = {INNER: "JOIN", LEFT: "LEFT JOIN", OUTER: "FULL JOIN"}[kind]
    shared = [each for each in left.names if each in right.types]
    columns: list[str] = []
    differing: list[tuple[str, str]] = []
    for each in names:
        a = f"l.{left.identifier(each)}" if each in left.names else ""
        b = f"r.{places[each]}" if each in places else ""
        if a and b:
            if each not in on:
                differing.append(_comparable(a, b, left.type(each), right.types[each]))
            a, b = _alike(a, b, left.type(each), right.types[each])
            first, second = (b, a) if conflict == RIGHT else (a, b)
            columns.append(f"coalesce({first}, {second})")
        else:
            columns.append(a or b)
    listed = ", ".join(f"{cell} AS j{place}" for place, cell in enumerate(columns))
    sources = f"(SELECT rowid AS row, {own}, * FROM data) AS l {how} (SELECT {others}, * FROM {rows}) AS r ON {same}"
    if conflict == ERROR and differing:
        _check_agreement(left, right, sources, [each for each in shared if each not in on], differing, len(keys))
    left.sql(f"CREATE TABLE joined AS SELECT l.row AS l_row, r.row AS r_row, {listed} FROM {sources}")
    matched = left.sql(
        "SELECT count(DISTINCT l_row) FILTER (r_row IS NOT NULL), count(DISTINCT r_row) FILTER (l_row IS NOT NULL) "
        "FROM joined"
    )[0]
    n_right = left.sql(f"SELECT count(*) FROM {rows}")[0][0]
    shown = output.listed(path, {each: f"j{place}" for place, each in enumerate(names)})
    query = f"SELECT {shown} FROM joined ORDER BY l_row NULLS LAST, r_row"
    (n_rows,) = output.write(left, {path: query})
    return Joined(n_rows, left.n_rows - matched[0], n_right - matched[1])


def _alike(a: str, b: str, of_a: str, of_b: str) -> tuple[str, str]:
    """Return the SQL of two cells in one type: their own if they have the same, else numbers or texts."""
    if of_a == of_b:
        return a, b
    kind = NUMBER if {of_a, of_b} == {NUMBER, WHOLE} else TEXT
    return f"CAST({a} AS {kind})", f"CAST({b} AS {kind})"


def _comparable(a: str, b: str, of_a: str, of_b: str) -> tuple[str, str]:
    """Return the SQL of two cells that is equal if they say the same: in one type, or of a text and another the text.

    A text says a number if it is written as that is, with .0 or not, and a moment if it is a date or time.
    """
    if of_a == of_b or {of_a, of_b} == {NUMBER, WHOLE}:
        return _alike(a, b, of_a, of_b)
    return _said(a, of_a, of_b), _said(b, of_b, of_a)


def _said(cell: str, kind: str, other: str) -> str:
    """Return the SQL of the text that a cell of a type is compared by with a cell of another type."""
    text = f"CAST({cell} AS VARCHAR)"
    if other in (NUMBER, WHOLE) or kind == NUMBER:
        return f"regexp_replace({text}, '^(-?[0-9]+)\\.0+$', '\\1')"
    if other == TIME and kind == TEXT:
        return f"coalesce(CAST(CAST(TRY_CAST({cell} AS TIMESTAMPTZ) AS TIMESTAMP) AS VARCHAR), {cell})"
    return text


def _check_exact(relation: Relation, source: str, rows: str, column: str, cell: str, kind: str) -> None:
    """Raise `DataError` if a column of keys is of float64 and has whole numbers that are not exact in it."""
    if kind == NUMBER and relation.sql(f"SELECT 1 FROM {rows} WHERE abs({cell}) >= {2**53} LIMIT 1"):
        raise DataError(
            f"{source} has numbers beyond 2^53 in the key {column!r}, whose digits are not all kept; make texts of them"
        )


def _check_unique(relation: Relation, source: str, rows: str, on: Sequence[str], keys: Sequence[str]) -> None:
    """Raise `DataError` if several rows have the same key, with the first such keys."""
    present = " AND ".join(f"{key} IS NOT NULL" for key in keys)
    several = f"FROM {rows} WHERE {present} GROUP BY {', '.join(keys)} HAVING count(*) > 1"
    found = relation.sql(f"SELECT {', '.join(keys)}, count(*) {several} ORDER BY ALL LIMIT {_MAX_LISTED + 1}")
    if found:
        listed = [f"{_key(on, values)} ({count:,} rows)" for *values, count in found[:_MAX_LISTED]]
        more = ["…"] if len(found) > _MAX_LISTED else []
        raise DataError(
            f"{source} has several rows with the same key: {', '.join([*listed, *more])}; remove all but one, add "
            "columns to the key by another --on, or write every pair with --repeated"
        )


def _check_agreement(
    relation: Relation,
    right: Side,
    sources: str,
    columns: Sequence[str],
    differing: Sequence[tuple[str, str]],
    n_keys: int,
) -> None:
    """Raise `DataError` if cells of the same row and column differ, with the first of them."""
    counts = ", ".join(f"count(*) FILTER ({a} <> {b})" for a, b in differing)
    n_conflicts = relation.sql(f"SELECT {counts} FROM {sources}")[0]
    if not any(n_conflicts):
        return
    lines: list[str] = []
    for column, (a, b), n_rows in zip(columns, differing, n_conflicts):
        if n_rows and len(lines) < _MAX_LISTED:
            keys = ", ".join(f"l.k{place}" for place in range(n_keys))
            values: tuple[Any, ...] = relation.sql(
                f"SELECT {keys}, {a}, {b} FROM {sources} WHERE {a} <> {b} ORDER BY l.row LIMIT 1"
            )[0]
            lines.append(
                f"column {column!r}: {counted(n_rows, 'row')}, such as {', '.join(map(repr, values[:n_keys]))} with "
                f"{values[-2]!r} and {values[-1]!r}"
            )
    head = f"{relation.source} and {right.source} have different values of the same row"
    remedy = "say whose count with --conflict left or right, or leave out one of the columns"
    raise DataError("\n  ".join([f"{head}; {remedy}", *lines]))


def _key(on: Sequence[str], values: Sequence[Any]) -> str:
    return " and ".join(f"{column} {value!r}" for column, value in zip(on, values))
