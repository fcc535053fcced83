"""The tasks: what kind of answer a model gives, and how good such answers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.metrics import AnyScores, ClassificationScores, Scores, classification, regression


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of answer: its name in manifests, its metrics, and what the model card calls each of them.

    `scores` takes targets `(n_rows,)`, which are positions in the list of classes for a classification, and answers as
    of `Artifact.predict`, and returns a `score_class`.
    """

    name: str
    scores: Callable[[NDArray[np.float64], NDArray[np.float64]], AnyScores]
    score_class: type[Scores] | type[ClassificationScores]
    labels: Mapping[str, str]


REGRESSION = Task(
    name="regression",
    scores=regression,
    score_class=Scores,
    labels={
        "mse": "mean squared error",
        "rmse": "root mean squared error",
        "mae": "mean absolute error",
        "bias": "bias (predicted less actual)",
        "r2": "R²",
    },
)
CLASSIFICATION = Task(
    name="classification",
    scores=classification,
    score_class=ClassificationScores,
    labels={
        "log_loss": "log loss",
        "brier": "Brier score",
        "accuracy": "accuracy",
        "auc": "area under the ROC curve",
    },
)
TASKS: Mapping[str, Task] = {task.name: task for task in (REGRESSION, CLASSIFICATION)}
