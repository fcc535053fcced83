"""Prove that a compiled engine predicts like the fitted model, before an artifact is written."""

from __future__ import annotations

import numpy as np

from model.engine.compare import differing, largest_difference, predict_by_batch_size, shares_of
from model.engine.runtime import Predict
from model.errors import ProofError
from model.schema.feature import ROUNDED, Feature
from model.schema.features import Matrix, Schema
from model.store.manifest import MAX_ALLOWED, Proof
from model.train.candidate import Allowance

RANDOM_ROWS = 100_000
_MISSING_SHARE = 0.1
_MAX_ALONE = 10_000  # rows of a group that are tried in every batch size
_MAX_NUMBERS = 2**23  # that are compared at once: a classifier may have a thousand for each row


def prove(
    fitted: Predict,
    compiled: Predict,
    *,
    schema: Schema,
    table_rows: Matrix,
    split_rows: Matrix,
    tolerance: float = 0.0,
    allowance: Allowance | None = None,
    seed: int = 0,
) -> Proof:
    """Compare both models and return the figures; raise `ProofError` if one prediction differs.

    Predictions, or labels and probabilities, differ if any bit does, or if they are further apart than the
    `tolerance` of `engine.compare`, or than the `allowance` for their row. The rows are those of the table,
    `RANDOM_ROWS` rows inside and outside the training range, rows at the limits that the fitted model accepts, with
    every category among them, and `split_rows`, which are on both sides of every split. All but the random rows are
    tried in every batch size, up to a number.
    """
    groups = {
        "table_rows": table_rows,
        "random_rows": random_rows(schema, RANDOM_ROWS, seed=seed),
        "limit_rows": limit_rows(schema),
        "split_rows": split_rows,
    }
    n_different_rows, largest, largest_share, by = 0, 0.0, 0.0, 0.0
    wrong = dict.fromkeys(groups, 0)  # rows of each group that are further apart than is allowed
    most = max(_MAX_ALONE, _MAX_NUMBERS // compiled(table_rows[:1]).size)
    parts = [(name, rows[i : i + most]) for name, rows in groups.items() for i in range(0, len(rows), most)]
    for name, rows in parts:
        expected = fitted(rows)
        # There are too many random rows to predict them one by one, and there may be too many others.
        actual = compiled(rows)[np.newaxis]
        if name != "random_rows":
            by_batch_size = predict_by_batch_size(compiled, rows[:_MAX_ALONE])
            actual = np.repeat(actual, len(by_batch_size), axis=0)
            actual[:, :_MAX_ALONE] = by_batch_size
        if allowance:
            shares = shares_of(allowance.of_rows(rows), expected, actual)
            largest_share = max(largest_share, float(np.nan_to_num(shares, nan=np.inf).max()))
            different = np.count_nonzero(~(shares <= 1))  # negated, so that NaN differs from everything
        else:
            different = differing(expected, actual, tolerance).any(axis=0).sum()
        if different:
            wrong[name] += int(different)
            by = max(by, float(np.nan_to_num(np.abs(expected - actual), nan=np.inf).max()))
            if not allowance:
                break
        n_different_rows += int(differing(expected, actual, 0).any(axis=0).sum())
        largest = max(largest, largest_difference(expected, actual))
    if any(wrong.values()):
        where = " and ".join(
            f"{wrong[name]} of {len(rows)} {name.replace('_', ' ')}" for name, rows in groups.items() if wrong[name]
        )
        kind = "converted" if allowance and allowance.converted_within else "compiled"
        raise ProofError(
            f"the {kind} model differs from the trained one on {where}, by up to {by:.3g}"
            f"{_excess(allowance, largest_share) if allowance else ''}; nothing was written"
        )
    return Proof(
        **{name: len(rows) for name, rows in groups.items()},
        different_rows=n_different_rows,
        largest_relative_difference=largest,
        largest_share_of_allowed=largest_share,
        seed=seed,
    )


def _excess(allowance: Allowance, share: float) -> str:
    """Return what is allowed, of which the largest difference is a share, and what to do."""
    within = allowance.converted_within
    if within is None:
        return f", which is {share:.3g} times what is allowed: {allowance.bound}"
    if np.isinf(share):
        return ", and a label or a missing answer differs, which no tolerance accepts; choose another estimator"
    needed = 1.1 * share * within  # its two digits are enough
    todo = (
        f"pass tolerance={needed:.1e} (--tolerance) to accept it, or choose another estimator"
        if needed <= MAX_ALLOWED
        else f"choose another estimator, since at most {MAX_ALLOWED:g} can be allowed"
    )
    return f", a share of {share * within:.2g}, and {allowance.bound} is allowed; {todo}"


def random_rows(schema: Schema, n_rows: int, *, seed: int) -> Matrix:
    """Return `(n_rows, n_features)`, half within the training range, half up to its width beyond it.

    Categories are drawn from all that are accepted, and a tenth of the values that may be missing is. Dates have whole
    seconds.
    """
    features, random = schema.features, np.random.default_rng(seed)
    n_places = np.array(schema.n_places)
    is_number = n_places == 0
    low = np.array([feature.minimum if number else 0.0 for feature, number in zip(features, is_number)])
    high = np.array([feature.maximum if number else 0.0 for feature, number in zip(features, is_number)])
    width = np.where(high > low, high - low, np.maximum(np.abs(low), 1.0) * is_number)  # a constant changes, too
    margin = (np.arange(n_rows) % 2)[:, np.newaxis] * width  # (n_rows, n_features), 0 in every other row
    rows: Matrix = random.uniform(low - margin, high + margin)
    rows[:, ~is_number] = random.integers(0, n_places[~is_number], (n_rows, np.count_nonzero(~is_number)))
    whole = np.array([feature.type in ROUNDED for feature in features])
    rows[:, whole] = rows[:, whole].round()
    lowest, highest = np.array([(feature.lowest, feature.highest) for feature in features]).T
    rows[:, is_number] = rows[:, is_number].clip(lowest[is_number], highest[is_number])
    may_be_missing = np.array([feature.missing for feature in features])
    if may_be_missing.any():
        rows[may_be_missing & (random.random(rows.shape) < _MISSING_SHARE)] = np.nan
    return rows


def limit_rows(schema: Schema) -> Matrix:
    """Return the row of all lowest and of all highest accepted values, and the middle row with each limit in turn.

    So is every other accepted category, and a missing value where it is accepted.
    """
    lasts = [float(n_places - 1) for n_places in schema.n_places]  # -1 for a number
    is_place = np.array(lasts) >= 0
    low = np.where(is_place, 0.0, [feature.lowest for feature in schema.features])
    high = np.where(is_place, lasts, [feature.highest for feature in schema.features])
    middle = np.where(is_place, 0.0, [_middle(feature) for feature in schema.features])
    diagonal = np.eye(len(low), dtype=bool)
    others = [
        np.where(diagonal[number], value, middle)
        for number, feature in enumerate(schema.features)
        for value in [*range(1, int(lasts[number])), *([np.nan] if feature.missing else [])]
    ]
    return np.vstack([low, high, np.where(diagonal, low, middle), np.where(diagonal, high, middle), *others])


def _middle(feature: Feature) -> float:
    middle = (feature.minimum + feature.maximum) / 2
    return float(np.floor(middle)) if feature.type in ROUNDED else middle
