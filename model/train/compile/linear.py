"""scikit-learn's linear and generalised linear models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import linear_model
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.svm import LinearSVR

from model.engine.steps import Step
from model.errors import ExportError
from model.schema.features import Matrix

_GENERALISED = (linear_model.PoissonRegressor, linear_model.GammaRegressor, linear_model.TweedieRegressor)
_REGRESSORS = (
    *(linear_model.LinearRegression, linear_model.Ridge, linear_model.RidgeCV),
    *(linear_model.ElasticNet, linear_model.ElasticNetCV, linear_model.Lasso, linear_model.LassoCV),
    *(linear_model.Lars, linear_model.LarsCV, linear_model.LassoLars, linear_model.LassoLarsCV),
    *(linear_model.LassoLarsIC, linear_model.OrthogonalMatchingPursuit, linear_model.OrthogonalMatchingPursuitCV),
    *(linear_model.BayesianRidge, linear_model.ARDRegression, linear_model.HuberRegressor),
    *(linear_model.QuantileRegressor, linear_model.TheilSenRegressor, linear_model.RANSACRegressor),
    *(linear_model.SGDRegressor, linear_model.PassiveAggressiveRegressor, LinearSVR),
    *_GENERALISED,
)
_CLASSIFIERS = (
    *(linear_model.LogisticRegression, linear_model.LogisticRegressionCV, linear_model.SGDClassifier),
    LinearDiscriminantAnalysis,
)
_STEPS_OF_LINK: dict[str, tuple[Step, ...]] = {"IdentityLink": (), "LogLink": (("exp", ()),)}
_TWO_CLASSES: tuple[Step, ...] = (("logistic", (1.0,)), ("two classes", ()))

CLASSIFIERS = tuple(kind.__name__ for kind in _CLASSIFIERS)
NAMES = (*(kind.__name__ for kind in _REGRESSORS), *CLASSIFIERS)
PACKAGES = ("joblib", "scikit-learn", "scipy")  # that determine the bits


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear model on the columns that it sees: coefficients `(n_outputs, n_columns)`, intercepts `(n_outputs,)`.

    `steps` are done to the sums, and give predictions or the probability of each of `classes`; `decision`, one of
    `engine.steps.DECISIONS`, gives the label.
    """

    coefficients: NDArray[np.float64]
    intercepts: NDArray[np.float64]
    steps: Sequence[Step] = ()
    classes: Sequence[Any] = ()
    decision: str | None = None


def owns(estimator: Any) -> bool:
    """Return whether an estimator is a linear model that is known here."""
    return isinstance(estimator, (*_REGRESSORS, *_CLASSIFIERS))


def fitted_linear(estimator: Any) -> Linear:
    """Return a fitted estimator that this module owns. Raises `ExportError` for one that has no answers to serve."""
    name = type(estimator).__name__
    if isinstance(estimator, linear_model.RANSACRegressor):
        if not owns(estimator.estimator_) or isinstance(estimator.estimator_, _CLASSIFIERS):
            raise ExportError(f"{name} found a {type(estimator.estimator_).__name__}, which is not a linear model")
        return fitted_linear(estimator.estimator_)
    coefficients = estimator.coef_.toarray() if hasattr(estimator.coef_, "toarray") else np.asarray(estimator.coef_)
    if coefficients.dtype != np.float64:
        raise ExportError(
            f"{name} was fitted on {coefficients.dtype} and computes in it; turn the table's columns into float64, for "
            "example by astype, and fit again"
        )
    coefficients = np.array(coefficients.reshape(-1, coefficients.shape[-1]))
    intercepts = np.broadcast_to(np.asarray(estimator.intercept_, dtype=np.float64), (len(coefficients),)).copy()
    if not isinstance(estimator, _CLASSIFIERS):
        if len(coefficients) > 1:
            raise ExportError(f"{name} does not predict one number a row; export a model for each")
        link = type(estimator._base_loss.link).__name__ if isinstance(estimator, _GENERALISED) else "IdentityLink"
        return Linear(coefficients, intercepts, _STEPS_OF_LINK[link])
    steps = _TWO_CLASSES if len(coefficients) == 1 else (("numpy softmax by column", ()),)
    if isinstance(estimator, linear_model.SGDClassifier):
        if estimator.loss != "log_loss":
            raise ExportError(
                f"{name} with the loss {estimator.loss!r} has no probabilities that can be served; fit it with "
                "loss='log_loss'"
            )
        steps = _TWO_CLASSES if len(coefficients) == 1 else (("logistic", (1.0,)), ("shares", ()))
    decision = "sum > 0" if len(coefficients) == 1 else "largest sum"
    return Linear(coefficients, intercepts, steps, estimator.classes_, decision)


def columns(estimator: Any, table: Any) -> Matrix:
    """Return the columns of what the estimator's `predict` takes, `(n_rows, n_columns)`.

    Raises `ExportError` for columns of text.
    """
    try:
        return np.asarray(table.toarray() if hasattr(table, "toarray") else table, dtype=np.float64)
    except (TypeError, ValueError):
        raise ExportError("a column of text reaches the model; encode it, for example by OneHotEncoder") from None
