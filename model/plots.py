"""The figures of the notebooks and artifacts, and those of the report on a deployed model."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from model.datasets import Column, Table
from model.drift import Bins

_BLUE, _RED, _GREY = "#1f5fa8", "#b3362b", "#b9bcc0"
# Bounds and colours of a drift ratio: well below the threshold, below it, above it, twice the threshold and more.
_RATIOS, _RATIO_COLORS = (0, 0.5, 1, 2, 4), ("#dde6f0", "#a9c1dd", "#e39a86", _RED)


def distributions(table: Table) -> Figure:
    """Draw a histogram of every column."""
    columns = table.dataset.columns
    n_across = min(4, len(columns))
    n_down = -(-len(columns) // n_across)
    figure, axes = plt.subplots(n_down, n_across, figsize=(3 * n_across, 2.5 * n_down), layout="constrained")
    for axis, column in zip(axes.flat, columns):
        axis.hist(table.frame[column.name], bins=30, color=_BLUE)
        axis.set(title=column.name, xlabel=column.unit, ylabel="rows")
    for axis in axes.flat[len(columns) :]:
        axis.set_axis_off()
    return _closed(figure)


def correlations(table: Table) -> Figure:
    """Draw Pearson's correlation of every pair of columns."""
    matrix: pd.DataFrame = table.frame.corr()
    figure, axis = plt.subplots(figsize=(6, 5), layout="constrained")
    image = axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
    axis.set_xticks(range(len(matrix)), matrix.columns)
    axis.set_yticks(range(len(matrix)), matrix.columns)
    for (row, column), value in np.ndenumerate(matrix.to_numpy()):
        color = "white" if abs(value) > 0.6 else "black"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    figure.colorbar(image, label="correlation")
    return _closed(figure)


def target_over_features(table: Table) -> Figure:
    """Draw the target over each feature with the least squares line, and the density of the rows beside it."""
    features, target = table.dataset.features, table.dataset.target
    y = table.y.to_numpy()
    figure, axes = plt.subplots(
        len(features), 2, figsize=(11, 4.5 * len(features)), layout="constrained", sharey=True, squeeze=False
    )
    for (left, right), feature in zip(axes, features):
        x = table.frame[feature.name].to_numpy()
        _scatter(left, x, y)
        ends = np.array([x.min(), x.max()])
        left.plot(ends, np.polynomial.Polynomial.fit(x, y, 1)(ends), color=_RED, label="least squares")
        left.set(xlabel=_label(feature), ylabel=_label(target))
        left.legend()
        *_, image = right.hist2d(x, y, bins=50, cmin=1, cmap="Blues")
        right.set(xlabel=_label(feature))
        figure.colorbar(image, label="rows", ax=right)
    return _closed(figure)


def predictions_over_data(
    table: Table, X: NDArray[np.float64], y: NDArray[np.float64], predicted: Mapping[str, NDArray[np.float64]]
) -> Figure:
    """Draw the predictions of models, by name, as lines over the rows `X` `(n_rows, 1)`."""
    (feature,) = table.dataset.features
    order = np.argsort(X[:, 0])
    figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
    _scatter(axis, X[:, 0], y)
    for (name, answers), (color, style) in zip(predicted.items(), ((_RED, "-"), ("black", "--")), strict=True):
        axis.plot(X[order, 0], answers[order], color=color, linestyle=style, label=name)
    axis.set(xlabel=_label(feature), ylabel=_label(table.dataset.target))
    axis.legend()
    return _closed(figure)


def losses(training: Sequence[float], held_out: Sequence[float], *, best_epoch: int, unit: str) -> Figure:
    """Draw the mean squared error of each epoch on the training rows and on those held out.

    `best_epoch` counts from 0.
    """
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    epochs = np.arange(1, len(training) + 1)
    axis.plot(epochs, training, marker="o", markersize=3, color=_BLUE, label="rows fitted on")
    axis.plot(epochs, held_out, marker="o", markersize=3, color=_RED, label="rows held out")
    axis.axvline(best_epoch + 1, color=_GREY, zorder=0, label="the weights that are kept")
    axis.set(xlabel="epoch", ylabel=f"mean squared error ({unit}²)" if unit else "mean squared error")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    return _closed(figure)


