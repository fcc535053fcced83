"""Write the pipeline as an MLflow model, with the signature that its docs require."""

import os
from pathlib import Path

import joblib
import mlflow.sklearn
import numpy as np
from mlflow.models import infer_signature

pipeline = joblib.load(os.environ["PIPELINE"])
rows = np.zeros((1, pipeline.n_features_in_))
mlflow.sklearn.save_model(
    pipeline,
    Path("model"),
    signature=infer_signature(rows, pipeline.predict(rows)),
    skops_trusted_types=["sklearn.tree._tree.Tree"],
)
