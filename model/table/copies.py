"""Finds columns that give the target away: the same values, values in the same order, or categories with one each."""

from __future__ import annotations

from model.table.reader import Relation

_MINIMUM_ROWS = 10  # with fewer, columns agree by chance
_ROWS_A_VALUE = 5  # on average: values that are nearly all different determine anything


def copy_of(relation: Relation, column: str, target: str, *, sample: str, is_ordered: bool) -> str:
    """Return how a column gives the target away, or an empty text. Both are SQL; `is_ordered`: both are numbers.

    A table with a sample of the rows is asked first, and all rows only if it finds something.
    """
    found = ""
    for table in (sample, "data"):
        pairs = f"(SELECT {column} AS x, {target} AS y FROM {table} WHERE x IS NOT NULL AND y IS NOT NULL)"
        found = _found(relation, pairs, is_ordered)
        if not found:
            return ""
    return found


def _found(relation: Relation, pairs: str, is_ordered: bool) -> str:
    same = "count(*) FILTER (WHERE x <> y)" if is_ordered else "count(*) FILTER (WHERE CAST(x AS VARCHAR) <> y)"
    n_rows, n_x, n_different = relation.sql(f"SELECT count(*), count(DISTINCT x), {same} FROM {pairs}")[0]
    if n_rows < _MINIMUM_ROWS or n_x < 2:
        return ""
    if not n_different:
        return "has the target's values"
    if is_ordered:
        before = "SELECT x, y, lag(x) OVER w AS px, lag(y) OVER w AS py"
        query = f"{before} FROM (SELECT DISTINCT x, y FROM {pairs}) WINDOW w AS (ORDER BY x, y)"
        up, down = "count(*) FILTER (WHERE x = px OR y <= py)", "count(*) FILTER (WHERE x = px OR y >= py)"
        n_up, n_down = relation.sql(f"SELECT {up}, {down} FROM ({query}) WHERE px IS NOT NULL")[0]
        if not n_up or not n_down:
            return f"{'rises' if not n_up else 'falls'} with the target, row by row: one follows from the other"
    values = f"(SELECT min(y) AS low, max(y) AS high FROM {pairs} GROUP BY x)"
    n_open, n_low = relation.sql(f"SELECT count(*) FILTER (WHERE low <> high), count(DISTINCT low) FROM {values}")[0]
    if not n_open and n_low > 1 and n_rows >= _ROWS_A_VALUE * n_x:
        return "determines the target: each of its values stands beside one of the target's"
    return ""
