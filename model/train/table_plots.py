"""The figures of a table."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.plots.style import BLUE, RED, closed
from model.plots.training import scatter
from model.train.dataset import Column
from model.train.tables import Table


def distributions(table: Table) -> Figure:
    """Draw a histogram of every column."""
    columns = table.dataset.columns
    n_across = min(4, len(columns))
    n_down = -(-len(columns) // n_across)
    figure, axes = plt.subplots(n_down, n_across, figsize=(3 * n_across, 2.5 * n_down), layout="constrained")
    for axis, column in zip(axes.flat, columns):
        axis.hist(table.frame[column.name], bins=30, color=BLUE)
        axis.set(title=column.name, xlabel=column.unit, ylabel="rows")
    for axis in axes.flat[len(columns) :]:
        axis.set_axis_off()
    return closed(figure)


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
    return closed(figure)


def target_over_features(table: Table) -> Figure:
    """Draw the target over each feature with the least squares line, and the density of the rows beside it."""
    features, target = table.dataset.features, table.dataset.target
    y = table.y.to_numpy()
    figure, axes = plt.subplots(
        len(features), 2, figsize=(11, 4.5 * len(features)), layout="constrained", sharey=True, squeeze=False
    )
    for (left, right), feature in zip(axes, features):
        x = table.frame[feature.name].to_numpy()
        scatter(left, x, y)
        ends = np.array([x.min(), x.max()])
        left.plot(ends, np.polynomial.Polynomial.fit(x, y, 1)(ends), color=RED, label="least squares")
        left.set(xlabel=_label(feature), ylabel=_label(target))
        left.legend()
        *_, image = right.hist2d(x, y, bins=50, cmin=1, cmap="Blues")
        right.set(xlabel=_label(feature))
        figure.colorbar(image, label="rows", ax=right)
    return closed(figure)


def predictions_over_data(
    table: Table, X: NDArray[np.float64], y: NDArray[np.float64], predicted: Mapping[str, NDArray[np.float64]]
) -> Figure:
    """Draw the predictions of models, by name, as lines over the rows `X` `(n_rows, 1)`."""
    (feature,) = table.dataset.features
    order = np.argsort(X[:, 0])
    figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
    scatter(axis, X[:, 0], y)
    for (name, answers), (color, style) in zip(predicted.items(), ((RED, "-"), ("black", "--")), strict=True):
        axis.plot(X[order, 0], answers[order], color=color, linestyle=style, label=name)
    axis.set(xlabel=_label(feature), ylabel=_label(table.dataset.target))
    axis.legend()
    return closed(figure)


def _label(column: Column) -> str:
    return f"{column.name} ({column.unit})" if column.unit else column.name
