"""All cells of a described table as one relation of SQL, for what counts, compares and filters rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model.schema.feature import BOOLEAN, DATE, INTEGER, NUMBER
from model.table.description import ColumnDescription, Description
from model.table.reader import Relation
from model.table.values import text_of, value_of

DAY = 86_400.0
CELLS = "cells"
_MAX_EXPRESSIONS = 200
_OF_NUMBERS = (NUMBER, INTEGER, BOOLEAN, DATE)


class Cells:
    """The cells of the described columns that a table has, parsed once into a table of SQL with the name of `CELLS`.

    It has a row for each of the table with `row`, its number. Numbers, dates and booleans are values, NULL for what is
    none; other columns are texts. What was not missing is said by `known`.
    """

    def __init__(self, relation: Relation, description: Description) -> None:
        self.relation = relation
        self.description = description
        self.columns = tuple(column for column in description.columns if column.name in relation.names)
        self._places = {column.name: place for place, column in enumerate(self.columns)}
        relation.sql(f"CREATE OR REPLACE TABLE {CELLS} AS {self._parsed()}")

    def _parsed(self) -> str:
        """Return the query that parses the cells: texts first, which is done once for all that is made of them."""
        texts, parsed = ["rowid AS row"], ["row"]
        for place, column in enumerate(self.columns):
            text = f"t{place}"
            texts.append(f"{text_of(self.relation, column)} AS {text}")
            if has_value(column):
                value = value_of(self.relation, column, text)
                if column.type in (NUMBER, INTEGER):
                    number = f"TRY_CAST({text} AS DOUBLE)"
                    value = f"coalesce({value}, CASE WHEN isinf({number}) THEN {number} END)"
                parsed += [f"{text} IS NOT NULL AS k{place}", f"CAST({value} AS DOUBLE) AS v{place}"]
            else:
                parsed.append(f"{text} AS v{place}")
        return f"SELECT {', '.join(parsed)} FROM (SELECT {', '.join(texts)} FROM data)"

    @property
    def checked(self) -> tuple[ColumnDescription, ...]:
        """Return the columns that are used: as features, or as target, group, time or date."""
        roles = {self.description.target, self.description.group, self.description.time, self.description.date}
        return tuple(column for column in self.columns if column.use or column.name in roles)

    def known(self, name: str) -> str:
        """Return the SQL of whether a column's cell is not missing."""
        place = self._places[name]
        return f"k{place}" if has_value(self.columns[place]) else f"v{place} IS NOT NULL"

    def value(self, name: str) -> str:
        """Return the SQL of a column's values: numbers, booleans as 0 and 1, dates as seconds since 1970; or texts.

        A number may be infinite.
        """
        return f"v{self._places[name]}"

    def texts(self, name: str, rows: Sequence[int]) -> list[str]:
        """Return the cells of a column in a few rows as they are in the table."""
        cell = self.relation.text(name)
        listed = ", ".join(map(str, rows))
        found = dict(self.relation.sql(f"SELECT rowid, {cell} FROM data WHERE rowid IN ({listed})"))
        return [found[row] or "" for row in rows]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.relation.sql(query)

    def in_batches(self, expressions: Sequence[str]) -> list[Any]:
        """Return an aggregate of all rows for each expression, of as many at a time as DuckDB plans quickly."""
        found: list[Any] = []
        for first in range(0, len(expressions), _MAX_EXPRESSIONS):
            batch = expressions[first : first + _MAX_EXPRESSIONS]
            found += self.rows(f"SELECT {', '.join(batch)} FROM {CELLS}")[0]
        return found


def literal(number: float) -> str:
    """Return a number as a literal of SQL, a DOUBLE with all its bits."""
    return f"CAST('{float(number)!r}' AS DOUBLE)"


def has_value(column: ColumnDescription) -> bool:
    """Return whether the cells of a column have values that are numbers: dates do, as seconds since 1970."""
    return column.type in _OF_NUMBERS
