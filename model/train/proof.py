"""Prove that a compiled engine predicts like the fitted model, before an artifact is written."""

from __future__ import annotations

import numpy as np

from model.engine.compare import differing, predict_by_batch_size
from model.engine.runtime import Predict
from model.errors import ProofError
from model.schema.features import Matrix, Schema
from model.store.manifest import Proof

RANDOM_ROWS = 100_000


def prove(
    fitted: Predict,
    compiled: Predict,
    *,
    schema: Schema,
    table_rows: Matrix,
    split_rows: Matrix,
    tolerance: float = 0.0,
    seed: int = 0,
) -> Proof:
    """Compare both models and return the figures; raise `ProofError` if one prediction differs.

    Predictions differ if any bit does, or if they are further apart than the relative `tolerance`. The rows are those
    of the table, `RANDOM_ROWS` rows inside and outside the training range, rows at the limits that the fitted model
    accepts, and `split_rows`, which are on both sides of every split. All but the random rows are tried in every batch
    size.
    """
    groups = {
        "table_rows": table_rows,
        "random_rows": random_rows(schema, RANDOM_ROWS, seed=seed),
        "limit_rows": limit_rows(schema),
        "split_rows": split_rows,
    }
    n_different_rows, largest_difference = 0, 0.0
    for name, rows in groups.items():
        if len(rows) == 0:  # scikit-learn raises for an empty matrix
            continue
        expected = fitted(rows)
        # There are too many random rows to predict them one by one.
        actual = compiled(rows)[np.newaxis] if name == "random_rows" else predict_by_batch_size(compiled, rows)
        different = differing(expected, actual, tolerance).any(axis=0).sum()
        if different:
            raise ProofError(
                f"the compiled model differs from the trained one on {different} of {len(rows)} "
                f"{name.replace('_', ' ')}, by up to {np.abs(expected - actual).max():.3g}; nothing was written"
            )
        different_bits = differing(expected, actual, 0).any(axis=0)
        n_different_rows += int(different_bits.sum())
        different_bits &= expected != 0  # 0 has no relative difference; its bits are those of 0 or -0
        if different_bits.any():
            differences = np.abs(actual - expected)[:, different_bits] / np.abs(expected[different_bits])
            largest_difference = max(largest_difference, float(differences.max()))
    return Proof(
        **{name: len(rows) for name, rows in groups.items()},
        different_rows=n_different_rows,
        largest_relative_difference=largest_difference,
        seed=seed,
    )


def random_rows(schema: Schema, n_rows: int, *, seed: int) -> Matrix:
    """Return `(n_rows, n_features)`, half within the training range, half up to its width beyond it."""
    low = np.array([feature.minimum for feature in schema.features])
    high = np.array([feature.maximum for feature in schema.features])
    margin = (np.arange(n_rows) % 2)[:, np.newaxis] * (high - low)  # (n_rows, n_features), 0 in every other row
    rows: Matrix = np.random.default_rng(seed).uniform(low - margin, high + margin)
    return rows


def limit_rows(schema: Schema) -> Matrix:
    """Return the row of all lowest and of all highest accepted values, and the middle row with each limit in turn."""
    low = np.array([feature.lowest for feature in schema.features])
    high = np.array([feature.highest for feature in schema.features])
    middle = np.array([(feature.minimum + feature.maximum) / 2 for feature in schema.features])
    diagonal = np.eye(len(low), dtype=bool)
    return np.vstack([low, high, np.where(diagonal, low, middle), np.where(diagonal, high, middle)])
