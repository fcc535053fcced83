"""A model that somebody has fitted, of any library whose models can be compiled, as a candidate."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

import joblib
import numpy as np

from model.engine import steps
from model.engine.columns import Columns, ColumnsEngine
from model.engine.converted import ConvertedEngine
from model.engine.linear import BOUND, ORDER
from model.engine.runtime import Engine, Predictor, TreesEngine
from model.schema.feature import Feature
from model.schema.features import Matrix, Schema
from model.store import artifact
from model.store.manifest import CONVERTED_ENGINE, GRAPH_ENGINE, LINEAR_ENGINE, MAX_TOLERANCE, TREES_ENGINE
from model.train.candidate import Allowance, Candidate
from model.train.compile.compiled import Compiled, compile_model, last_estimator
from model.train.compile.trees import rows_at_splits, rows_at_splits_of_columns
from model.train.derive import derived_of
from model.train.frames import Frames

PIPELINE = "pipeline.joblib"
WEIGHTS = "weights.safetensors"

# The last bits of another machine's logarithms, magnified where a sum cancels.
_ELSEWHERE = 2.0**-36

_LINEAR = (
    f"The served model adds {ORDER}. The library's own bits depend on how many rows it is given, so there are none to "
    "match; a server gives each row the same bits in every batch"
)
_CONVERTED = (
    "The served model is not compiled by Tabserve, but a graph of {}. It may compute in another way than the fitted "
    "model, and its bits may depend on the processor and on how many rows it is given"
)

_Form = tuple[Predictor, dict[str, Any], Matrix, dict[str, bytes]]
"""The engine, its part of the manifest, rows where it would differ first, and its files."""


def candidate(fitted: Any, frames: Frames, X: Matrix, *, converted_within: float | None = None) -> Candidate:
    """Return a model, fitted on the rows `X` `(n_rows, n_features)` of `frames`, as a candidate.

    With `converted_within` a general converter may do what cannot be compiled, whose answers may then be apart by that
    share of their range, or of a probability. Raises `ExportError` for a model that can neither be compiled exactly nor
    be converted.
    """
    compiled = compile_model(fitted, frames, X, by_converter=converted_within is not None)
    if compiled.network is not None:
        return _of_network(fitted, compiled)
    allowance = None
    if compiled.linear:
        engine, engine_facts, split_rows, files = _linear(compiled)
        allowance = Allowance(compiled.linear.allowed, BOUND, _LINEAR)
    elif compiled.converted is not None:
        assert converted_within is not None
        engine, engine_facts, split_rows, files = _converted(compiled, X, converted_within)
        scale = "a probability" if compiled.predict(X[:1]).ndim > 1 else "the range of the answers"
        allowance = Allowance(
            engine.allowed,
            f"{converted_within:g} of {scale}",
            _CONVERTED.format(compiled.converter),
            converted_within,
        )
    else:
        engine, engine_facts, split_rows, files = _of_trees(compiled, X)
    return Candidate(
        algorithm=compiled.algorithm,
        summary=compiled.summary,
        predict=compiled.predict,
        engine=engine,
        engine_facts={
            **engine_facts,
            "steps": [[name, *numbers] for name, numbers in compiled.steps],
            **({} if compiled.decision is None else {"decision": compiled.decision}),
            "tolerance": max(steps.tolerance(compiled.steps), _of_columns(compiled)),
        },
        features=compiled.features,
        split_rows=split_rows,
        packages=compiled.packages,
        files={**files, **_pickled(fitted)},
        facts={"hyperparameters": compiled.hyperparameters, **_derived(fitted)},
        allowance=allowance,
        cover=compiled.cover,
    )


def _of_network(fitted: Any, compiled: Compiled) -> Candidate:
    """Return a network behind computed columns, if there are any; alone it needs no pickle beside its weights."""
    graph, columns = compiled.network, compiled.columns
    assert graph is not None
    estimator = last_estimator(fitted)
    n_outputs = 1 if compiled.decision is None else len(fitted.classes_)
    engine: Predictor = Engine(graph, n_outputs=n_outputs, of_sums=compiled.steps, decision=compiled.decision)
    facts: dict[str, Any] = {"kind": GRAPH_ENGINE, "file": artifact.GRAPH}
    files = {artifact.GRAPH: graph, WEIGHTS: estimator.weights_}
    if columns:
        engine = ColumnsEngine(columns, engine)
        facts["columns"], files[artifact.COLUMNS] = artifact.COLUMNS, columns.pack()
    if compiled.steps:
        facts["steps"] = [[name, *numbers] for name, numbers in compiled.steps]
    if compiled.decision is not None:
        facts["decision"] = compiled.decision
    return Candidate(
        algorithm=compiled.algorithm,
        summary=compiled.summary,
        predict=compiled.predict,
        engine=engine,
        engine_facts=facts,
        features=compiled.features,
        split_rows=np.empty((0, len(compiled.features))),
        packages=compiled.packages,
        files=files if estimator is fitted else {**files, **_pickled(fitted)},
        facts={**estimator.facts(), "network": {"file": WEIGHTS, **estimator.architecture_}},
        tolerance=MAX_TOLERANCE,
        environment={"device": dict(estimator.device_)},
    )


def _of_trees(compiled: Compiled, X: Matrix) -> _Form:
    trees, columns, schema = compiled.trees, compiled.columns, Schema(compiled.features, Feature("target"))
    assert trees is not None
    facts, files = {"kind": TREES_ENGINE, "file": artifact.TREES}, {artifact.TREES: trees.pack()}
    if columns is None:
        engine = TreesEngine(trees, len(compiled.features), compiled.steps, compiled.decision)
        return engine, facts, rows_at_splits(trees, X, schema), files
    of_columns = TreesEngine(trees, columns.n_columns, compiled.steps, compiled.decision)
    return (
        ColumnsEngine(columns, of_columns),
        {**facts, "columns": artifact.COLUMNS},
        rows_at_splits_of_columns(trees, columns, X, schema),
        {**files, artifact.COLUMNS: columns.pack()},
    )


def _linear(compiled: Compiled) -> _Form:
    engine = compiled.linear
    assert engine is not None
    facts = {"kind": LINEAR_ENGINE, "file": artifact.LINEAR, "order": ORDER, "allowed_difference": BOUND}
    n_features = len(compiled.features)
    return engine, facts, np.zeros((0, n_features)), {artifact.LINEAR: engine.pack()}


def _converted(
    compiled: Compiled, X: Matrix, within: float
) -> tuple[ConvertedEngine, dict[str, Any], Matrix, dict[str, bytes]]:
    graph, n_features = compiled.converted, X.shape[1]
    assert graph is not None
    expected = compiled.predict(X)
    n_classes = expected.shape[1] - 1 if expected.ndim > 1 else 0
    allowed = within if n_classes else within * float(np.ptp(expected) or np.abs(expected).max())
    facts = {
        "kind": CONVERTED_ENGINE,
        "file": artifact.GRAPH,
        "converter": compiled.converter,
        "allowed_difference": allowed,
    }
    files = {artifact.GRAPH: graph}
    if compiled.columns:
        facts["columns"], files[artifact.COLUMNS] = artifact.COLUMNS, compiled.columns.pack()
    columns = compiled.columns or Columns(n_features, [])
    engine = ConvertedEngine(graph, columns, n_classes, allowed, compiled.steps)
    return engine, facts, np.zeros((0, n_features)), files


def _of_columns(compiled: Compiled) -> float:
    """Return what another machine's columns may change in a linear model's answers."""
    if compiled.linear is None or compiled.linear.columns.is_portable:
        return 0.0
    return _ELSEWHERE


def _derived(fitted: Any) -> dict[str, Any]:
    """Return the derived features of a model as facts of its manifest; none if it has none."""
    found = [asdict(each) for each in derived_of(fitted)]
    return {"derived": found} if found else {}


def _pickled(fitted: Any) -> dict[str, bytes]:
    """Return the model as a file for notebooks and retraining, which a server never opens; none if it has lambdas."""
    file = io.BytesIO()
    try:
        joblib.dump(fitted, file)
    except Exception:  # pickle raises many classes
        return {}
    return {PIPELINE: file.getvalue()}
