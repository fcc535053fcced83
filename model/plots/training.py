"""The figures of the notebooks and artifacts, and those of the report on a deployed model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from model import metrics
from model.metrics import Bin
from model.plots.style import BLUE, GREY, RED, closed, plain

_MAX_NAME = 20  # characters of a label
_MAX_GROUP_NAME = 44
_MAX_TICK_TEXT = 30  # characters below an axis, beyond which they stand upright
_N_BINS = 10


def losses(training: Sequence[float], held_out: Sequence[float], *, best_epoch: int, unit: str) -> Figure:
    """Draw the mean squared error of each epoch on the training rows and on those held out.

    `best_epoch` counts from 0.
    """
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    epochs = np.arange(1, len(training) + 1)
    axis.plot(epochs, training, marker="o", markersize=3, color=BLUE, label="rows fitted on")
    axis.plot(epochs, held_out, marker="o", markersize=3, color=RED, label="rows held out")
    axis.axvline(best_epoch + 1, color=GREY, zorder=0, label="the weights that are kept")
    axis.set(xlabel="epoch", ylabel=f"mean squared error ({unit}²)" if unit else "mean squared error")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="upper right")
    return closed(figure)


def predicted_against_actual(y: NDArray[np.float64], predicted: NDArray[np.float64], *, label: str) -> Figure:
    """Draw predictions over truth, with the line of a perfect model."""
    figure, axis = plt.subplots(figsize=(5.5, 5), layout="constrained")
    ends = [min(y.min(), predicted.min()), max(y.max(), predicted.max())]
    axis.plot(ends, ends, color=RED, label="predicted = actual")
    scatter(axis, y, predicted)
    axis.set(xlabel=f"actual {label}", ylabel=f"predicted {label}")
    axis.legend(loc="upper left")
    return closed(figure)


def residuals(y: NDArray[np.float64], predicted: NDArray[np.float64], *, label: str) -> Figure:
    """Draw prediction minus truth, over the prediction and as a histogram."""
    error = predicted - y
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    left.axhline(0, color=RED)
    scatter(left, predicted, error)
    left.set(xlabel=f"predicted {label}", ylabel="predicted - actual")
    right.axhline(0, color=RED)
    right.hist(error, bins=30, range=_range(error), orientation="horizontal", color=BLUE)
    right.set(xlabel="rows")
    return closed(figure)


def confusion(labels: Sequence[str], counts: NDArray[np.intp], *, label: str) -> Figure:
    """Draw a confusion matrix `(n_labels, n_labels)`: a row for each actual label, with the share of each prediction.

    A cell has the number of rows in it; the colour is its share of the actual label's rows.
    """
    names = [name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…" for name in labels]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 3.2 + 0.42 * len(names)
    figure, axis = plt.subplots(figsize=(size + 0.8, size), layout="constrained")
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
    axis.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel=f"predicted {label}", ylabel=f"actual {label}")
    figure.colorbar(image, ax=axis, label="share of the actual label", fraction=0.046)
    return closed(figure)


def reliability(y: NDArray[np.float64], answers: NDArray[np.float64], *, label: str) -> Figure:
    """Draw how often labels were right over how probable the model found them, and how often it found them so.

    `y` `(n_rows,)` are the positions of the true labels, and `answers` `(n_rows, 1 + n_classes)` the positions of the
    predicted ones, each with the probability of each class. Of two classes it is the second that is drawn, of more the
    predicted one. The bars are 95 % confidence intervals.
    """
    words = ("probability of the predicted label", "share of right labels")
    if answers.shape[1] == 3:
        words = (f"predicted probability of {label}", f"share of {label}")
    probability, _ = metrics.chances(y, answers)
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(5.5, 6), layout="constrained", sharex=True, height_ratios=(3, 1)
    )
    upper.plot([0, 1], [0, 1], color=RED, label="as probable as predicted")
    _bars(upper, metrics.calibration(y, answers))
    upper.set(ylabel=words[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    upper.legend(loc="upper left")
    lower.hist(probability, bins=np.linspace(0, 1, _N_BINS + 1).tolist(), color=BLUE)
    lower.set(xlabel=words[0], ylabel="rows")
    return closed(figure)


def calibration(bins: Sequence[Bin], *, label: str) -> Figure:
    """Draw the mean truth over the mean prediction of rows with like predictions, with 95 % confidence intervals."""
    figure, axis = plt.subplots(figsize=(5.5, 5), layout="constrained")
    means = [each.predicted for each in bins]
    axis.plot([min(means), max(means)], [min(means), max(means)], color=RED, label="actual = predicted")
    _bars(axis, bins)
    axis.set(xlabel=f"predicted {label}, mean of like predictions", ylabel=f"actual {label}, mean of the same rows")
    axis.legend(loc="upper left")
    return closed(figure)


def importance(names: Sequence[str], values: NDArray[np.float64], ends: NDArray[np.float64], *, label: str) -> Figure:
    """Draw a bar for each name, the first on top, with the ends `(2, n)` of its 95 % confidence interval."""
    figure, axis = plt.subplots(figsize=(7, 1.2 + 0.3 * len(names)), layout="constrained")
    places = np.arange(len(names))
    axis.barh(places, values, xerr=np.abs(ends - values), color=BLUE, ecolor="black", capsize=2)
    axis.set_yticks(places, list(map(_short, names)))
    axis.invert_yaxis()
    axis.set(xlabel=f"{label} (with 95 %)")
    return closed(figure)


def partial_dependence(
    curves: Mapping[str, tuple[Sequence[float | str], Sequence[float], Sequence[float], Sequence[float]]], *, label: str
) -> Figure:
    """Draw a panel for each column: the mean prediction over its values, between the lower and the upper ends.

    A curve is values, means, lower and upper ends, all of one length; numbers are joined, texts are not.
    """
    n_across = min(3, len(curves))
    n_down = -(-len(curves) // n_across)
    figure, axes = plt.subplots(
        n_down, n_across, figsize=(4 * n_across, 3.2 * n_down), layout="constrained", squeeze=False, sharey=True
    )
    for axis, (name, (at, mean, low, high)) in zip(axes.flat, curves.items()):
        if isinstance(at[0], str):
            places = np.arange(len(at))
            axis.errorbar(places, mean, yerr=np.abs(np.array([low, high]) - mean), fmt="o", capsize=3, color=BLUE)
            names = [_short(str(value)) for value in at]
            axis.set_xticks(places, names, rotation=90 if sum(map(len, names)) > _MAX_TICK_TEXT else 0)
        else:
            axis.fill_between(np.array(at), low, high, color=BLUE, alpha=0.25, linewidth=0)
            axis.plot(at, mean, color=BLUE, marker="o", markersize=3)
        axis.set_xlabel(_short(name))
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    figure.supylabel(f"mean predicted {label}")
    return closed(figure)


def groups(
    names: Sequence[str],
    values: NDArray[np.float64],
    ends: NDArray[np.float64],
    *,
    marked: Sequence[bool],
    faint: Sequence[bool],
    overall: float,
    label: str,
) -> Figure:
    """Draw the error of each group with the ends `(2, n)` of its interval; in red if marked, in grey if faint."""
    figure, axis = plt.subplots(figsize=(8, 1.4 + 0.28 * len(names)), layout="constrained")
    axis.axvline(overall, color="black", linewidth=1, label="all rows")
    colors = [RED if is_marked else GREY if is_faint else BLUE for is_marked, is_faint in zip(marked, faint)]
    places = np.arange(len(names))
    axis.hlines(places, ends[0], ends[1], colors=colors, linewidth=2)
    axis.scatter(values, places, c=colors, zorder=2)
    words = {RED: "worse than all rows", BLUE: "group, with 95 %", GREY: "less than 30 rows"}
    for color in (color for color in words if color in colors):
        axis.plot([], [], marker="o", color=color, label=words[color])
    axis.set_yticks(places, [_short(name, _MAX_GROUP_NAME) for name in names])
    axis.invert_yaxis()
    axis.set(xlabel=label)
    figure.legend(loc="outside upper right", ncols=4, fontsize=8, frameon=False)
    return closed(figure)


def search(results: list[dict[str, Any]]) -> Figure:
    """Draw the cross-validated error over the number of trees."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    trees, mse, sd = ([result[key] for result in results] for key in ("n_estimators", "mse", "mse_sd"))
    axis.errorbar(trees, mse, yerr=sd, marker="o", capsize=3, color=BLUE)
    axis.set(xlabel="number of trees", ylabel="cross-validated MSE (mean and sd of the folds)")
    return closed(figure)


