"""A version's answers for a batch of Arrow, as columns of Arrow: what Spark and DuckDB call.

Knows nothing of either, nor of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.errors import SchemaError
from model.schema import arrow
from model.schema.feature import BOOLEAN
from model.schema.features import MAX_PROBLEMS
from model.store.artifact import Artifact

PREDICTION, PROBABILITIES, REJECTED = "prediction", "probabilities", "rejected"


def answer(
    model: Artifact, table: pa.RecordBatch | pa.Table, *, probabilities: bool = False, rejected: bool = False
) -> dict[str, pa.Array]:
    """Return the column `prediction` for the rows of a table, which has the features by name, and other columns.

    A classifier's predictions are labels. With `probabilities` there is a column of these, too: a struct with a field
    for each label. With `rejected` rows that do not fit the schema have no prediction, and the column `rejected` says
    why; without it they raise `SchemaError`. Its problems count rows from 0 in this table.
    """
    X, refused = arrow.convert(table, model.schema)
    places = np.flatnonzero(refused)
    if len(places) and not rejected:
        found = arrow.problems(table, model.schema, places[:MAX_PROBLEMS].tolist())
        raise SchemaError(found, n_rows=len(X), more=len(places) > MAX_PROBLEMS)
    types = columns(model, probabilities=probabilities, rejected=rejected)
    answers = model.predict(X[~refused])
    if len(places):
        answers = _spread(answers, ~refused)
    added = {PREDICTION: _predictions(model, answers, refused, types[PREDICTION])}
    if probabilities:
        added[PROBABILITIES] = pa.StructArray.from_arrays(
            [pa.array(shares) for shares in np.ascontiguousarray(answers[:, 1:].T)],
            fields=list(types[PROBABILITIES]),
            mask=pa.array(refused),
        )
    if rejected:
        reasons: list[str | None] = [None] * len(X)
        for row, problems in groupby(arrow.problems(table, model.schema, places.tolist()), key=lambda each: each.row):
            if row is not None:
                reasons[row] = "; ".join(str(replace(each, row=None)) for each in problems)
        added[REJECTED] = pa.array(reasons, pa.string())
    return added


def columns(model: Artifact, *, probabilities: bool = False, rejected: bool = False) -> Mapping[str, pa.DataType]:
    """Return the columns of `answer` with their types. Raises `ValueError` for probabilities of a regression."""
    target = model.schema.target
    if not model.manifest.classes:
        if probabilities:
            raise ValueError(f"{model.name} is a regression, which has no probabilities")
        prediction = pa.float64()
    elif target.type == BOOLEAN:
        prediction = pa.bool_()
    else:
        prediction = pa.array(list(model.manifest.classes)).type
    found = {PREDICTION: prediction}
    if probabilities:
        found[PROBABILITIES] = pa.struct([(name, pa.float64()) for name in model.manifest.class_names])
    if rejected:
        found[REJECTED] = pa.string()
    return found


def _spread(answers: NDArray[np.float64], accepted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the answers at the places of the rows that they are for, zeros at the others."""
    found = np.zeros((len(accepted), *answers.shape[1:]))
    found[accepted] = answers
    return found


def _predictions(
    model: Artifact, answers: NDArray[np.float64], refused: NDArray[np.bool_], kind: pa.DataType
) -> pa.Array:
    if not model.manifest.classes:
        return pa.array(answers, kind, mask=refused)
    places = pa.array(answers[:, 0].astype(np.int64), mask=refused)
    return pa.array(list(model.manifest.classes), kind).take(places)
