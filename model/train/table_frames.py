"""What a server accepts of a prepared table: its columns as `Frames`, by the types of its description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from model.schema.feature import CATEGORY
from model.table.frame import Table
from model.table.profile import ColumnProfile
from model.train.frames import Column, Frames


def frames_of(table: Table, profiles: Sequence[ColumnProfile]) -> Frames:
    """Return the features of a prepared table, with the types of its description and what is in its rows.

    A column has gaps if it has one in any row of the table, by its profile: in use, values will be missing as they are
    there, also where the rows that are used happen to have them all.
    """
    gaps = {profile.name for profile in profiles if profile.n_values < profile.n_rows}
    return Frames(tuple(_column(table, column.name, gaps) for column in table.columns), is_array=False)


def _column(table: Table, name: str, gaps: set[str]) -> Column:
    column = table.description.column(name)
    dtype: Any = table.frame[name].dtype
    has_gaps = name in gaps or bool(table.frame[name].isna().any())
    if column.type != CATEGORY:
        return Column(name, column.type, dtype, format=column.format, has_gaps=has_gaps)
    assert isinstance(dtype, pd.CategoricalDtype)
    return Column(name, CATEGORY, dtype, tuple(map(str, dtype.categories)), has_gaps=has_gaps)
