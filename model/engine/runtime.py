"""The exact engine: arrays in, arrays out. Knows nothing about JSON, files or HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.engine import graph
from model.engine.answers import Answers
from model.engine.chunks import in_chunks
from model.engine.forest import BitVectors, forest_of
from model.engine.graph import INPUT_NAME, OUTPUT_NAME
from model.engine.steps import Step
from model.engine.tree_graph import Result, result_of, to_graph
from model.engine.trees import Trees
from model.schema.features import Matrix

# Since 1.29 ONNX Runtime sends telemetry from a thread that it starts on import. A server must not do that, and a
# process that forks while this thread runs aborts when it exits.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

Predict = Callable[[Matrix], NDArray[np.float64]]

_LEAVES_PER_CHUNK = 2**18  # 2 MiB of float64


def session(onnx_model: bytes) -> onnxruntime.InferenceSession:
    """Return the runtime's session of a graph. Raises `ValueError` if it cannot run here."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: nobody on call needs warnings about graph optimisation
    try:
        return onnxruntime.InferenceSession(onnx_model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no other base class
        raise ValueError(f"ONNX Runtime cannot load it: {error}") from None


class Predictor(Protocol):
    """An engine that runs a model: ONNX Runtime here, PyTorch in gpu.py."""

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64.

        A classifier returns `(n_rows, 1 + n_classes)`: the position of the label, then the probability of each class.
        """


class Engine:
    """Runs one compiled model.

    Always single-threaded: a parallel sum would add the trees in another order and change bits. Without threads it also
    survives a fork, so workers share the memory of a model that was loaded before.
    """

    def __init__(
        self,
        onnx_model: bytes,
        vectors: BitVectors | None = None,
        *,
        n_outputs: int = 1,
        of_sums: Sequence[Step] = (),
        decision: str | None = None,
    ) -> None:
        """Compile the graph; `vectors` of the same model replace it for large batches.

        The steps are done to the graph's outputs; a regression has one output and no `decision`. Raises `ValueError`
        for bytes that are not a graph that can run here, or steps and decision that do not fit. The runtime only gets
        graphs of the kind that our exports write.
        """
        graph.check(onnx_model, n_outputs)
        self._answers = Answers(n_outputs, of_sums, decision)
        self._session = session(onnx_model)
        self._vectors = vectors

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64.

        A classifier returns `(n_rows, 1 + n_classes)`: the position of the label, then the probability of each class.
        """
        if self._vectors and len(X) >= self._vectors.min_rows:
            return self._answers(self._vectors.predict(X))
        return self._answers(self._session.run((OUTPUT_NAME,), {INPUT_NAME: X})[0])


class TreesEngine:
    """Runs trees: few rows by ONNX Runtime, many by bit vectors where they fit; single-threaded, as `Engine` is."""

    def __init__(
        self, trees: Trees, n_features: int, of_sums: Sequence[Step] = (), decision: str | None = None
    ) -> None:
        """Make the graph and the vectors of trees that were checked for `n_features`.

        A regression has one output and no `decision`; a classifier decides on a label by one of `steps.DECISIONS`.
        Raises `ValueError` if the runtime cannot load the graph, or steps and decision do not fit.
        """
        self.trees = trees
        result = result_of(trees)
        self._answers = Answers(trees.n_outputs, of_sums, decision)
        self._session = session(to_graph(trees, n_features, result))
        forest = forest_of(trees)
        self._vectors = BitVectors(forest, n_features) if forest else None
        self._min_rows = self._vectors.min_rows if self._vectors else sys.maxsize
        self._leaves = trees.leaves if result is Result.LEAVES else None
        n_outputs = int(trees.output.max()) + 1
        self._trees_of_output = [np.flatnonzero(trees.output == output) for output in range(n_outputs)]
        self._chunk_rows = max(1, _LEAVES_PER_CHUNK // (len(trees.roots) * trees.leaves.shape[1]))

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64.

        A classifier returns `(n_rows, 1 + n_classes)`: the position of the label, then the probability of each class.
        """
        return self._answers(self.sums(X))

    def sums(self, X: Matrix) -> NDArray[np.float64]:
        """Return the sums of leaves, `(n_rows, n_outputs)`."""
        if self._vectors and len(X) >= self._min_rows:
            return self._vectors.predict(X).astype(np.float64, copy=False)
        leaves = self._leaves
        if leaves is None:
            found: NDArray[Any] = self._session.run((OUTPUT_NAME,), {INPUT_NAME: X})[0]
            return found.astype(np.float64, copy=False)
        return in_chunks(lambda chunk: self._sum_leaves(leaves, chunk), X, self._chunk_rows)

    def _sum_leaves(self, leaves: NDArray[Any], X: Matrix) -> NDArray[np.float64]:
        """Add the leaves that rows reach in the order of the trees."""
        found: NDArray[Any] = self._session.run((OUTPUT_NAME,), {INPUT_NAME: X})[0]  # their numbers, (n_rows, n_trees)
        values = leaves.take(found.T.astype(np.intp), axis=0)  # (n_trees, n_rows, width)
        # A sum along the axis of the trees may add pairwise; an accumulated one adds tree after tree.
        if len(self._trees_of_output) == 1:
            sums: NDArray[Any] = np.add.accumulate(values, axis=0)[-1]
        else:
            of_outputs = [np.add.accumulate(values[trees], axis=0)[-1] for trees in self._trees_of_output]
            sums = np.concatenate(of_outputs, axis=1)
        return sums.astype(np.float64, copy=False)
