"""Turn a candidate into the draft of an artifact: proven equal to its compiled graph, and described."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from model.engine.forest import BitVectors
from model.engine.runtime import Engine
from model.plots import style
from model.schema import features
from model.schema.features import Feature, Matrix, Schema
from model.store import artifact, manifest, reference
from model.store.artifact import Draft
from model.store.manifest import Data, Metrics
from model.train import card, proof
from model.train.candidate import Candidate
from model.train.evaluate import Split
from model.train.tables import Table

GOLDEN_ROWS = 64

# The packages that determine a model's bits, besides those of its algorithm; install these versions to reproduce it.
_PACKAGES = ("numpy", "onnx", "onnxruntime", "pandas")


def draft(
    table: Table,
    rows: Split,
    candidate: Candidate,
    *,
    figures: Mapping[str, Figure],
    notebook: str | None = None,
    owner: str = "",
) -> Draft:
    """Prove the compiled model equal to the fitted one and collect the contents of the artifact.

    Raises `ProofError` if one prediction differs in a bit, or by more than the tolerance.
    """
    X = table.X.to_numpy()
    model_schema = schema_of(table, rows, candidate)
    comparison = proof.prove(
        candidate.predict,
        Engine(candidate.graph, BitVectors(candidate.forest, X.shape[1]) if candidate.forest else None).predict,
        schema=model_schema,
        table_rows=X,
        split_rows=candidate.split_rows,
        tolerance=candidate.tolerance,
    )
    golden = golden_rows(X, candidate.split_rows, proof.limit_rows(model_schema))
    fitted_predictions = candidate.predict(rows.X_train)
    dataset = table.dataset
    task = dataset.task
    scores = Metrics(
        training=task.scores(rows.y_train, fitted_predictions),
        validation=task.scores(rows.y_validation, candidate.predict(rows.X_validation)),
    )
    data = Data(
        source=table.source,
        sha256=table.sha256,
        rows=len(X),
        warnings=[str(warning) for warning in table.warnings],
        split=manifest.Split(validation_share=rows.validation_share, random_state=rows.random_state),
    )
    facts = {
        "title": dataset.title,
        "task": task.name,
        "algorithm": candidate.algorithm,
        "summary": candidate.summary,
        **features.to_manifest(model_schema),
        **candidate.facts,
        "metrics": asdict(scores),
        "data": asdict(data),
        "code": {"git_commit": git_commit(), "notebook": notebook},
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "packages": {name: version(name) for name in sorted({*_PACKAGES, *candidate.packages})},
            **candidate.environment,
        },
        "tags": {"dataset": dataset.name, "task": task.name, "owner": owner},
        "engine": {
            "kind": "onnx",
            "file": artifact.GRAPH,
            "tolerance": candidate.tolerance,
            "parity": asdict(comparison),
        },
        "limits": dataset.limits,
    }
    files = {
        artifact.GRAPH: candidate.graph,
        artifact.GOLDEN: artifact.to_json(
            {"columns": list(table.X.columns), "X": golden.tolist(), "y": candidate.predict(golden).tolist()}
        ),
        artifact.REFERENCE: artifact.to_json(reference.reference(rows.X_train, fitted_predictions, model_schema)),
        **({artifact.FOREST: candidate.forest.pack()} if candidate.forest else {}),
        **candidate.files,
        "card.md": card.render(dataset, candidate, model_schema, scores, data, comparison).encode(),
        **{f"plots/{name}.png": style.to_png(figure) for name, figure in figures.items()},
    }
    return Draft(manifest=facts, files=files)


def schema_of(table: Table, rows: Split, candidate: Candidate) -> Schema:
    """Return the schema with the ranges of the training rows and the limits of the fitted model."""
    *features, target = [
        Feature(
            column.name,
            column.unit,
            column.description,
            minimum=float(values.min()),
            maximum=float(values.max()),
        )
        for column, values in zip(table.dataset.columns, (*rows.X_train.T, rows.y_train))
    ]
    return Schema(
        features=tuple(
            replace(feature, lowest=float(low), highest=float(high))
            for feature, low, high in zip(features, candidate.lowest, candidate.highest)
        ),
        target=target,
    )


def golden_rows(X: Matrix, split_rows: Matrix, limit_rows: Matrix) -> Matrix:
    """Return the golden rows: the table's first row, others of the table, rows at splits and at limits."""
    random = np.random.default_rng(0)
    spare = max(GOLDEN_ROWS - 1 - len(limit_rows), 2)
    n_splits = min(len(split_rows), spare - spare // 2)
    others = random.permutation(X)[: spare - n_splits]
    at_splits = random.permutation(split_rows)[:n_splits]
    return np.vstack([X[:1], others, at_splits, limit_rows])


def git_commit() -> str | None:
    """Return the commit of the running code, with `-dirty` if files were changed; None outside git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        completed = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return completed.stdout.strip()