def predicted_against_actual(y: NDArray[np.float64], predicted: NDArray[np.float64], *, label: str) -> Figure:
    """Draw predictions over truth, with the line of a perfect model."""
    figure, axis = plt.subplots(figsize=(5.5, 5), layout="constrained")
    ends = [min(y.min(), predicted.min()), max(y.max(), predicted.max())]
    axis.plot(ends, ends, color=_RED, label="predicted = actual")
    _scatter(axis, y, predicted)
    axis.set(xlabel=f"actual {label}", ylabel=f"predicted {label}")
    axis.legend()
    return _closed(figure)


def residuals(y: NDArray[np.float64], predicted: NDArray[np.float64], *, label: str) -> Figure:
    """Draw prediction minus truth, over the prediction and as a histogram."""
    error = predicted - y
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    left.axhline(0, color=_RED)
    _scatter(left, predicted, error)
    left.set(xlabel=f"predicted {label}", ylabel="predicted - actual")
    right.axhline(0, color=_RED)
    right.hist(error, bins=30, range=_range(error), orientation="horizontal", color=_BLUE)
    right.set(xlabel="rows")
    return _closed(figure)


def importance(names: tuple[str, ...], figures: dict[str, Any]) -> Figure:
    """Draw the permutation importance of each feature, the largest on top."""
    order = np.argsort(figures["mean"])
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.barh(
        [names[i] for i in order],
        [figures["mean"][i] for i in order],
        xerr=[figures["sd"][i] for i in order],
        color=_BLUE,
        ecolor="black",
    )
    axis.set(xlabel="rise of the validation MSE when the feature is shuffled (mean and sd)")
    return _closed(figure)


def search(results: list[dict[str, Any]]) -> Figure:
    """Draw the cross-validated error over the number of trees."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    trees, mse, sd = ([result[key] for result in results] for key in ("n_estimators", "mse", "mse_sd"))
    axis.errorbar(trees, mse, yerr=sd, marker="o", capsize=3, color=_BLUE)
    axis.set(xlabel="number of trees", ylabel="cross-validated MSE (mean and sd of the folds)")
    return _closed(figure)


def bins(columns: Mapping[str, tuple[Bins, NDArray[np.intp]]], *, marked: Sequence[str] = ()) -> Figure:
    """Draw the live share of each bin beside that of training, a panel for each column; those in `marked` in red.

    Counts are by `Bins.labels`, as `Bins.count` returns them. Missing values are not drawn.
    """
    n_across = min(3, len(columns))
    n_down = -(-len(columns) // n_across)
    figure, axes = plt.subplots(
        n_down, n_across, figsize=(4 * n_across, 2.8 * n_down), layout="constrained", squeeze=False
    )
    for axis, (name, (column, counts)) in zip(axes.flat, columns.items()):
        color = _RED if name in marked else _BLUE
        _bars(axis, column, counts, color)
        axis.set_title(name, color=color)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    for axis in axes.flat[len(columns) :]:
        axis.set_axis_off()
    return _closed(figure)


def distances(
    names: Sequence[str],
    psi: Sequence[float],
    psi_thresholds: Sequence[float],
    ks: Sequence[float],
    ks_thresholds: Sequence[float],
) -> Figure:
    """Draw PSI and KS of each column as bars with their thresholds."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.9 + 0.36 * len(names)), layout="constrained", sharey=True)
    ticks = np.arange(len(names))
    for axis, label, values, thresholds in zip(axes, ("PSI", "KS"), (psi, ks), (psi_thresholds, ks_thresholds)):
        is_exceeded = [value > threshold for value, threshold in zip(values, thresholds)]
        axis.barh(ticks, values, height=0.6, color=[_RED if exceeds else _BLUE for exceeds in is_exceeded])
        axis.vlines(thresholds, ticks - 0.45, ticks + 0.45, color="black", linewidth=2, label="threshold")
        axis.set_yticks(ticks, names)
        axis.set(xlabel=label, xlim=(0, None))
        axis.legend(loc="lower right", fontsize=8)
        _hide_frame(axis)
    axes[0].invert_yaxis()
    return _closed(figure)


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
    return _closed(figure)


