"""How a table is written, for the manifest of its model, so that such a table is read so again."""

from __future__ import annotations

from typing import Any

from model.schema.feature import INTEGER, NUMBER
from model.schema.reading import Reading
from model.table.description import CSV, Description, Dialect


def reading_of(description: Description) -> Reading:
    """Return how the table of a description is written, as the manifest of its model keeps it."""
    dialect = description.dialect or Dialect()
    columns: dict[str, dict[str, Any]] = {}
    for column in description.learned:
        said: dict[str, Any] = {}
        if column.type in (NUMBER, INTEGER) and column.decimal:
            marks = (column.decimal, column.thousands)
            said = {"decimal": marks[0], "thousands": marks[1]} if marks != (dialect.decimal, dialect.thousands) else {}
        if column.missing:
            said["missing"] = column.missing
        if said:
            columns[column.name] = said
    features = {column.name for column in description.learned}
    left_out = tuple(each.name for each in description.columns if each.name not in {*features, description.target})
    return Reading(dialect.options if dialect.format == CSV else {"format": dialect.format}, columns, left_out)
