"""A version as MLflow asks it: frames and arrays get the answers of the version, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model import SchemaError
from model.pyfunc import _load_pyfunc
from model.store import artifact
from tests.support import gems, sales
from tests.support.service import bits


@pytest.mark.parametrize(("stores", "name"), [("gems_store", gems.NAME), ("sales_store", sales.NAME)])
def test_frame_is_answered(request: pytest.FixtureRequest, stores: str, name: str) -> None:
    """A frame of columns of every type, dates and missing values included, in any order, gets the version's answers."""
    folder: Path = request.getfixturevalue(stores) / name / "1"
    model = artifact.load(folder)
    columns = {
        name: [kind.cell(number) for number in column.tolist()]
        for name, kind, column in zip(model.schema.names, model.schema.cells, model.golden_rows.T)
    }
    frame = pd.DataFrame({name: columns[name] for name in reversed(columns)})

    assert np.array_equal(bits(_load_pyfunc(str(folder)).predict(frame)), bits(model.golden_predictions))


def test_dates_of_a_frame(sales_store: Path) -> None:
    """Dates that pandas has read are answered as their texts are."""
    served = _load_pyfunc(str(sales_store / sales.NAME / "1"))
    model = artifact.load(sales_store / sales.NAME / "1")
    texts = pd.DataFrame(
        {
            name: [kind.cell(number) for number in column.tolist()]
            for name, kind, column in zip(model.schema.names, model.schema.cells, model.golden_rows[:5].T)
        }
    )
    dates = [feature.name for feature in model.schema.features if feature.type == "date"]
    read = texts.assign(**{name: pd.to_datetime(texts[name], format="ISO8601") for name in dates})

    assert dates
    assert np.array_equal(bits(served.predict(read)), bits(served.predict(texts)))


def test_array_is_rows_in_the_order_of_the_schema(store: Path) -> None:
    """An array has the columns of the schema in their order; one of another width is refused with all it lacks."""
    folder = store / "boston-housing" / "1"
    model = artifact.load(folder)
    served = _load_pyfunc(str(folder))

    assert np.array_equal(bits(served.predict(model.golden_rows)), bits(model.golden_predictions))
    with pytest.raises(SchemaError, match="LSTAT"):
        served.predict(model.golden_rows[:, :-1])


def test_classifier_answers_with_labels(classifiers_store: Path) -> None:
    """A classifier's answers are its labels."""
    folder = classifiers_store / "mine" / "1"
    model = artifact.load(folder)
    places = model.golden_predictions[:, 0].astype(int)
    columns = {
        name: [kind.cell(number) for number in column.tolist()]
        for name, kind, column in zip(model.schema.names, model.schema.cells, model.golden_rows.T)
    }

    assert _load_pyfunc(str(folder)).predict(pd.DataFrame(columns)).tolist() == [
        model.manifest.classes[place] for place in places
    ]