def prediction_distribution(
    column: Bins, counts: NDArray[np.intp], predictions: NDArray[np.float64], *, label: str
) -> Figure:
    """Draw the bins and the cumulative distribution of the predictions, both beside training."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6), layout="constrained")
    _bars(left, column, counts, _BLUE)
    left.legend(fontsize=8, frameon=False)
    shares = [0, *np.cumsum(column.shares)]
    right.plot([column.minimum, *column.edges], shares, color=_GREY, marker="o", markersize=4, label="training")
    up_to = np.linspace(0, 1, 201)  # enough points for the eye, for any number of rows
    right.plot(np.quantile(predictions[np.isfinite(predictions)], up_to), up_to, color=_BLUE, label="live")
    right.set(xlabel=f"predicted {label}", ylabel="predictions up to that value")
    right.yaxis.set_major_formatter("{x:.0%}")
    right.legend(fontsize=8, frameon=False)
    _hide_frame(right)
    return _closed(figure)


def error_over_time(
    starts: NDArray[np.datetime64],
    rows: NDArray[np.intp],
    truths: NDArray[np.intp],
    rmse: NDArray[np.float64],
    intervals: NDArray[np.float64],
    *,
    validation_rmse: float,
    unit: str,
) -> Figure:
    """Draw the RMSE of each period with its interval `(2, n_periods)`, NaN for none, above its number of rows."""
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(12, 5), layout="constrained", sharex=True, height_ratios=(3, 2)
    )
    ticks = np.arange(len(starts))
    upper.axhline(validation_rmse, color=_RED, linestyle="--", label="validation")
    upper.errorbar(ticks, rmse, yerr=np.abs(intervals - rmse), color=_BLUE, fmt="o", capsize=2, label="live, with 95 %")
    upper.set(ylabel=f"RMSE ({unit})" if unit else "RMSE", ylim=(0, None))
    lower.bar(ticks, rows, color=_GREY, label="rows")
    lower.bar(ticks, truths, width=0.5, color=_BLUE, label="with a true value")
    lower.set(ylabel="rows", xlim=(-0.6, len(starts) - 0.4))
    lower.yaxis.set_major_formatter("{x:,.0f}")
    lower.set_xticks(*_dates(starts))
    for axis in (upper, lower):
        axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0)
        _hide_frame(axis)
    return _closed(figure)


def to_svg(figure: Figure) -> bytes:
    """Render the figure with text as outlines; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "tabserve"}):
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    return buffer.getvalue()


def to_png(figure: Figure) -> bytes:
    """Render the figure; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def _closed(figure: Figure) -> Figure:
    """Remove the figure from pyplot's registry, so that a notebook shows it once and it can be freed."""
    plt.close(figure)
    return figure


def _scatter(axis: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """Draw a dot for each row, smaller and fainter for many rows, so that their density shows."""
    faint = min(1.0, (500 / len(x)) ** 0.5)
    axis.scatter(
        x, y, s=14 * faint, alpha=0.7 * faint, color=_BLUE, linewidths=0 if faint < 1 else None, rasterized=True
    )


def _label(column: Column) -> str:
    return f"{column.name} ({column.unit})" if column.unit else column.name


def _bars(axis: Axes, column: Bins, counts: NDArray[np.intp], color: str) -> None:
    """Draw the training and the live share of each bin side by side."""
    known = counts[:-1]
    ticks = np.arange(len(known))
    axis.bar(ticks - 0.2, column.all_shares[:-1], width=0.4, color=_GREY, label="training")
    axis.bar(ticks + 0.2, known / max(known.sum(), 1), width=0.4, color=color, label="live")
    edges = [f"≤ {edge:.4g}" for edge in column.edges]
    labels = [f"< {column.minimum:.4g}", *edges, f"> {column.edges[-1]:.4g}"]
    axis.set_xticks(ticks, labels, rotation=90, fontsize=8)
    axis.yaxis.set_major_formatter("{x:.0%}")
    _hide_frame(axis)


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the smallest and the largest value, widened if they are too close for bins between them."""
    low, high = float(values.min()), float(values.max())
    least = 1e-6 * max(abs(low), abs(high)) or 1.0
    return (low, high) if high - low > least else (low - least, high + least)


def _dates(starts: NDArray[np.datetime64]) -> tuple[list[int], list[str]]:
    """Return at most 16 ticks and their labels, with the hour unless all periods begin at midnight."""
    at = list(range(0, len(starts), -(-len(starts) // 16)))
    days = (starts == starts.astype("datetime64[D]")).all()
    texts = [str(start.astype("datetime64[D]" if days else "datetime64[m]")).replace("T", "\n") for start in starts[at]]
    return at, [text[5:] for text in texts]


def _hide_frame(axis: Axes) -> None:
    """Hide the upper and right lines of the frame."""
    axis.spines[["top", "right"]].set_visible(False)
