"""The proof that a compiled engine answers as the trained model does, without which no artifact is written."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.engine import Predict, predict_one_by_one
from model.errors import ParityError
from model.schema import Matrix, Schema

RANDOM_ROWS = 100_000


def prove(
    trained: Predict,
    compiled: Predict,
    *,
    schema: Schema,
    table_rows: Matrix,
    split_rows: Matrix,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare both bit for bit and return the figures; raise `ParityError` if a single bit differs.

    On all rows of the table, on `RANDOM_ROWS` rows in and beyond the training range, on rows at the limits of what
    the trained model accepts, and on `split_rows`, which stand on both sides of every split; all but the random
    rows both at once and one by one.
    """
    groups = {
        "table_rows": table_rows,
        "random_rows": random_rows(schema, RANDOM_ROWS, seed=seed),
        "limit_rows": limit_rows(schema),
        "split_rows": split_rows,
    }
    for name, rows in groups.items():
        expected = trained(rows)
        ways = [compiled(rows)]
        if name != "random_rows":  # too many; the runtime has a way of its own for a single row
            ways.append(predict_one_by_one(compiled, rows))
        different = np.any([expected.view(np.int64) != actual.view(np.int64) for actual in ways], axis=0)
        if different.any():
            worst = max(np.abs(expected - actual).max() for actual in ways)
            raise ParityError(
                f"the compiled model differs from the trained one on {different.sum()} of {len(rows)} "
                f"{name.replace('_', ' ')}, by up to {worst:.3g}; nothing was written"
            )
    return {**{name: len(rows) for name, rows in groups.items()}, "different_rows": 0, "seed": seed}


def random_rows(schema: Schema, n_rows: int, *, seed: int) -> Matrix:
    """Return `(n_rows, n_features)`: half within the training range, half up to its width beyond on either side."""
    low = np.array([feature.minimum for feature in schema.features])
    high = np.array([feature.maximum for feature in schema.features])
    beyond = (np.arange(n_rows) % 2)[:, np.newaxis] * (high - low)  # (n_rows, n_features), 0 in every other row
    rows: Matrix = np.random.default_rng(seed).uniform(low - beyond, high + beyond)
    return rows


def limit_rows(schema: Schema) -> Matrix:
    """Return a row of lowest and one of highest accepted values, and the middle row with each limit in turn."""
    low = np.array([feature.lowest for feature in schema.features])
    high = np.array([feature.highest for feature in schema.features])
    middle = np.array([(feature.minimum + feature.maximum) / 2 for feature in schema.features])
    diagonal = np.eye(len(low), dtype=bool)
    return np.vstack([low, high, np.where(diagonal, low, middle), np.where(diagonal, high, middle)])
