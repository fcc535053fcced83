"""A version as MLflow loads it: `mlflow.pyfunc` calls `_load_pyfunc`, where there may be nothing else of this project.

Knows frames of pandas by what they can do, and imports neither pandas nor MLflow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.store import artifact
from model.store.artifact import Artifact


class Served:
    """A version behind MLflow's interface for Python."""

    def __init__(self, model: Artifact) -> None:
        self._model = model

    def predict(self, model_input: Any, params: Any = None) -> NDArray[Any]:
        """Return the predictions `(n_rows,)`, labels for a classifier, of a frame or of rows in the schema's order.

        `params` change nothing. Raises `SchemaError` that names every problem.
        """
        model = self._model
        if hasattr(model_input, "to_dict"):
            columns = {str(name): list(map(_cell, cells)) for name, cells in model_input.to_dict("list").items()}
        else:
            rows = np.asarray(model_input)
            columns = dict(zip(model.schema.names, (list(map(_cell, cells)) for cells in rows.T.tolist())))
        answers = model.predict(
            model.schema.matrix_from_columns({name: columns[name] for name in model.schema.names if name in columns})
        )
        classes = model.manifest.classes
        return np.array([classes[int(place)] for place in answers[:, 0]]) if classes else answers


def _load_pyfunc(data_path: str) -> Served:
    """Return the version in a folder, after verifying it as a server does."""
    return Served(artifact.load(Path(data_path)))


def _cell(value: Any) -> Any:
    """Return a cell of a frame as a cell of JSON: None for what is not equal to itself, dates as texts."""
    if value is None or value != value:
        return None
    return value.isoformat() if hasattr(value, "isoformat") else value
