"""Compare the engine with the pipeline that it was compiled from, in turns in one process."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import pandas as pd

from benchmarks.contenders import MODEL
from benchmarks.tables import pipeline_of
from model import Artifact, Store
from model.train.proof import random_rows


def main(store: Path) -> None:
    """Print the table, for an array and a data frame."""
    artifact = Store(store).load(MODEL)
    print("| rows | engine, µs a row | scikit-learn on an array | on a data frame |\n|---|---|---|---|")
    for n_rows, calls in ((1, 300), (100, 100), (10_000, 3)):
        engine, array, table = seconds_each(ways(artifact, n_rows), calls)
        print(
            f"| {n_rows:,} | {engine / n_rows * 1e6:.1f} | {array / engine:.1f} times as long "
            f"| {table / engine:.1f} times |"
        )


def ways(artifact: Artifact, n_rows: int) -> list[Callable[[], object]]:
    """Return functions that predict the same rows: the engine, scikit-learn, and scikit-learn on a data frame."""
    X = random_rows(artifact.schema, n_rows, seed=0)
    frame = pd.DataFrame(X, columns=list(artifact.schema.names))
    pipeline, named = pipeline_of(artifact.path), joblib.load(artifact.path / "pipeline.joblib")
    return [lambda: artifact.predict(X), lambda: pipeline.predict(X), lambda: named.predict(frame)]


def seconds_each(functions: list[Callable[[], object]], calls: int, rounds: int = 9) -> list[float]:
    """Return each function's median seconds per call; the functions take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, taken in zip(functions, times):
            started = time.perf_counter()
            for _ in range(calls):
                function()
            taken.append((time.perf_counter() - started) / calls)
    return [statistics.median(taken) for taken in times]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
