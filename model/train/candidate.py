"""The candidate that every learner passes to the export. Knows no learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.engine.forest import Forest
from model.engine.runtime import Predict
from model.schema.features import Matrix


@dataclass(frozen=True, slots=True)
class Candidate:
    """A fitted model of any library, with its compiled graph.

    `predict` is the fitted model and `graph` the compiled one. Their predictions may differ by the relative
    `tolerance`; at 0 they have the same bits. `lowest` and `highest` `(n_features,)` are the limits of accepted values.
    `split_rows` `(n_rows, n_features)` are rows where the two would differ first, if there are any. `forest` has the
    same trees for large batches, if they fit. `summary` describes the model's size, `packages` determine its bits.
    `files` go into the artifact, `facts` into its manifest.
    """

    algorithm: str
    summary: str
    predict: Predict
    graph: bytes
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    split_rows: Matrix
    packages: tuple[str, ...]
    files: Mapping[str, bytes]
    facts: Mapping[str, Any]
    forest: Forest | None = None
    tolerance: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)
