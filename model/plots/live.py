"""The figures of the report on a deployed model."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.metrics import short
from model.plots.style import BLUE, GREY, RED, closed
from model.store.reference import AnyBins, Bins

# Bounds and colours of a drift ratio: well below the threshold, below it, above it, twice the threshold and more.
_RATIOS, _RATIO_COLORS = (0, 0.5, 1, 2, 4), ("#dde6f0", "#a9c1dd", "#e39a86", RED)

_MAX_LABEL = 16  # characters of a category below its bar


def bins(
    columns: Mapping[str, tuple[AnyBins, NDArray[np.intp]]],
    *,
    marked: Sequence[str] = (),
    written: Mapping[str, Callable[..., Sequence[str]]] | None = None,
) -> Figure:
    """Draw the live share of each bin beside that of training, a panel for each column; those in `marked` in red.

    Counts are by `labels` of the bins, as their `count` returns them. Missing values are not drawn. `written` has for
    some columns what writes their edges, such as dates; others are numbers.
    """
    written = written or {}
    n_across = min(3, len(columns))
    n_down = -(-len(columns) // n_across)
    figure, axes = plt.subplots(
        n_down, n_across, figsize=(4 * n_across, 2.8 * n_down), layout="constrained", squeeze=False
    )
    for axis, (name, (column, counts)) in zip(axes.flat, columns.items()):
        color = RED if name in marked else BLUE
        _bars(axis, column, counts, color, written.get(name, _numbers))
        axis.set_title(name, color=color)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    for axis in axes.flat[len(columns) :]:
        axis.set_axis_off()
    return closed(figure)


def distances(
    names: Sequence[str],
    psi: Sequence[float],
    psi_thresholds: Sequence[float],
    ks: Sequence[float],
    ks_thresholds: Sequence[float],
) -> Figure:
    """Draw PSI and KS of each column as bars with their thresholds; KS is NaN for categories."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.9 + 0.36 * len(names)), layout="constrained", sharey=True)
    ticks = np.arange(len(names))
    for axis, label, values, thresholds in zip(axes, ("PSI", "KS"), (psi, ks), (psi_thresholds, ks_thresholds)):
        is_exceeded = [value > threshold for value, threshold in zip(values, thresholds)]
        axis.barh(ticks, values, height=0.6, color=[RED if exceeds else BLUE for exceeds in is_exceeded])
        axis.vlines(thresholds, ticks - 0.45, ticks + 0.45, color="black", linewidth=2, label="threshold")
        axis.set_yticks(ticks, names)
        axis.set(xlabel=label, xlim=(0, None))
        _legend_above(axis)
        hide_frame(axis)
    axes[0].invert_yaxis()
    return closed(figure)


def drift_over_time(names: Sequence[str], starts: NDArray[np.datetime64], ratios: NDArray[np.float64]) -> Figure:
    """Draw `ratios` `(n_names, n_periods)` of statistics to their thresholds as a heat map; NaN is white."""
    figure, axis = plt.subplots(figsize=(12, 1.4 + 0.36 * len(names)), layout="constrained")
    norm = BoundaryNorm(_RATIOS, len(_RATIO_COLORS))
    shown = np.minimum(ratios, _RATIOS[-1] - 0.01)
    image = axis.imshow(shown, aspect="auto", cmap=ListedColormap(_RATIO_COLORS), norm=norm, interpolation="nearest")
    axis.set_yticks(range(len(names)), names)
    axis.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axis.set_xticks(np.arange(len(starts) - 1) + 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=2)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set_visible(False)
    axis.set_xticks(*_dates(starts))
    bar = figure.colorbar(image, ticks=_RATIOS[:-1], pad=0.01)
    bar.set_label("times the threshold")
    return closed(figure)


