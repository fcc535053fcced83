"""What a service needs of a model: load a verified version, turn named cells into a matrix, predict.

Everything here imports no more than numpy and ONNX Runtime. Training lives in `gbm`, `evaluate`, `datasets`,
`plots` and `export`, which are imported by their own names.
"""

from model.artifact import Artifact
from model.errors import ArtifactError, ModelError, NotInStoreError, Problem, SchemaError, TooManyRowsError
from model.schema import REASONS, Feature, Matrix, Schema, check_width, columns_from_csv, misfits
from model.store import Store

__all__ = [
    "REASONS",
    "Artifact",
    "ArtifactError",
    "Feature",
    "Matrix",
    "ModelError",
    "NotInStoreError",
    "Problem",
    "Schema",
    "SchemaError",
    "Store",
    "TooManyRowsError",
    "check_width",
    "columns_from_csv",
    "misfits",
]
