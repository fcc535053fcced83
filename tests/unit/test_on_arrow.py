"""Columns of Arrow that a version answers with, and DuckDB that asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from model import Artifact, SchemaError, Store
from model.on_arrow import answer, columns
from tests.support import classifiers, gems


@pytest.fixture(scope="module")
def model(gems_store: Path) -> Artifact:
    return Store(gems_store).load(gems.NAME)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows of JSON as a table, with a column that is no feature."""
    return pa.Table.from_pylist([{"id": number, **row} for number, row in enumerate(rows)])


def test_a_regression_answers_with_the_bits_of_the_version(model: Artifact) -> None:
    """The only column is `prediction`, as the version itself predicts the same cells of JSON."""
    rows = gems.rows(gems.table(50, seed=2))
    X = model.schema.matrix_from_columns({name: [row[name] for row in rows] for name in gems.COLUMNS})

    assert {name: found.to_pylist() for name, found in answer(model, table(rows)).items()} == {
        "prediction": model.predict(X).tolist()
    }


@pytest.mark.parametrize("name", classifiers.LABELS)
def test_a_classifier_answers_with_labels_and_their_probabilities(classifiers_store: Path, name: str) -> None:
    """A label has its own type, and each probability the name of its label."""
    model = Store(classifiers_store).load(name)
    rows = [row for row in classifiers.rows(classifiers.table(50, seed=2)) if row["depth"] is not None]
    X = model.schema.matrix_from_columns({key: [row[key] for row in rows] for key in classifiers.COLUMNS})
    answers = model.predict(X).tolist()
    found = answer(model, table(rows), probabilities=True)

    assert found["prediction"].to_pylist() == [classifiers.LABELS[name][int(place)] for place, *_ in answers]
    assert found["probabilities"].to_pylist() == [dict(zip(model.manifest.class_names, each)) for _, *each in answers]
    assert {key: each.type for key, each in found.items()} == columns(model, probabilities=True)


@pytest.mark.parametrize("n_bad", [0, 1, 2])
def test_rows_that_do_not_fit_have_reasons_in_place_of_predictions(model: Artifact, n_bad: int) -> None:
    """With `rejected`, a bad row has every reason and no prediction, and changes no other one."""
    bad: dict[str, Any] = {**gems.GEM, "cut": "Excellent", "pieces": None}
    found = answer(model, table([gems.GEM, *[bad] * n_bad, gems.GEM]), rejected=True)
    (alone,) = answer(model, table([gems.GEM]))["prediction"].to_pylist()

    assert found["prediction"].to_pylist() == [alone, *[None] * n_bad, alone]
    assert found["rejected"].to_pylist()[0] is None
    for reasons in found["rejected"].to_pylist()[1:-1]:
        assert reasons.startswith("column 'pieces': missing")
        assert "; column 'cut': unknown category" in reasons


def test_a_bad_row_is_an_error(model: Artifact) -> None:
    """Without `rejected`, rows that do not fit are an error that names every problem by the number of its row."""
    with pytest.raises(SchemaError) as caught:
        answer(model, table([gems.GEM, {**gems.GEM, "carat": None, "cut": None}]))

    assert [(each.row, each.feature) for each in caught.value.problems] == [(1, "carat"), (1, "cut")]


def test_rejected_rows_have_no_probabilities(classifiers_store: Path) -> None:
    """A row that does not fit has null for the probabilities, too."""
    model = Store(classifiers_store).load("grade")
    rows: list[dict[str, Any]] = [classifiers.ROW, {**classifiers.ROW, "depth": None}]
    found = answer(model, table(rows), probabilities=True, rejected=True)

    assert [value is None for value in found["probabilities"].to_pylist()] == [False, True]


def test_no_rows_have_no_answers(model: Artifact) -> None:
    """An empty batch, as of an empty partition, gets empty columns of the same types."""
    empty = table([gems.GEM]).slice(0, 0)
    found = answer(model, empty, rejected=True)

    assert {key: (len(each), each.type) for key, each in found.items()} == {
        key: (0, kind) for key, kind in columns(model, rejected=True).items()
    }


def test_a_regression_has_no_probabilities(model: Artifact) -> None:
    """To ask a regression for probabilities is an error that names the model."""
    with pytest.raises(ValueError, match="gems is a regression, which has no probabilities"):
        columns(model, probabilities=True)
