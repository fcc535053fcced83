"""From a fitted pipeline to a draft of its artifact: compiled, proven equal, described."""

from __future__ import annotations

import io
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from model import artifact, card, drift, evaluate, gbm, parity, plots, schema
from model.artifact import Draft
from model.datasets import Table
from model.engine import Engine
from model.evaluate import Split
from model.schema import Feature, Matrix, Schema

GOLDEN_ROWS = 64
PIPELINE = "pipeline.joblib"

# What decides the bits of a model; a person who wants them again installs these.
_PACKAGES = ("joblib", "numpy", "onnx", "onnxruntime", "pandas", "scikit-learn", "scipy")


def draft(
    table: Table,
    rows: Split,
    pipeline: Pipeline,
    *,
    search: Mapping[str, Any],
    figures: Mapping[str, Figure],
    notebook: str | None = None,
    owner: str = "",
) -> Draft:
    """Compile the pipeline, prove it equal and gather everything that its artifact keeps.

    Raises `ParityError` if a single bit of a single answer differs.
    """
    X = table.X.to_numpy()
    model_schema = describe(table, rows, pipeline)
    graph = gbm.compile(pipeline)
    engine = Engine(graph)
    split_rows = gbm.rows_at_splits(pipeline, rows.X_train)

    def trained(rows: Matrix) -> NDArray[np.float64]:
        with np.errstate(over="ignore", invalid="ignore"):  # rows at the limits overflow in scikit-learn's own checks
            answers: NDArray[np.float64] = pipeline.predict(rows)
            return answers

    proof = parity.prove(trained, engine.predict, schema=model_schema, table_rows=X, split_rows=split_rows)
    golden = golden_rows(X, split_rows, parity.limit_rows(model_schema))
    dataset = table.dataset
    facts = {
        "title": dataset.title,
        "task": "regression",
        "algorithm": gbm.ALGORITHM,
        **schema.to_manifest(model_schema),
        "hyperparameters": {
            name: value
            for name, value in pipeline["gbm"].get_params().items()
            if isinstance(value, (int, float, str)) and value != "deprecated"
        },
        "search": dict(search),
        "metrics": {
            "training": evaluate.metrics(rows.y_train, pipeline.predict(rows.X_train)),
            "validation": evaluate.metrics(rows.y_validation, pipeline.predict(rows.X_validation)),
        },
        "data": {
            "source": table.source,
            "sha256": table.sha256,
            "rows": len(X),
            "warnings": [str(warning) for warning in table.warnings],
            "split": {"validation_share": rows.validation_share, "random_state": rows.random_state},
        },
        "code": {"git_commit": git_commit(), "notebook": notebook},
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "packages": {name: version(name) for name in _PACKAGES},
        },
        "tags": {"dataset": dataset.name, "task": "regression", "owner": owner},
        "engine": {"kind": "onnx", "file": artifact.GRAPH, "parity": proof},
        "limits": dataset.limits,
    }
    files = {
        artifact.GRAPH: graph,
        artifact.GOLDEN: artifact.to_json(
            {"columns": list(table.X.columns), "X": golden.tolist(), "y": trained(golden).tolist()}
        ),
        PIPELINE: _joblib(pipeline),
        artifact.REFERENCE: artifact.to_json(
            drift.reference(rows.X_train, pipeline.predict(rows.X_train), model_schema)
        ),
        "card.md": card.render(facts).encode(),
        **{f"plots/{name}.png": plots.to_png(figure) for name, figure in figures.items()},
    }
    return Draft(manifest=facts, files=files)


def describe(table: Table, rows: Split, pipeline: Pipeline) -> Schema:
    """Return the schema, with the ranges of the rows that were fitted on and the limits of the pipeline."""
    lowest, highest = gbm.accepted_limits(pipeline)
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
            for feature, low, high in zip(features, lowest, highest)
        ),
        target=target,
    )


def golden_rows(X: Matrix, split_rows: Matrix, limit_rows: Matrix) -> Matrix:
    """Return the rows that travel in the artifact: the table's first row, others of it, at splits and at limits."""
    random = np.random.default_rng(0)
    spare = max(GOLDEN_ROWS - 1 - len(limit_rows), 2)
    some = random.permutation(X)[: spare // 2]
    at_splits = random.permutation(split_rows)[: spare - spare // 2]
    return np.vstack([X[:1], some, at_splits, limit_rows])


def git_commit() -> str | None:
    """Return the commit of the code that is running, with `-dirty` if it was changed since; None outside git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _joblib(pipeline: Pipeline) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(pipeline, buffer)
    return buffer.getvalue()
