"""The serving side of a model: load a verified version, turn named cells into a matrix, predict.

Everything here imports only numpy and ONNX Runtime. What needs more is imported by its own name where it is needed:
`live.prediction_log` (SQLAlchemy), `engine.gpu` (PyTorch), and the rooms `train` and `plots`.
"""

from typing import TYPE_CHECKING, Any

from model.engine.explanation import METHODS as EXPLAINED_BY
from model.engine.explanation import Explained
from model.engine.runtime import Predictor
from model.errors import (
    ArtifactError,
    DeviceError,
    ExplanationError,
    GoldenRowsError,
    ImplausibleTruthsError,
    KeyFileError,
    ModelError,
    NotInStoreError,
    PredictionLogError,
    Problem,
    RefusedRowsError,
    SchemaError,
    TooManyRowsError,
    first_line,
)
from model.keys import SCOPE, AccessKey, parse_rate, read_keys
from model.metrics import short
from model.schema.csv_table import columns_from_csv
from model.schema.feature import (
    AS_MISSING,
    AS_OTHER,
    BOOLEAN,
    CATEGORY,
    DATE,
    ERROR,
    INTEGER,
    MAX_LISTED,
    MISSING,
    NOT_A_NUMBER,
    NOT_FINITE,
    OUT_OF_RANGE,
    UNKNOWN_CATEGORY,
    Category,
    Feature,
    described,
    listed,
    to_text,
)
from model.schema.features import (
    MAX_PROBLEMS,
    REASONS,
    UNKNOWN,
    Matrix,
    Schema,
    check_width,
    shape_problems,
    shortened,
)
from model.store.artifact import Artifact, file_content
from model.store.card import card_of
from model.store.differences import RowDifferences, check_comparable, row_differences, translated
from model.store.manifest import Intervals
from model.store.reference import AnyBins, Bins, Reference
from model.store.tries import pause_seconds
from model.store.urls import folder_of
from model.store.versions import CHAMPION, Store
from model.version import VERSION

if TYPE_CHECKING:
    from model.train.own_model import export

__all__ = [
    "AS_MISSING",
    "AS_OTHER",
    "BOOLEAN",
    "CATEGORY",
    "CHAMPION",
    "DATE",
    "ERROR",
    "EXPLAINED_BY",
    "INTEGER",
    "MAX_LISTED",
    "MAX_PROBLEMS",
    "MISSING",
    "NOT_A_NUMBER",
    "NOT_FINITE",
    "OUT_OF_RANGE",
    "REASONS",
    "SCOPE",
    "UNKNOWN",
    "UNKNOWN_CATEGORY",
    "VERSION",
    "AccessKey",
    "AnyBins",
    "Artifact",
    "ArtifactError",
    "Bins",
    "Category",
    "DeviceError",
    "Explained",
    "ExplanationError",
    "Feature",
    "GoldenRowsError",
    "ImplausibleTruthsError",
    "Intervals",
    "KeyFileError",
    "Matrix",
    "ModelError",
    "NotInStoreError",
    "PredictionLogError",
    "Predictor",
    "Problem",
    "Reference",
    "RefusedRowsError",
    "RowDifferences",
    "Schema",
    "SchemaError",
    "Store",
    "TooManyRowsError",
    "card_of",
    "check_comparable",
    "check_width",
    "columns_from_csv",
    "described",
    "export",
    "file_content",
    "first_line",
    "folder_of",
    "listed",
    "parse_rate",
    "pause_seconds",
    "read_keys",
    "row_differences",
    "shape_problems",
    "short",
    "shortened",
    "to_text",
    "translated",
]


def __getattr__(name: str) -> Any:
    """Import the export of a fitted model where it is used, since it needs the training packages."""
    if name == "export":
        from model.train.own_model import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
