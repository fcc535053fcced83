"""Fit one model, convert it by every way, compare the predictions and time them; prints the result as JSON.

Runs in the environment of the converters. Arguments: family, task, size, random rows, rounds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from converters import CONVERTERS, Convert, Predict, run_by_onnxruntime

from benchmarks.families_report import (
    ALONE,
    LIBRARY,
    N_ROWS,
    OURS,
    RANDOM,
    ROUNDING,
    SPLITS,
    Difference,
    Engine,
    Measured,
)
from benchmarks.trees import FAMILIES, REGRESSION, table
from model import Artifact, Store, export
from model.engine.graph import INPUT_NAME, OUTPUT_NAME
from model.engine.tree_graph import Result, result_of, to_graph
from model.engine.trees import Trees
from model.train.compile.trees import rows_at_splits
from model.train.proof import random_rows

SEED = 1  # of the random rows; the proof at export has others
SECONDS = 0.1  # a contender's turn lasts at least so long, or one call


def main() -> None:
    """Print the figures of the model that the arguments name."""
    family, task, size, n_random, rounds = sys.argv[1:]
    with redirect_stdout(sys.stderr):  # some converters print
        found = measure(family, task, size, n_random=int(n_random), rounds=int(rounds))
    print(json.dumps(asdict(found)))


def measure(family: str, task: str, size: str, *, n_random: int, rounds: int) -> Measured:
    """Return the figures of one model."""
    X, y = table(task)
    fitted = FAMILIES[family].make(task, size).fit(X, y)
    with tempfile.TemporaryDirectory() as folder:
        export(fitted, X, y, name=family, store=folder)
        artifact = Store(Path(folder)).load(family)
        trees = Trees.unpack((artifact.path / "trees.npz").read_bytes(), artifact.schema.n_places)
    # Converters need not agree on missing values in a model that was fitted without any.
    complete = replace(
        artifact.schema, features=tuple(replace(each, missing=False) for each in artifact.schema.features)
    )
    tried = {RANDOM: random_rows(complete, n_random, seed=SEED)}
    at_splits = rows_at_splits(trees, tried[RANDOM], complete)
    chosen = np.random.default_rng(SEED).permutation(len(at_splits))[:n_random]
    tried[SPLITS] = at_splits[np.sort(chosen)]
    rows = np.vstack(list(tried.values()))
    of_library = fitted.predict_proba if task != REGRESSION else fitted.predict
    expected = as_matrix(of_library(rows), len(rows))
    measured = Measured(
        family=family,
        task=task,
        size=size,
        version=version(FAMILIES[family].package),
        trees=len(trees.roots),
        leaves=len(trees.leaves),
        rows={kind: len(some) for kind, some in tried.items()},
        engines={},
    )
    ways: dict[str, tuple[Predict, Any]] = {LIBRARY: (of_library, rows)}
    measured.engines[LIBRARY] = Engine("float64")
    labels = None if task == REGRESSION else np.searchsorted(fitted.classes_, np.ravel(fitted.predict(rows)))
    answers = as_matrix(artifact.predict(rows), len(rows))
    ways[OURS] = artifact.predict, rows
    with_labels = expected if labels is None else np.column_stack([labels, expected])
    measured.engines[OURS] = Engine("float64", differences=compared(with_labels, answers, measured.rows))
    alone = onnxruntime_alone(artifact, trees)
    if alone:
        ways[ALONE] = alone, rows
        measured.engines[ALONE] = Engine("float64")
    for name, convert in CONVERTERS.items():
        measured.engines[name], way = converted(convert, fitted, rows, expected, measured.rows)
        if way:
            ways[name] = way
    for _ in range(rounds):
        for n_rows in N_ROWS:
            for name, (predict, given) in ways.items():
                seconds = seconds_of_a_row(predict, given, n_rows)
                measured.engines[name].microseconds.setdefault(n_rows, []).append(seconds * 1e6)
    return measured


def converted(
    convert: Convert, fitted: Any, rows: Any, expected: Any, n_rows: dict[str, int]
) -> tuple[Engine, tuple[Predict, Any] | None]:
    """Return what a converter gives for float64 or for float32, whichever is nearer, and how it predicts these rows."""
    problem, found = "", []
    for dtype in ("float64", "float32"):
        given = rows.astype(dtype)
        try:
            predict = convert(fitted, given)
            answers = np.vstack([as_matrix(predict(some), len(some)) for some in chunks(given, N_ROWS[-1])])
            found.append((Engine(dtype, differences=compared(expected, answers, n_rows)), (predict, given)))
        except Exception as error:  # whatever a converter raises is its result
            problem = reason(error)
    if not found:
        return Engine(problem=problem), None
    return min(found, key=lambda each: [sum(counts) for counts in zip(*map(counted, each[0].differences.values()))])


def counted(difference: Difference) -> tuple[int, int]:
    """Return what a converter is judged by: rows that took another branch, then rows that differ in any bit."""
    return difference.beyond_rounding, difference.rows


def onnxruntime_alone(artifact: Artifact, trees: Trees) -> Predict | None:
    """Return the compiled graph in ONNX Runtime with nothing around it; None where the graph has no predictions."""
    result = result_of(trees)
    if result is Result.LEAVES:
        return None
    session = run_by_onnxruntime(to_graph(trees, len(artifact.schema.names), result))
    return lambda X: session.run((OUTPUT_NAME,), {INPUT_NAME: X})


def as_matrix(answers: Any, n_rows: int) -> Any:
    """Return predictions as float64 `(n_rows, n_values)`; a single probability is that of the second class."""
    return np.asarray(answers, dtype=np.float64).reshape(n_rows, -1)


def compared(expected: Any, found: Any, n_rows: dict[str, int]) -> dict[str, Difference]:
    """Return how predictions `(n_rows, n_values)` differ from the library's, for each kind of rows in turn."""
    if found.shape[1] == 1 and expected.shape[1] == 2:
        found = np.column_stack([1 - found, found])
    different = (expected.view(np.int64) != found.view(np.int64)).any(axis=1)
    with np.errstate(all="ignore"):
        relative = np.abs(found - expected) / np.abs(expected)
    relative = np.where(expected == found, 0.0, np.nan_to_num(relative, nan=np.inf, posinf=np.inf)).max(axis=1)
    ends = np.cumsum(list(n_rows.values()))[:-1]
    return {
        kind: Difference(int(some.sum()), int((by > ROUNDING).sum()), float(by.max(initial=0)))
        for kind, some, by in zip(n_rows, np.split(different, ends), np.split(relative, ends))
    }


def seconds_of_a_row(predict: Predict, X: Any, n_rows: int) -> float:
    """Return the seconds a row takes in calls for a number of rows, others in each call."""
    calls = cycle(chunks(X, n_rows))
    predict(next(calls))
    asked, taken, started = 0, 0.0, time.perf_counter()
    while not asked or taken < SECONDS:
        rows = next(calls)
        predict(rows)
        asked, taken = asked + len(rows), time.perf_counter() - started
    return taken / asked


def chunks(X: Any, n_rows: int) -> list[Any]:
    """Return the rows in pieces of a number of rows, up to a thousand pieces; the last may have fewer."""
    return [X[start : start + n_rows] for start in range(0, len(X), n_rows)][:1_000]


def reason(error: BaseException) -> str:
    """Return an error's cause in a line."""
    while error.__cause__:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:160].replace("|", "/") if lines else type(error).__name__


if __name__ == "__main__":
    main()
