"""What a model is about, for tests of what is found out about it on held-out rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.schema.feature import Feature
from model.schema.features import Matrix
from model.store.manifest import Data
from model.task import REGRESSION, Task
from model.train.subject import Subject

PRICE = Feature("price", unit="EUR")


def subject(
    X: Matrix, y: NDArray[np.float64], target: Feature = PRICE, task: Task = REGRESSION, *, n_new: int | None = None
) -> Subject:
    """Return a subject with these rows, of which the last `n_new` are held out; without it all are in both parts."""
    parts = ((X, y), (X, y)) if n_new is None else ((X[:-n_new], y[:-n_new]), (X[-n_new:], y[-n_new:]))
    return Subject(
        name="prices",
        title="Prices",
        task=task,
        target=target,
        purpose="",
        limits="",
        tags={},
        data=Data("a test", "", len(X), [], None),
        was_checked=True,
        X=X,
        training=parts[0],
        validation=parts[1],
    )
