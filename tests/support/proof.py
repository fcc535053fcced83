"""What the tests of proof share."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from model import Matrix, Schema
from model.engine.runtime import Predict
from model.engine.trees import Trees
from model.store import artifact
from model.store.manifest import Proof
from model.train import export, proof, recipe
from model.train.candidate import Candidate
from model.train.subject import Subject
from tests.support import examples

N_TREES = 25


@dataclass(frozen=True)
class Case:
    """A small model with what it is about and all arguments of the proof."""

    subject: Subject
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
            table_rows=self.subject.X,
            split_rows=self.split_rows,
            tolerance=tolerance,
        )


@pytest.fixture(scope="module")
def trained() -> Case:
    """A model of a few trees of the built-in table."""
    found = examples.trained(n_estimators=N_TREES)
    subject = recipe.subject_of(found)
    return Case(subject, found.candidate, export.schema_of(subject, found.candidate))
