"""Draws a uniform sample of a table, whose rows stay in their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.table import output
from model.table.reader import Relation


def draw(n_rows: int, k: int, *, seed: int) -> NDArray[np.int64]:
    """Return `k` different row numbers below `n_rows`; each set of so many is equally likely.

    Memory goes by `k`: of many rows, numbers are drawn until there are enough.
    """
    return np.random.default_rng(seed).choice(n_rows, k, replace=False, shuffle=False)


def sample(relation: Relation, path: Path, k: int, *, seed: int) -> int:
    """Write `k` rows that are drawn, and return how many were written: all if there are no more.

    The same seed gives the same rows. Raises `DataError`.
    """
    columns = output.listed(path, {each: relation.identifier(each) for each in relation.names})
    chosen = "data"
    if k < relation.n_rows:
        relation.connection.register("chosen", pd.DataFrame({"row": draw(relation.n_rows, k, seed=seed)}))
        chosen = "data SEMI JOIN chosen ON data.rowid = chosen.row"
    (n_rows,) = output.write(relation, {path: f"SELECT {columns} FROM {chosen} ORDER BY data.rowid"})
    return n_rows