def _bars(axis: Axes, bins: Sequence[Bin]) -> None:
    """Draw the bins of a calibration as dots with their intervals."""
    for each in bins:
        reach = [[max(each.actual - each.low, 0)], [max(each.high - each.actual, 0)]]
        axis.errorbar(each.predicted, each.actual, yerr=reach, fmt="o", capsize=3, color=BLUE)


def _short(name: str, most: int = _MAX_NAME) -> str:
    """Return a person's text as a label of bounded length."""
    text = " ".join(name.split())
    return plain(text if len(text) <= most else f"{text[:most]}…")


def trials(results: Sequence[tuple[int, str, float, float, float]], *, metric: str) -> Figure:
    """Draw the score of each trial over its number, a colour for each family: number, family, score, low and high.

    The line is the best score so far. Scores far above the first, which is the baseline's, are cut off.
    """
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    numbers, scores = [result[0] for result in results], [result[2] for result in results]
    axis.step(numbers, np.minimum.accumulate(scores), where="post", color=GREY, zorder=0, label="best so far")
    for place, family in enumerate(dict.fromkeys(result[1] for result in results)):
        own = [result for result in results if result[1] == family]
        x, mean, low, high = ([result[field] for result in own] for field in (0, 2, 3, 4))
        bars = [np.subtract(mean, low).clip(0), np.subtract(high, mean).clip(0)]
        axis.errorbar(x, mean, yerr=bars, fmt="o", markersize=4, capsize=2, color=f"C{place}", label=family)
    axis.set(xlabel="trial", ylabel=f"cross-validated {metric} (95 % interval)")
    if min(scores) < scores[0]:
        axis.set_ylim(top=scores[0] + 0.5 * (scores[0] - min(scores)))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="upper right", fontsize=8)
    return closed(figure)


def scatter(axis: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """Draw a dot for each row, smaller and fainter for many rows, so that their density shows."""
    faint = min(1.0, (500 / len(x)) ** 0.5)
    axis.scatter(
        x, y, s=14 * faint, alpha=0.7 * faint, color=BLUE, linewidths=0 if faint < 1 else None, rasterized=True
    )


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the smallest and the largest value, widened if they are too close for bins between them."""
    low, high = float(values.min()), float(values.max())
    least = 1e-6 * max(abs(low), abs(high)) or 1.0
    return (low, high) if high - low > least else (low - least, high + least)
