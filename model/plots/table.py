"""The figures of any table: how its columns are distributed, what is missing, which numbers go together.

A frame has numbers as float64, categories as pandas' categories and dates as datetime64. Columns beyond the first
`MAX_COLUMNS` are not drawn, and the figure says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.plots.bins import are_whole, histogram
from model.plots.style import BLUE, GREY, closed, plain

MAX_COLUMNS = 40  # more are too small to be read, and take seconds to draw

_N_BINS = 30
_N_CATEGORIES = 10  # the most frequent ones; the others are one bar
_MAX_LABEL = 20  # characters
_MAX_DRAWN = 1e300  # Matplotlib's margins overflow beyond
_MAX_WRITTEN = 12  # columns up to which each correlation is written into its cell


def distributions(frame: pd.DataFrame, *, units: Mapping[str, str] | None = None) -> Figure:
    """Draw each column: a histogram of numbers and dates, bars of categories; the title has the share missing."""
    names = _drawn(frame)
    n_across = min(4, max(len(names), 1))
    n_down = -(-len(names) // n_across) or 1
    figure, axes = plt.subplots(
        n_down, n_across, figsize=(3 * n_across, 2.6 * n_down), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes.flat, names):
        _distribution(axis, frame[name])
        axis.set_title(_title(name, frame[name]), fontsize=9)
        axis.set(xlabel=plain((units or {}).get(name, "")), ylabel="rows")
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    _say_left_out(figure, frame, names)
    return closed(figure)


def correlations(frame: pd.DataFrame) -> Figure:
    """Draw Pearson's correlation of every pair of columns with numbers or dates; a constant column has none."""
    numbers = frame.select_dtypes(exclude=["category", "object", "string"])
    names = _drawn(numbers)
    columns = {name: _as_numbers(numbers[name]) for name in names}
    matrix = pd.DataFrame(columns).corr().to_numpy(copy=True) if names else np.empty((0, 0))
    size = 2.5 + 0.45 * max(len(names), 3)
    figure, axis = plt.subplots(figsize=(size + 1, size), layout="constrained")
    if names:
        image = axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        figure.colorbar(image, label="correlation")
        if len(names) <= _MAX_WRITTEN:
            _write_values(axis, matrix)
    else:
        axis.text(0.5, 0.5, "no column of numbers", ha="center", va="center", transform=axis.transAxes)
    labels = [_short(name) for name in names]
    axis.set_xticks(range(len(names)), labels, rotation=90, fontsize=8)
    axis.set_yticks(range(len(names)), labels, fontsize=8)
    _say_left_out(figure, numbers, names)
    return closed(figure)


def missing(frame: pd.DataFrame) -> Figure:
    """Draw the share of the rows in which each column is missing, the largest on top."""
    names = _drawn(frame)
    shares = {name: float(frame[name].isna().mean()) if len(frame) else 0.0 for name in names}
    order = sorted(names, key=lambda name: shares[name])
    figure, axis = plt.subplots(figsize=(7, 1.2 + 0.26 * max(len(order), 1)), layout="constrained")
    ticks = np.arange(len(order))
    axis.barh(ticks, [shares[name] for name in order], color=BLUE)
    axis.set_yticks(ticks, [_short(name) for name in order], fontsize=8)
    axis.set(xlabel="share of the rows that is missing", xlim=(0, max([*shares.values(), 0.01]) * 1.15))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}" if value < 0.01 else f"{value:.0%}")
    for tick, name in zip(ticks, order):
        axis.text(shares[name], float(tick), f" {shares[name]:.1%}", va="center", fontsize=8)
    _say_left_out(figure, frame, names)
    return closed(figure)


def _drawn(frame: pd.DataFrame) -> list[str]:
    return list(frame.columns[:MAX_COLUMNS])


def _say_left_out(figure: Figure, frame: pd.DataFrame, drawn: Sequence[str]) -> None:
    left_out = frame.shape[1] - len(drawn)
    if left_out:
        figure.suptitle(f"the first {len(drawn)} columns; {left_out:,} more are not drawn", fontsize=9)


def _distribution(axis: Axes, column: pd.Series) -> None:
    known = column.dropna()
    if isinstance(column.dtype, pd.CategoricalDtype) or not len(known) or column.dtype == object:
        counts = known.value_counts()
        counts = counts[counts > 0]
        shown = counts[:_N_CATEGORIES]
        labels, heights = [_short(str(name)) for name in shown.index], shown.tolist()
        colors = [BLUE] * len(labels)
        if len(counts) > len(shown):
            labels.append(f"{len(counts) - len(shown):,} others")
            heights.append(int(counts[_N_CATEGORIES:].sum()))
            colors.append(GREY)
        axis.barh(range(len(labels)), heights, color=colors)
        axis.set_yticks(range(len(labels)), labels, fontsize=7)
        axis.invert_yaxis()
        axis.xaxis.set_label_position("top")
    elif column.dtype.kind == "M":
        seconds = _as_numbers(known)
        counts_, edges = np.histogram(seconds, bins=_N_BINS)
        middles = pd.to_datetime((edges[:-1] + edges[1:]) / 2, unit="s").to_numpy()
        width = np.timedelta64(max(int((edges[1] - edges[0]) * 1e6), 1), "us")
        axis.bar(middles, counts_, width=width, color=BLUE)
        axis.tick_params(axis="x", rotation=45, labelsize=7)
    else:
        finite = known.to_numpy("float64")
        finite = finite[np.abs(finite) <= _MAX_DRAWN]
        if len(finite):
            counts_, edges = _histogram(finite)
            axis.bar(edges[:-1], counts_, width=np.diff(edges), align="edge", color=BLUE)


def _histogram(values: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return counts and edges of bins that numpy can tell apart, whatever the size of the values."""
    low, high = float(values.min()), float(values.max())
    if are_whole(values):
        return histogram(values, _N_BINS, (low, high), whole=True)
    least = 1e-6 * max(abs(low), abs(high)) or 1.0
    if high / 2 - low / 2 < least:
        low, high = low - least, high + least
    return histogram(values, _N_BINS, (low, high), whole=False)


def _as_numbers(column: pd.Series) -> NDArray[np.float64]:
    """Return numbers as they are, dates as seconds since 1970; NaN for a missing or infinite one."""
    if column.dtype.kind == "M":
        seconds = column.to_numpy("datetime64[us]").astype("float64") / 1e6
        return np.where(column.isna(), np.nan, seconds)
    values = column.to_numpy("float64")
    return np.where(np.isfinite(values), values, np.nan)


def _write_values(axis: Axes, matrix: NDArray[np.float64]) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if abs(value) > 0.6 else "black"
        text = "–" if np.isnan(value) else f"{value:.2f}"
        axis.text(column, row, text, ha="center", va="center", color=color, fontsize=8)


def _title(name: str, column: pd.Series) -> str:
    share = float(column.isna().mean()) if len(column) else 0.0
    return _short(name) + (f" ({share:.1%} missing)" if share else "")


def _short(name: str) -> str:
    return plain(name if len(name) <= _MAX_LABEL else f"{name[:_MAX_LABEL]}…")
