"""What a service needs of a model: load a verified version, turn named cells into a matrix, predict.

Everything here imports no more than numpy and ONNX Runtime. `prediction_log` needs SQLAlchemy, and is imported by its
own name where a log is kept; so are `torch_engine`, which needs PyTorch, where a GPU serves, and training, in `gbm`,
`evaluate`, `datasets`, `plots` and `export`.
"""

from model.artifact import Artifact
from model.drift import Bins, Reference
from model.engine import Predictor
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
from model.schema import (
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
    columns_from_csv,
    shape_problems,
    shortened,
)
from model.store import Store

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
