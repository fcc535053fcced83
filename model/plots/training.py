"""The figures of the notebooks and artifacts, and those of the report on a deployed model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from model.metrics import share_interval
from model.plots.style import BLUE, GREY, RED, closed

_MAX_NAME = 20  # characters of a label
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
    axis.legend()
    return closed(figure)


def predicted_against_actual(y: NDArray[np.float64], predicted: NDArray[np.float64], *, label: str) -> Figure:
    """Draw predictions over truth, with the line of a perfect model."""
    figure, axis = plt.subplots(figsize=(5.5, 5), layout="constrained")
    ends = [min(y.min(), predicted.min()), max(y.max(), predicted.max())]
    axis.plot(ends, ends, color=RED, label="predicted = actual")
    scatter(axis, y, predicted)
    axis.set(xlabel=f"actual {label}", ylabel=f"predicted {label}")
    axis.legend()
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
    if answers.shape[1] == 3:
        probability, is_right = answers[:, 2], y == 1
        words = (f"predicted probability of {label}", f"share of {label}")
    else:
        probability, is_right = answers[:, 1:].max(axis=1), answers[:, 0] == y
        words = ("probability of the predicted label", "share of right labels")
    bins = np.minimum((probability * _N_BINS).astype(np.intp), _N_BINS - 1)
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(5.5, 6), layout="constrained", sharex=True, height_ratios=(3, 1)
    )
    upper.plot([0, 1], [0, 1], color=RED, label="as probable as predicted")
    for number in np.unique(bins):
        inside = bins == number
        share, mean = is_right[inside].mean(), probability[inside].mean()
        low, high = share_interval(int(is_right[inside].sum()), int(inside.sum()))
        upper.errorbar(
            mean, share, yerr=[[max(share - low, 0)], [max(high - share, 0)]], fmt="o", capsize=3, color=BLUE
        )
    upper.set(ylabel=words[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    upper.legend()
    lower.hist(probability, bins=np.linspace(0, 1, _N_BINS + 1).tolist(), color=BLUE)
    lower.set(xlabel=words[0], ylabel="rows")
    return closed(figure)


def importance(names: tuple[str, ...], figures: dict[str, Any]) -> Figure:
    """Draw the permutation importance of each feature, the largest on top."""
    order = np.argsort(figures["mean"])
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.barh(
        [names[i] for i in order],
        [figures["mean"][i] for i in order],
        xerr=[figures["sd"][i] for i in order],
        color=BLUE,
        ecolor="black",
    )
    axis.set(xlabel="rise of the validation MSE when the feature is shuffled (mean and sd)")
    return closed(figure)


def search(results: list[dict[str, Any]]) -> Figure:
    """Draw the cross-validated error over the number of trees."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    trees, mse, sd = ([result[key] for result in results] for key in ("n_estimators", "mse", "mse_sd"))
    axis.errorbar(trees, mse, yerr=sd, marker="o", capsize=3, color=BLUE)
    axis.set(xlabel="number of trees", ylabel="cross-validated MSE (mean and sd of the folds)")
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
