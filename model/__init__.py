"""The serving side of a model: load a verified version, turn named cells into a matrix, predict.

Everything here imports only numpy and ONNX Runtime. What needs more is imported by its own name where it is needed:
`live.prediction_log` (SQLAlchemy), `engine.gpu` (PyTorch), and the rooms `train` and `plots`.
"""

from model.engine.runtime import Predictor
from model.errors import (
    ArtifactError,
    DeviceError,
    GoldenRowsError,
    ImplausibleTruthsError,
    ModelError,
    NotInStoreError,
    PredictionLogError,
    Problem,
    RefusedRowsError,
    SchemaError,
    TooManyRowsError,
)
from model.schema.csv_table import columns_from_csv
from model.schema.features import (
    MAX_PROBLEMS,
    MISSING,
    NOT_A_NUMBER,
    NOT_FINITE,
    OUT_OF_RANGE,
    REASONS,
    UNKNOWN,
    Feature,
    Matrix,
    Schema,
    check_width,
    shape_problems,
    shortened,
)
from model.store.artifact import Artifact
from model.store.reference import Bins, Reference
from model.store.versions import Store

__all__ = [
    "MAX_PROBLEMS",
    "MISSING",
    "NOT_A_NUMBER",
    "NOT_FINITE",
    "OUT_OF_RANGE",
    "REASONS",
    "UNKNOWN",
    "Artifact",
    "ArtifactError",
    "Bins",
    "DeviceError",
    "Feature",
    "GoldenRowsError",
    "ImplausibleTruthsError",
    "Matrix",
    "ModelError",
    "NotInStoreError",
    "PredictionLogError",
    "Predictor",
    "Problem",
    "Reference",
    "RefusedRowsError",
    "Schema",
    "SchemaError",
    "Store",
    "TooManyRowsError",
    "check_width",
    "columns_from_csv",
    "shape_problems",
    "shortened",
]
