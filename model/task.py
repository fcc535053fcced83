"""The tasks: what kind of answer a model gives, and how good such answers are.

A second task is a second entry of `TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.metrics import Scores, regression


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of answer: its name in manifests, its metrics, and what the model card calls each of them.

    `scores` takes targets and predictions, both `(n_rows,)`.
    """

    name: str
    scores: Callable[[NDArray[np.float64], NDArray[np.float64]], Scores]
    labels: Mapping[str, str]


REGRESSION = Task(
    name="regression",
    scores=regression,
    labels={
        "mse": "mean squared error",
        "rmse": "root mean squared error",
        "mae": "mean absolute error",
        "bias": "bias (predicted less actual)",
        "r2": "R²",
    },
)
TASKS: Mapping[str, Task] = {task.name: task for task in (REGRESSION,)}
