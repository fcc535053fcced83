"""The figure of a model's runs: how good each was, over the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from model.plots.style import BLUE, GREY, RED, closed, plain

_MAX_NAMED = 30  # points, beyond which their versions are not written beside them


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a figure: when it was, its version, its metrics, and whether it is on other data than the one before.

    `held_out` and `training` are None where there is no such figure, as for a run that failed.
    """

    at: str
    version: int | None
    held_out: float | None
    training: float | None
    on_other_data: bool


def runs(panels: Sequence[tuple[str, Sequence[Point]]]) -> Figure:
    """Draw a panel for each metric, with its name: its value on held-out rows and on those of training, over the runs.

    A run without a value is a cross below; a dashed line is where the data changed.
    """
    height = 0.6 + 3 * len(panels)
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, height), layout="constrained", squeeze=False)
    for axis, (name, points) in zip(axes[:, 0], panels):
        _panel(axis, plain(name), points)
    shown = {label: handle for axis in axes[:, 0] for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(list(shown.values()), list(shown), loc="outside upper right", ncols=4, fontsize=8, frameon=False)
    return closed(figure)


def _panel(axis: Axes, name: str, points: Sequence[Point]) -> None:
    numbers = np.arange(1, len(points) + 1)
    for values, color, label in (
        ([point.training for point in points], GREY, "rows fitted on"),
        ([point.held_out for point in points], BLUE, "rows held out"),
    ):
        known = np.array([value is not None for value in values])
        if known.any():
            shown = np.array([value for value in values if value is not None])
            axis.plot(numbers[known], shown, marker="o", markersize=4, color=color, label=label)
    for number, point in zip(numbers, points):
        value = point.training if point.held_out is None else point.held_out
        if value is not None and point.version is not None and len(points) <= _MAX_NAMED:
            axis.annotate(
                f"@{point.version}", (number, value), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8
            )
    failed = numbers[[point.version is None for point in points]]
    if len(failed):
        axis.plot(
            failed,
            np.full(len(failed), 0.04),
            "x",
            color=RED,
            transform=axis.get_xaxis_transform(),
            label="failed or interrupted",
        )
    for number in numbers[[point.on_other_data for point in points]]:
        axis.axvline(number - 0.5, color=GREY, linestyle="--", linewidth=1, zorder=0, label="other data from here on")
    axis.margins(y=0.15)
    axis.set_xlim(0.5, len(points) + 0.5)
    axis.set_ylabel(name)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axis.xaxis.set_major_formatter(
        FuncFormatter(lambda place, _: points[int(place) - 1].at if 1 <= place <= len(points) else "")
    )
    axis.tick_params(axis="x", labelsize=8)
