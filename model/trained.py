"""What every algorithm hands to the export: a fitted model, its compiled graph and what is to be kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.engine import Predict
from model.schema import Matrix

# The highest IR version that needs nothing newer than ai.onnx.ml 5, so that older runtimes load the graphs too.
IR_VERSION = 10
ONNX_OPSET = 21


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted model, whichever library fitted it.

    `predict` is the fitted model itself and `graph` what it was compiled to, which may differ by `tolerance`, relative
    to the fitted model's answer; at 0, in no bit. `lowest` and `highest` `(n_features,)` bound what it answers.
    `split_rows` `(n_rows, n_features)` stand where the two would differ first, if there are such places.
    `summary` says in a few words how large it is, `packages` what decides its bits. `files` are kept in the artifact,
    `facts` in its manifest.
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
    tolerance: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)
