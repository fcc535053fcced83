"""The proof that a compiled engine answers as the trained model does, without which no artifact is written."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.engine import Predict, differing, predict_every_way
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
    tolerance: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare both and return the figures; raise `ParityError` if a single answer differs.

    In any bit, or by more than `tolerance` relative to the trained model's answer. On all rows of the table, on
    `RANDOM_ROWS` rows in and beyond the training range, on rows at the limits of what the trained model accepts, and on
    `split_rows`, which stand on both sides of every split; all but the random rows in every way that there is to ask.
    """
    groups = {
        "table_rows": table_rows,
        "random_rows": random_rows(schema, RANDOM_ROWS, seed=seed),
        "limit_rows": limit_rows(schema),
        "split_rows": split_rows,
    }
    in_any_bit, furthest = 0, 0.0
    for name, rows in groups.items():
        if len(rows) == 0:  # scikit-learn does not answer none
            continue
        expected = trained(rows)
        # The random rows are too many to be asked about one by one.
        answers = compiled(rows)[np.newaxis] if name == "random_rows" else predict_every_way(compiled, rows)
        different = differing(expected, answers, tolerance).any(axis=0).sum()
        if different:
            raise ParityError(
                f"the compiled model differs from the trained one on {different} of {len(rows)} "
                f"{name.replace('_', ' ')}, by up to {np.abs(expected - answers).max():.3g}; nothing was written"
            )
        others = differing(expected, answers, 0).any(axis=0)
        in_any_bit += int(others.sum())
        others &= expected != 0  # where nothing but 0 is near, and the bits are those of 0 or -0
        if others.any():
            differences = np.abs(answers - expected)[:, others] / np.abs(expected[others])
            furthest = max(furthest, float(differences.max()))
    return {
        **{name: len(rows) for name, rows in groups.items()},
        "different_rows": in_any_bit,
        "largest_relative_difference": furthest,
        "seed": seed,
    }


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
