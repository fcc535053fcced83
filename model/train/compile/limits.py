"""Limits of several features together: no row within them leads to a number that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from model.engine.runtime import Predict
from model.errors import ExportError
from model.schema.feature import BOOLEAN, CATEGORY, ROUNDED, Feature
from model.schema.features import Matrix, Schema
from model.train import proof
from model.train.compile.fold import Ask

Sizes = Callable[[Matrix], Matrix]
"""Numbers on the way to each row's answer, `(n_rows, n_sizes)`; one is not finite where the row is refused."""

_N_STARTS = 16
_N_INSIDE = 3_000
_MAX_PLACES = 40  # of a category that are tried
_LARGEST = float(np.finfo(np.float64).max)
_MAX_EXPONENT = 1_100  # beyond that of every float64
_MAX_HALVINGS = 2 * _MAX_EXPONENT + 100  # which leave nothing


def tighten(features: Sequence[Feature], X: Matrix, sizes: Sizes, *, n_rounds: int = 2) -> tuple[Feature, ...]:
    """Return the features with limits within which the largest numbers that were found are finite.

    Each limit may be accepted on its own, and not all of them together. So no limit may be further from the range
    of `X` `(n_rows, n_features)`, which are rows of the training table, than a number of widths of this range,
    which is halved. The largest of each size is looked for from several rows of limits, feature after feature,
    `n_rounds` times; once is enough where each column depends on one feature. Raises `ExportError` if even the
    range of `X` is too wide.
    """
    ranged = [with_seen_range(feature, values) for feature, values in zip(features, X.T)]

    def within(halvings: int) -> tuple[Feature, ...] | None:
        found = _nearer(ranged, X, _MAX_EXPONENT - halvings)
        return found if _is_finite(found, X[0], sizes, n_rounds) else None

    found, enough = within(0), _MAX_HALVINGS
    if found is None:
        found, too_few = within(enough), 0
        while found is not None and enough - too_few > 1:
            middle = (enough + too_few) // 2
            if nearer := within(middle):
                found, enough = nearer, middle
            else:
                too_few = middle
    if found is None:
        raise ExportError(
            "the model's answer is not finite where several columns are at the ends of their ranges at once; scale "
            "them, or fit it with more regularisation"
        )
    return found


def of_refusing(sizes: Sizes) -> Sizes:
    """Return sizes that are not finite for all rows if one is refused."""

    def of_rows(rows: Matrix) -> Matrix:
        try:
            return sizes(rows)
        except Exception:  # every library has classes of its own
            return np.full((len(rows), 1), np.inf)

    return of_rows


def of_answers(predict: Predict) -> Sizes:
    """Return the size of a model's answers; not finite for all rows if it refuses one."""
    return of_refusing(lambda rows: np.abs(predict(rows)).reshape(len(rows), -1))


def of_columns(ask: Ask) -> Sizes:
    """Return the size of the columns that steps make, as float32, in which most trees compare them."""

    def sizes(rows: Matrix) -> Matrix:
        found = ask(rows)
        with np.errstate(over="ignore"):
            rounded = np.abs(found).astype(np.float32)
        # A missing value has the size 0.
        largest: Matrix = np.nan_to_num(rounded, posinf=np.inf).max(axis=1, keepdims=True).astype(np.float64)
        return largest

    return of_refusing(sizes)


def with_seen_range(feature: Feature, values: Matrix) -> Feature:
    """Return a number with the range of its values."""
    known = values[~np.isnan(values)]
    if feature.type in (CATEGORY, BOOLEAN):
        return feature
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    return replace(feature, minimum=low, maximum=high)


def _nearer(features: Sequence[Feature], X: Matrix, exponent: int) -> tuple[Feature, ...]:
    """Return the features with limits that are at most 2**exponent widths of the range of `X` away from it."""
    found = []
    for feature, values in zip(features, X.T):
        known = values[~np.isnan(values)]
        if feature.type not in (CATEGORY, BOOLEAN) and len(known):
            low, high = float(known.min()), float(known.max())
            with np.errstate(over="ignore"):
                distance = float(np.ldexp(high - low if high > low else 1.0, exponent))
            lowest, highest = max(feature.lowest, low - distance), min(feature.highest, high + distance)
            if feature.type in ROUNDED:
                lowest, highest = float(np.ceil(lowest)), float(np.floor(highest))
            feature = replace(feature, lowest=lowest, highest=highest)
        found.append(feature)
    return tuple(found)


def _is_finite(features: Sequence[Feature], base: Matrix, sizes: Sizes, n_rounds: int) -> bool:
    """Return whether the largest numbers that are found within these limits are finite."""
    values = []
    for feature, value in zip(features, base):
        if feature.type in (CATEGORY, BOOLEAN):
            tried = np.arange(min(feature.cells.n_places, _MAX_PLACES), dtype=np.float64)
        else:
            tried = np.array([feature.lowest, feature.highest, value]).clip(-_LARGEST, _LARGEST)
        values.append(np.append(tried, np.nan) if feature.missing else tried)
    random = np.random.default_rng(0)
    rows = np.column_stack([random.choice(each, _N_STARTS) for each in values])
    rows[0], rows[1] = [each[0] for each in values], [each[min(1, len(each) - 1)] for each in values]
    found = sizes(np.vstack([rows, _inside(features, random)]))
    if not np.isfinite(found).all():
        return False
    for size in range(found.shape[1] if n_rounds else 0):
        at = rows.copy()
        for number in (*range(len(values)),) * n_rounds:
            changed = np.repeat(at, len(values[number]), axis=0)
            changed[:, number] = np.tile(values[number], len(at))
            found = sizes(changed)
            if not np.isfinite(found).all():
                return False
            at[:, number] = values[number][found[:, size].reshape(len(at), -1).argmax(axis=1)]
    return True


def _inside(features: Sequence[Feature], random: np.random.Generator) -> Matrix:
    """Return rows within the limits, in the range of training and beyond it: a square may be largest there."""
    schema = Schema(tuple(features), Feature("target"))
    of_proof = proof.random_rows(schema, _N_INSIDE, seed=int(random.integers(2**31)))
    return np.vstack([proof.limit_rows(schema), of_proof])
