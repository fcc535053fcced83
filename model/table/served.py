"""A table as a served model takes it: its features' matrix and the true values, for a version that is there already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.engine.formula_syntax import nearest
from model.errors import DataError
from model.schema import dates
from model.schema.feature import BOOLEAN, CATEGORY, DATE, Feature
from model.schema.features import Matrix, Schema
from model.table import infer
from model.table.description import LEARNED
from model.table.frame import CLASSIFICATION, REGRESSION, prepare
from model.table.reader import Relation


@dataclass(frozen=True, slots=True)
class ServedRows:
    """The rows of a table that have a true value, in its order.

    `y` has numbers, or the places of labels in the model's list, -1 for one that is not in it. `cells` are those of
    the column that was asked for.
    """

    X: Matrix  # (n_rows, n_features)
    y: NDArray[np.float64]  # (n_rows,)
    cells: Sequence[Any]


def read(
    relation: Relation, schema: Schema, *, missing: Mapping[str, Sequence[str]] | None = None, column: str = ""
) -> ServedRows:
    """Return the rows of a table for a model with this schema, and the cells of one more column.

    The types are the schema's; how numbers and dates are written is found out. `missing` has by column the texts that
    mean a missing value, beside the usual ones. Raises `DataError` for a table that lacks a column or has no true
    value, and `SchemaError` for cells that the model refuses.
    """
    target = schema.target
    needed = [feature.name for feature in schema.features if feature.name in relation.names or not feature.missing]
    absent = [
        name for name in dict.fromkeys((*needed, target.name, column or target.name)) if name not in relation.names
    ]
    if absent:
        listed = ", ".join(f"{name!r}{nearest(name, relation.names)}" for name in absent)
        raise DataError(f"{relation.source} has no column {listed}; its columns are {', '.join(relation.names)}")
    types = {
        feature.name: _type_of(feature) for feature in (*schema.features, target) if feature.name in relation.names
    }
    description = infer.describe(relation, target=target.name, types=types).description
    if column and column not in types and description.column(column).type not in LEARNED:
        description = infer.describe(relation, target=target.name, types={**types, column: CATEGORY}).description
    wanted = {*needed, target.name, column}
    columns = tuple(
        replace(each, missing=tuple(dict.fromkeys((*each.missing, *(missing or {}).get(each.name, ())))))
        for each in description.columns
        if each.name in wanted
    )
    task = CLASSIFICATION if target.type in (CATEGORY, BOOLEAN) else REGRESSION
    table = prepare(relation, replace(description, columns=columns, rules=(), date=""), task=task)
    cells = {feature.name: _cells(feature, table.frame, table.n_rows) for feature in schema.features}
    if task == REGRESSION:
        y = np.asarray(table.target, dtype=np.float64)
    else:
        y = np.array([_place(target, label) for label in table.target.tolist()])
        if (y < 0).all():
            raise DataError(f"no value of {target.name!r} in {relation.source} is a label of the model")
    if not column:
        return ServedRows(schema.matrix_from_columns(cells), y, ())
    chosen = table.target.tolist() if column == target.name else _plain(table.frame, column, table.n_rows)
    return ServedRows(schema.matrix_from_columns(cells), y, chosen)


def _type_of(feature: Feature) -> str:
    return f"{DATE}:{feature.format}" if feature.type == DATE and feature.format else feature.type


def _place(target: Feature, label: Any) -> float:
    """Return the place of a label in the model's list, -1 for none."""
    place = target.cells.number(target.cells.parse(str(label)))
    return -1.0 if place is None or math.isnan(place) else place


def _cells(feature: Feature, frame: pd.DataFrame, n_rows: int) -> list[Any]:
    """Return a feature's cells as a client sends them."""
    plain = _plain(frame, feature.name, n_rows)
    if feature.type == CATEGORY:
        parsed = {text: feature.cells.parse(text) for text in set(plain) - {None}}
        return [parsed.get(text) for text in plain]
    if feature.type == BOOLEAN:
        return [None if value is None else bool(value) for value in plain]
    return plain


def _plain(frame: pd.DataFrame, name: str, n_rows: int) -> list[Any]:
    """Return a column's texts, numbers, or dates in ISO 8601; None for a missing one, also of a column without any."""
    if name not in frame:
        return [None] * n_rows
    values = frame[name]
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.astype(object).where(values.notna(), None).tolist()
    if values.dtype.kind == "M":
        seconds = dates.seconds_of(values.to_numpy()).tolist()
        return [None if math.isnan(second) else dates.text_of(second) for second in seconds]
    return [None if math.isnan(value) else value for value in values.tolist()]
