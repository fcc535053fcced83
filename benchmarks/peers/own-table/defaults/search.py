"""scikit-learn's defaults: a histogram GBM or a forest, behind the encoder and imputer that it needs."""

import sys

import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from tables import run

FAMILY = sys.argv.pop(1)
MODELS = {
    "hist-gbm": (HistGradientBoostingRegressor, HistGradientBoostingClassifier),
    "forest": (RandomForestRegressor, RandomForestClassifier),
}


def fit(X: pd.DataFrame, y: pd.Series, is_classification: bool, budget: float):
    """Fit the family's model with its defaults; the budget is not used."""
    texts = make_column_selector(dtype_include=["object", "string"])
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    columns = make_column_transformer((encoder, texts), remainder=SimpleImputer())
    return make_pipeline(columns, MODELS[FAMILY][is_classification](random_state=0)).fit(X, y)


run(fit)
