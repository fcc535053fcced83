"""The smallest table that is accepted can be trained on."""

from __future__ import annotations

from model.train import evaluate, export
from model.train.examples import BOSTON_HOUSING
from model.train.learners import gbm
from model.train.tables import read
from tests.support import tables as shared
from tests.support.tables import LINES, Write

write = shared.write


def test_smallest_accepted_table_can_be_trained_on(write: Write) -> None:
    """A table that passes the checks is enough to fit a model and prove its artifact."""
    table = read(BOSTON_HOUSING, write(LINES[:20]))
    rows = evaluate.split(table.X, table.y)
    trained = gbm.candidate(gbm.fit(rows.X_train, rows.y_train), rows.X_train, search={})
    draft = export.draft(table, rows, trained, figures={})

    assert draft.manifest["data"]["rows"] == 20
    assert draft.manifest["engine"]["parity"]["different_rows"] == 0
