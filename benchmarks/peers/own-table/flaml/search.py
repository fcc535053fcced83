"""FLAML's AutoML, as its documentation calls it, with a time budget."""

import pandas as pd
from flaml import AutoML
from tables import run


def fit(X: pd.DataFrame, y: pd.Series, is_classification: bool, budget: float):
    """Search for the seconds of the budget."""
    automl = AutoML()
    metric = "log_loss" if is_classification else "rmse"
    task = "classification" if is_classification else "regression"
    automl.fit(X, y, task=task, metric=metric, time_budget=budget, seed=0, verbose=0)
    return automl


run(fit)
