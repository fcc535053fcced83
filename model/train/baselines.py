"""The simple models that a card compares a model with: the mean, or the share of each class, and a linear model.

The linear model is that of the search with its defaults, on the features as they are sent, without derived ones. Its
fit is bounded by numbers of rows and columns, never by the clock.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from model.schema.feature import CATEGORY, NUMBER, Feature
from model.schema.features import Matrix, Schema
from model.task import CLASSIFICATION
from model.train.frames import Column
from model.train.learners import linear
from model.train.subject import Subject

MEAN, SHARES, LINEAR = "the mean", "the share of each class", "a linear model"

_SEED = 0
_MAX_ROWS, _LEAST_ROWS = 20_000, 200
_MAX_CELLS = 1e7  # rows times columns times classes of a fit, which takes a few seconds
_MAX_ONE_HOT = 60  # categories that get a column each, as in `linear`


def answers(subject: Subject, schema: Schema) -> Mapping[str, NDArray[np.float64]]:
    """Return what each baseline, fitted on the training rows, answers for the held-out rows, of which there are some.

    The answers are in the form of `Artifact.predict`. The linear model is left out where it cannot be fitted, and where
    there are too many columns or classes.
    """
    assert subject.validation
    y = subject.training[1]
    n_new, n_classes = len(subject.validation[0]), _n_classes(subject)
    if n_classes:
        shares = np.bincount(y.astype(np.intp), minlength=n_classes) / len(y)
        found = {SHARES: np.tile(_answer(shares[np.newaxis]), (n_new, 1))}
    else:
        found = {MEAN: np.full(n_new, y.mean())}
    fitted = _linear(subject, schema)
    return found if fitted is None else {**found, LINEAR: fitted}


def _n_classes(subject: Subject) -> int:
    return len(subject.target.texts) if subject.task is CLASSIFICATION else 0


def _linear(subject: Subject, schema: Schema) -> NDArray[np.float64] | None:
    assert subject.validation
    (X, y), n_classes = subject.training, _n_classes(subject)
    coded = sum(len(each.categories) for each in schema.features if len(each.categories) <= _MAX_ONE_HOT)
    n_rows = min(len(X), _MAX_ROWS, int(_MAX_CELLS / ((len(schema.names) + coded) * max(n_classes, 1))))
    if n_rows < min(len(X), _LEAST_ROWS):
        return None
    drawn = np.sort(np.random.default_rng(_SEED).permutation(len(X))[:n_rows])
    columns = list(map(_column, schema.features))
    pipeline = linear.FAMILY.build(linear.FAMILY.defaults(subject.task), columns, (), subject.task, _SEED)
    try:
        # One thread, since the bits of a product depend on how many there are.
        with warnings.catch_warnings(), np.errstate(all="ignore"), threadpool_limits(1):
            warnings.simplefilter("ignore")
            pipeline.fit(_frame(X[drawn], schema), y[drawn])
            new = _frame(subject.validation[0], schema)
            if not n_classes:
                found: NDArray[np.float64] = pipeline.predict(new)
            else:
                probabilities = np.zeros((len(new), n_classes))
                probabilities[:, pipeline.classes_.astype(np.intp)] = pipeline.predict_proba(new)
                found = _answer(probabilities)
    except (ValueError, ArithmeticError):  # rows of one class alone, or numbers whose squares overflow
        return None
    return found if np.isfinite(found).all() else None


def _column(feature: Feature) -> Column:
    """Return a column of the matrix as a learner takes it: categories are codes, dates are seconds."""
    if feature.type == CATEGORY:
        return Column(feature.name, CATEGORY, np.dtype(np.float64), tuple(range(len(feature.categories))))
    return Column(feature.name, NUMBER, np.dtype(np.float64))


def _frame(X: Matrix, schema: Schema) -> pd.DataFrame:
    return pd.DataFrame(X, columns=list(schema.names))


def _answer(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities `(n_rows, n_classes)` behind the position of the most probable class."""
    return np.column_stack([probabilities.argmax(axis=1), probabilities])
