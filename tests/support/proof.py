"""What the tests of proof share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from model import Feature, Matrix, Schema
from model.engine.runtime import Predict
from model.engine.trees import Trees
from model.store import artifact
from model.store.manifest import Proof
from model.train import evaluate, export, proof
from model.train.candidate import Candidate
from model.train.evaluate import Split
from model.train.examples import BOSTON_HOUSING
from model.train.learners import gbm
from model.train.tables import Table, read

N_TREES = 25


@dataclass(frozen=True)
class Case:
    """A small pipeline with its data and all arguments of the proof."""

    table: Table
    rows: Split
    pipeline: Any
    model: Candidate
    schema: Schema

    @property
    def trees(self) -> Trees:
        return Trees.unpack(self.model.files[artifact.TREES], [0] * len(self.schema.names))

    @property
    def split_rows(self) -> Matrix:
        return self.model.split_rows

    def prove(self, compiled: Predict, tolerance: float = 0.0) -> Proof:
        """Prove a compiled model equal to the pipeline."""
        return proof.prove(
            self.model.predict,
            compiled,
            schema=self.schema,
            table_rows=self.table.X.to_numpy(),
            split_rows=self.split_rows,
            tolerance=tolerance,
        )


@pytest.fixture(scope="module")
def trained() -> Case:
    """A pipeline of a few trees on the built-in table."""
    table = read(BOSTON_HOUSING)
    rows = evaluate.split(table.X, table.y)
    pipeline = gbm.fit(rows.X_train, rows.y_train, n_estimators=N_TREES)
    model = gbm.candidate(pipeline, rows.X_train, search={})
    target = Feature("MEDV")
    schema = Schema(
        tuple(map(export.with_range, model.features, rows.X_train.T)), export.with_range(target, rows.y_train)
    )
    return Case(table, rows, pipeline, model, schema)
