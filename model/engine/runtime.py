"""The exact engine: arrays in, arrays out. Knows nothing about JSON, files or HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.engine import graph
from model.engine.forest import BitVectors
from model.engine.graph import INPUT_NAME, OUTPUT_NAME
from model.schema.features import Matrix

# Since 1.29 ONNX Runtime sends telemetry from a thread that it starts on import. A server must not do that, and a
# process that forks while this thread runs aborts when it exits.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

Predict = Callable[[Matrix], NDArray[np.float64]]


class Predictor(Protocol):
    """An engine that runs a model: ONNX Runtime here, PyTorch in gpu.py."""

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64."""


class Engine:
    """Runs one compiled model.

    Always single-threaded: a parallel sum would add the trees in another order and change bits. Without threads it also
    survives a fork, so workers share the memory of a model that was loaded before.
    """

    def __init__(self, onnx_model: bytes, vectors: BitVectors | None = None) -> None:
        """Compile the graph; `vectors` of the same model replace it for large batches.

        Raises `ValueError` for bytes that are not a graph that can run here. The runtime only gets graphs of the kind
        that our exports write.
        """
        graph.check(onnx_model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only: nobody on call needs warnings about graph optimisation
        try:
            self._session = onnxruntime.InferenceSession(onnx_model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no other base class
            raise ValueError(f"ONNX Runtime cannot load it: {error}") from None
        self._vectors = vectors

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64."""
        if self._vectors and len(X) >= self._vectors.min_rows:
            return self._vectors.predict(X)
        y: NDArray[np.float64] = self._session.run((OUTPUT_NAME,), {INPUT_NAME: X})[0]
        return y.reshape(-1)  # (n_rows, 1) -> (n_rows,)