def prediction_distribution(
    column: AnyBins, counts: NDArray[np.intp], predictions: NDArray[np.float64], *, label: str
) -> Figure:
    """Draw the bins of the predictions beside training, and for numbers the cumulative distribution, too."""
    if not isinstance(column, Bins):
        figure, axis = plt.subplots(figsize=(12, 3.6), layout="constrained")
        _bars(axis, column, counts, BLUE)
        _legend_above(axis)
        return closed(figure)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6), layout="constrained")
    _bars(left, column, counts, BLUE)
    _legend_above(left)
    shares = [0, *np.cumsum(column.shares)]
    right.plot([column.minimum, *column.edges], shares, color=GREY, marker="o", markersize=4, label="training")
    up_to = np.linspace(0, 1, 201)  # enough points for the eye, for any number of rows
    right.plot(np.quantile(predictions[np.isfinite(predictions)], up_to), up_to, color=BLUE, label="live")
    right.set(xlabel=f"predicted {label}", ylabel="predictions up to that value")
    right.yaxis.set_major_formatter("{x:.0%}")
    _legend_above(right)
    hide_frame(right)
    return closed(figure)


def error_over_time(
    starts: NDArray[np.datetime64],
    rows: NDArray[np.intp],
    truths: NDArray[np.intp],
    errors: NDArray[np.float64],
    intervals: NDArray[np.float64],
    *,
    validation: float | None,
    label: str,
) -> Figure:
    """Draw the error of each period with its interval `(2, n_periods)`, NaN for none, above its number of rows."""
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(12, 5), layout="constrained", sharex=True, height_ratios=(3, 2)
    )
    ticks = np.arange(len(starts))
    if validation is not None:
        upper.axhline(validation, color=RED, linestyle="--", label="validation")
    bars = np.abs(intervals - errors)
    upper.errorbar(ticks, errors, yerr=bars, color=BLUE, fmt="o", capsize=2, label="live, with 95 %")
    upper.set(ylabel=label, ylim=(0, None))
    lower.bar(ticks, rows, color=GREY, label="rows")
    lower.bar(ticks, truths, width=0.5, color=BLUE, label="with a true value")
    lower.set(ylabel="rows", xlim=(-0.6, len(starts) - 0.4))
    lower.yaxis.set_major_formatter("{x:,.0f}")
    lower.set_xticks(*_dates(starts))
    for axis in (upper, lower):
        axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0)
        hide_frame(axis)
    return closed(figure)


def to_svg(figure: Figure) -> bytes:
    """Render the figure with text as outlines; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "tabserve"}):
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    return buffer.getvalue()


def _legend_above(axis: Axes) -> None:
    """Explain the colours above the axes, where nothing is drawn."""
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8, frameon=False)


def _numbers(*values: float) -> list[str]:
    return [short(value) for value in values]


def _bars(
    axis: Axes,
    column: AnyBins,
    counts: NDArray[np.intp],
    color: str,
    written: Callable[..., Sequence[str]] = _numbers,
) -> None:
    """Draw the training and the live share of each bin side by side."""
    known = counts[:-1]
    ticks = np.arange(len(known))
    training = column.all_shares[:-1] / max(1 - column.missing, np.finfo(np.float64).tiny)
    axis.bar(ticks - 0.2, training, width=0.4, color=GREY, label="training")
    axis.bar(ticks + 0.2, known / max(known.sum(), 1), width=0.4, color=color, label="live")
    if isinstance(column, Bins):
        lowest, *edges = written(column.minimum, *column.edges.tolist())
        labels = [f"< {lowest}", *(f"≤ {edge}" for edge in edges), f"> {edges[-1]}"]
    else:
        labels = [*map(_shortened, column.names), "any other", "unseen"]
    axis.set_xticks(ticks, labels, rotation=90, fontsize=8)
    axis.yaxis.set_major_formatter("{x:.0%}")
    hide_frame(axis)


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_LABEL else f"{name[:_MAX_LABEL]}…"


def _dates(starts: NDArray[np.datetime64]) -> tuple[list[int], list[str]]:
    """Return at most 16 ticks and their labels, with the hour unless all periods begin at midnight."""
    at = list(range(0, len(starts), -(-len(starts) // 16)))
    days = (starts == starts.astype("datetime64[D]")).all()
    texts = [str(start.astype("datetime64[D]" if days else "datetime64[m]")).replace("T", "\n") for start in starts[at]]
    return at, [text[5:] for text in texts]


def hide_frame(axis: Axes) -> None:
    """Hide the upper and right lines of the frame."""
    axis.spines[["top", "right"]].set_visible(False)
