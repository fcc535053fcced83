"""AutoGluon's TabularPredictor, as its documentation calls it, with a time limit."""

import tempfile

import pandas as pd
from autogluon.tabular import TabularPredictor
from tables import run


class Fitted:
    """A predictor that answers as scikit-learn's models do."""

    def __init__(self, predictor: TabularPredictor) -> None:
        """Take a fitted predictor."""
        self._predictor = predictor

    @property
    def classes_(self):
        """Return the labels, in the order of the probabilities."""
        return self._predictor.class_labels

    def predict(self, X: pd.DataFrame):
        """Return a prediction for each row."""
        return self._predictor.predict(X)

    def predict_proba(self, X: pd.DataFrame):
        """Return the probability of each label, `(n_rows, n_classes)`."""
        return self._predictor.predict_proba(X)[self.classes_].to_numpy()


def fit(X: pd.DataFrame, y: pd.Series, is_classification: bool, budget: float):
    """Search for the seconds of the budget."""
    metric = "log_loss" if is_classification else "root_mean_squared_error"
    kind = None if is_classification else "regression"  # it takes a few whole numbers for labels
    predictor = TabularPredictor(
        label=str(y.name), problem_type=kind, eval_metric=metric, path=tempfile.mkdtemp(), verbosity=0
    )
    return Fitted(predictor.fit(X.assign(**{str(y.name): y}), time_limit=budget))


run(fit)
