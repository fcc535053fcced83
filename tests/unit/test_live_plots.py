"""Pictures of the report: nothing in them covers what they show."""

from __future__ import annotations

import numpy as np
import pytest

from model import Bins
from model.plots.live import prediction_distribution


@pytest.mark.parametrize("size", [1, 9])
def test_legend_covers_no_bar(size: int) -> None:
    """The legend of live and training is outside the bars, wherever the tallest is."""
    shares = np.array([*[0.01] * size, 1 - 0.02 * size, *[0.01] * size])
    edges = np.arange(1.0, len(shares) + 1)
    bins = Bins(minimum=0.0, edges=edges, shares=shares, missing=0.0)
    counts = bins.count(np.repeat(edges - 0.5, (1000 * shares).astype(int)))
    figure = prediction_distribution(bins, counts, edges, label="price")
    figure.draw_without_rendering()

    for axis in figure.axes:
        legend = axis.get_legend()
        assert legend is not None
        assert not legend.get_window_extent().overlaps(axis.get_window_extent())
