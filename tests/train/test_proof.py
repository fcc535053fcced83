"""Models that are small enough for any export."""

from __future__ import annotations

import pytest

from model.train import export
from model.train.learners import gbm
from tests.support import proof as shared
from tests.support.proof import Case

trained = shared.trained


@pytest.mark.parametrize("n_estimators", [1, 2, 5])
def test_small_models_can_be_exported(trained: Case, n_estimators: int) -> None:
    """A model with few splits is exported like any other, with fewer golden rows."""
    pipeline = gbm.fit(trained.rows.X_train, trained.rows.y_train, n_estimators=n_estimators)
    small = gbm.candidate(pipeline, trained.rows.X_train, search={})
    draft = export.draft(trained.table, trained.rows, small, figures={})

    assert draft.manifest["engine"]["parity"]["different_rows"] == 0
    assert draft.manifest["hyperparameters"]["n_estimators"] == n_estimators
