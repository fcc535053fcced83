"""The pictures that the notebook shows and the artifact keeps."""

from __future__ import annotations

import io
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.datasets import Table

_BLUE, _RED = "#1f5fa8", "#b3362b"


def distributions(table: Table) -> Figure:
    """Draw a histogram of every column."""
    columns = table.dataset.columns
    across = 4
    figure, axes = plt.subplots(-(-len(columns) // across), across, figsize=(12, 5), layout="constrained")
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


def predicted_against_actual(y: NDArray[np.float64], predicted: NDArray[np.float64], *, label: str) -> Figure:
    """Draw predictions over truth, with the line on which a perfect model would lie."""
    figure, axis = plt.subplots(figsize=(5.5, 5), layout="constrained")
    ends = [min(y.min(), predicted.min()), max(y.max(), predicted.max())]
    axis.plot(ends, ends, color=_RED, label="predicted = actual")
    axis.scatter(y, predicted, s=14, alpha=0.7, color=_BLUE)
    axis.set(xlabel=f"actual {label}", ylabel=f"predicted {label}")
    axis.legend()
    return _closed(figure)


def residuals(y: NDArray[np.float64], predicted: NDArray[np.float64], *, label: str) -> Figure:
    """Draw prediction less truth, over the prediction and as a histogram."""
    error = predicted - y
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    left.axhline(0, color=_RED)
    left.scatter(predicted, error, s=14, alpha=0.7, color=_BLUE)
    left.set(xlabel=f"predicted {label}", ylabel="predicted - actual")
    right.axhline(0, color=_RED)
    right.hist(error, bins=30, orientation="horizontal", color=_BLUE)
    right.set(xlabel="rows")
    return _closed(figure)


def importance(names: tuple[str, ...], figures: dict[str, Any]) -> Figure:
    """Draw the permutation importance of each feature, the greatest on top."""
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


def to_png(figure: Figure) -> bytes:
    """Render the figure, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def _closed(figure: Figure) -> Figure:
    """Take the figure out of pyplot's registry, so that a notebook shows it once and nothing keeps it alive."""
    plt.close(figure)
    return figure
