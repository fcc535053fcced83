"""What the tests of parity share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from model import Matrix, Schema, evaluate, export, gbm, parity
from model.datasets import BOSTON_HOUSING, Table, read
from model.engine import Predict
from model.evaluate import Split
from model.trained import Candidate

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
    def graph(self) -> bytes:
        return self.model.graph

    @property
    def split_rows(self) -> Matrix:
        return self.model.split_rows

    def prove(self, compiled: Predict, tolerance: float = 0.0) -> dict[str, Any]:
        """Prove a compiled model equal to the pipeline."""
        return parity.prove(
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
    return Case(table, rows, pipeline, model, export.schema_of(table, rows, model))
