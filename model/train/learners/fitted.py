"""A model that somebody has fitted, of any library whose models can be compiled, as a candidate."""

from __future__ import annotations

import io
from typing import Any

import joblib

from model.engine import steps
from model.engine.runtime import TreesEngine
from model.schema.feature import Feature
from model.schema.features import Matrix, Schema
from model.store import artifact
from model.store.manifest import TREES_ENGINE
from model.train.candidate import Candidate
from model.train.compile.compiled import compile_model
from model.train.compile.trees import rows_at_splits
from model.train.frames import Frames

PIPELINE = "pipeline.joblib"


def candidate(fitted: Any, frames: Frames, X: Matrix) -> Candidate:
    """Return a model, fitted on the rows `X` `(n_rows, n_features)` of `frames`, as a candidate.

    Raises `ExportError` for a model that cannot be compiled exactly.
    """
    compiled = compile_model(fitted, frames, X)
    trees, n_features = compiled.trees, len(compiled.features)
    schema = Schema(compiled.features, Feature("target"))
    return Candidate(
        algorithm=compiled.algorithm,
        summary=compiled.summary,
        predict=compiled.predict,
        engine=TreesEngine(trees, n_features, compiled.steps, compiled.decision),
        engine_facts={
            "kind": TREES_ENGINE,
            "file": artifact.TREES,
            "steps": [[name, *numbers] for name, numbers in compiled.steps],
            **({} if compiled.decision is None else {"decision": compiled.decision}),
            "tolerance": steps.tolerance(compiled.steps),
        },
        features=compiled.features,
        split_rows=rows_at_splits(trees, X, schema),
        packages=compiled.packages,
        files={artifact.TREES: trees.pack(), **_pickled(fitted)},
        facts={"hyperparameters": compiled.hyperparameters},
    )


def _pickled(fitted: Any) -> dict[str, bytes]:
    """Return the model as a file for notebooks and retraining, which a server never opens; none if it has lambdas."""
    file = io.BytesIO()
    try:
        joblib.dump(fitted, file)
    except Exception:  # pickle raises many classes
        return {}
    return {PIPELINE: file.getvalue()}
