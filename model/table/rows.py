"""The rows of a table as the cells that a model's schema takes, read as the model's own table was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.schema import dates
from model.schema.feature import BOOLEAN, CATEGORY, DATE, INTEGER, NUMBER, Feature
from model.schema.reading import Reading
from model.table import reader
from model.table.description import CSV, ColumnDescription, Description, Dialect
from model.table.reader import Relation, open_table
from model.table.values import text_of, value_of


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


def columns_of(
    source: str | Path, features: Sequence[Feature], target: str, reading: Reading, given: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """Return the cells of the features' columns, those of all rows in their order, and unknown columns without cells.

    A cell that is not of its feature's type stays the text that it is, which a schema refuses with its row and column.
    Columns that the model did not get, and its target, are left out. `given` are arguments of `open_table`, which come
    before what the reading says. Raises `DataError` for what is no table, or has none of the features.
    """
    with open_table(source, **_arguments(reading, given)) as relation:
        names = [feature.name for feature in features]
        if not {*names} & {*relation.names}:
            raise DataError(
                f"{relation.source} has none of the model's columns; its own are {', '.join(map(repr, relation.names))}"
                f"{_how(relation, reading)}"
            )
        known = {*names, *reading.left_out, target}
        columns: dict[str, list[Any]] = {name: [] for name in relation.names if name not in known}
        for feature in features:
            if feature.name in relation.names:
                described = _described(relation, feature, reading, given)
                columns[feature.name] = _cells(relation, feature, described)
        return columns


def _arguments(reading: Reading, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `open_table`: the format is always found, and an encoding if it was UTF-8."""
    said = {} if reading.dialect.get("format", CSV) != CSV else dict(reading.dialect)
    said.pop("format", None)
    if str(said.get("encoding", "utf-8")).startswith("utf-8"):
        said.pop("encoding", None)
    return {**said, **given}


def _how(relation: Relation, reading: Reading) -> str:
    if relation.dialect.format != CSV or reading.dialect.get("format", CSV) != CSV:
        return ""
    return (
        f"; it was read with the separator {relation.dialect.separator!r}: say --separator if it has another one, or "
        "--plain if it is as a server takes it"
    )


def _described(relation: Relation, feature: Feature, reading: Reading, given: Mapping[str, Any]) -> ColumnDescription:
    """Return how the cells of a feature are written in this table."""
    said = dict(reading.columns.get(feature.name, {}))
    if {"decimal", "thousands"} & given.keys():
        said = {name: value for name, value in said.items() if name not in ("decimal", "thousands")}
    if relation.type(feature.name) != reader.TEXT:  # numbers of Parquet and JSON are written in one way
        said |= {"decimal": ".", "thousands": ""}
    return ColumnDescription(feature.name, feature.type, format=feature.format, **said)


def _categories(relation: Relation, feature: Feature, column: ColumnDescription) -> list[Any]:
    """Return the cells of a category, as a server reads them in CSV: a category is one, whatever its text is."""
    parse, missing = feature.cells.parse, {*column.missing}
    is_float = relation.type(column.name) == reader.NUMBER

    def cell(text: str | None) -> Any:
        if text is None or text.strip() in missing or (is_float and text == "nan"):
            return None
        if is_float and text not in feature.categories:  # 1.0, which 1 is in a column of pandas with gaps
            text = text.removesuffix(".0")
        return parse(text)

    return [cell(text) for (text,) in relation.sql(f"SELECT {relation.text(column.name)} FROM data ORDER BY rowid")]


def _cells(relation: Relation, feature: Feature, column: ColumnDescription) -> list[Any]:
    """Return the cells of a column: numbers, booleans, dates in ISO 8601, categories; None for a missing value."""
    if feature.type == CATEGORY:
        return _categories(relation, feature, column)
    texts = f"SELECT rowid AS row, {text_of(relation, column)} AS t FROM data"
    value = f"CAST({value_of(relation, column, 't')} AS DOUBLE)"
    rows = relation.sql(f"SELECT t, {value} FROM ({texts}) ORDER BY row")
    return [text if number is None else _cell(column.type, text, number) for text, number in rows]


def _cell(type: str, text: str, number: float) -> Any:
    if type == BOOLEAN:
        return bool(number)
    if type == DATE:
        return dates.text_of(number) if dates.LOWEST <= number <= dates.HIGHEST else text
    return number
