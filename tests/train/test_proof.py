"""Models that are small enough for any export."""

from __future__ import annotations

import pytest

from model.train import recipe
from tests.support import examples


@pytest.mark.parametrize("n_estimators", [1, 2, 5])
def test_small_models_can_be_exported(n_estimators: int) -> None:
    """A model with few splits is exported like any other, with fewer golden rows."""
    draft = recipe.draft(examples.trained(n_estimators=n_estimators))

    assert draft.manifest["engine"]["parity"]["different_rows"] == 0
    assert draft.manifest["hyperparameters"]["n_estimators"] == n_estimators
