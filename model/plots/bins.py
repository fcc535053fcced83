"""The bins of a histogram, for figures and pages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MAX_WHOLE = 2.0**51  # up to here float64 has the halves between whole numbers


def are_whole(values: NDArray[np.float64]) -> bool:
    """Return whether all values are whole numbers between which an edge can lie."""
    return bool((np.abs(values) < _MAX_WHOLE).all() and (values == np.trunc(values)).all())


def histogram(
    values: NDArray[np.float64], n_bins: int, ends: tuple[float, float], *, whole: bool
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return counts `(n,)` and edges `(n + 1,)` of equal bins from one end to the other.

    There are `n_bins`. Those of `whole` numbers are at most twice as many: each is of equally many whole numbers, and
    its edges lie halfway between two, since others would leave gaps that the values do not have.
    """
    low, high = ends
    if whole:
        width = -(-(high - low + 1) // (2 * n_bins))
        n_bins = int(-(-(high - low + 1) // width))
        edges = low - 0.5 + width * np.arange(n_bins + 1.0)
    else:
        up_to = np.linspace(0, 1, n_bins + 1)
        edges = low * (1 - up_to) + high * up_to
    inside = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, n_bins - 1)
    return np.bincount(inside, minlength=n_bins), edges
