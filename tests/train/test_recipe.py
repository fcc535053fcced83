"""From a person's table to a model: what is refused before the work, and what is no obstacle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model import Store
from model.errors import DataError, ModelError
from model.store.manifest import Manifest
from model.train import proof, recipe
from model.train.learners import LEARNERS
from model.train.recipe import Plan

N_ROWS = 200


def write(folder: Path, label: Callable[[int], object], town: Callable[[int], str] = lambda day: "xyz"[day % 3]) -> str:
    """Write a table of a number, a category and a label, the latter two by the day, which is the row's number."""
    draw = np.random.default_rng(1)
    area = draw.uniform(30, 200, N_ROWS).round(2)
    lines = [f"{day},{area[day]},{town(day)},{label(day)}" for day in range(N_ROWS)]
    path = folder / "table.csv"
    path.write_text("\n".join(["day,area,town,label", *lines, ""]))
    return str(path)


def plan(data: str, **facts: object) -> Plan:
    """Return a plan that fits a linear model."""
    return Plan("table", data, learner="linear", types={"day": "integer"}, **{"target": "label", **facts})  # type: ignore[arg-type]


def test_label_of_held_out_rows_alone_is_left_out(tmp_path: Path) -> None:
    """A label that only the latest rows have cannot be learned: its rows are in neither part."""
    data = write(tmp_path, lambda day: "new" if day == N_ROWS - 2 else ("low", "high")[day % 2])

    trained = recipe.train(recipe.load(plan(data, time="day")), progress=False)
    subject = recipe.subject_of(trained)

    assert trained.fit.labels == ("high", "low")
    assert subject.validation is not None
    assert set(subject.validation[1].tolist()) == {0.0, 1.0}
    assert "1 held-out rows have a label that no other row has" in trained.fit.rows.how


def test_held_out_rows_with_new_labels_alone_are_refused(tmp_path: Path) -> None:
    """A model cannot be judged by labels of which it has seen no row: that is said before it is fitted."""
    data = write(tmp_path, lambda day: "new" if day >= 160 else ("low", "high")[day % 2])

    with pytest.raises(DataError, match="no held-out row has a label of the rows to fit on"):
        recipe.train(recipe.load(plan(data, time="day")), progress=False)


def test_many_categories_are_encoded_without_a_warning(tmp_path: Path) -> None:
    """A column with more categories than get a column each is encoded as the library wants it."""
    data = write(tmp_path, lambda day: day * 1.5, town=lambda day: f"t{day % 70}")

    trained = recipe.train(recipe.load(plan(data)), progress=False)

    assert "TargetEncoder" in trained.candidate.algorithm


@pytest.mark.parametrize(
    ("feature", "part"),
    [
        ("twice = label * 2", "there is no column 'label'"),
        ("ratio = aera / 2", "the nearest is 'area'"),
        ("town = area * 2", "'town' is the name of a column"),
        ("is_x = town == 'w'", "'town' has no category 'w'"),
        ("sum = town + 1", "takes a category"),
    ],
)
def test_derived_feature_that_cannot_be_is_refused_before_the_search(tmp_path: Path, feature: str, part: str) -> None:
    """A formula takes the columns that the model gets, and its name is not that of one: else nothing is fitted."""
    data = write(tmp_path, lambda day: day * 1.5)

    with pytest.raises(ModelError, match=part):
        recipe.load(plan(data, features=(feature,)))


def test_part_of_a_date_has_no_name_of_a_column(tmp_path: Path) -> None:
    """A table may have a date and, beside it, a column with the name that a part of the date would have."""
    lines = [f"2024-{1 + row % 12:02}-{1 + row % 28:02},{row % 5},{row * 1.5}" for row in range(N_ROWS)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["sold,sold_month,price", *lines, ""]))

    loaded = recipe.load(Plan("table", str(path), target="price", learner="linear"))

    assert "month(sold)" in [each.formula for each in loaded.derived]
    assert not {each.name for each in loaded.derived} & set(loaded.table.frame)


def table(**columns: Any) -> pd.DataFrame:
    """Return two numbers without gaps, and what is added."""
    return pd.DataFrame(np.random.default_rng(0).normal(size=(N_ROWS, 2)), columns=["x", "z"]).assign(**columns)


def manifest_of(frame: pd.DataFrame, folder: Path, learner: str) -> Manifest:
    """Train on a table whose target is `y`, add the version to a store, and load it as a server does."""
    frame.to_csv(folder / "table.csv", index=False)
    plan = recipe.Plan("mine", data=str(folder / "table.csv"), target="y", learner=learner)
    store = Store(folder / "store")
    store.add("mine", recipe.draft(recipe.train(recipe.load(plan), progress=False)))
    return store.load("mine").manifest


@pytest.mark.parametrize("learner", ["lightgbm", "hist-gbm"])
def test_a_table_without_gaps_becomes_a_version_that_takes_none(tmp_path: Path, learner: str) -> None:
    """Golden rows have no missing value where the server takes none, although the learner itself takes them."""
    if learner == "lightgbm":
        pytest.importorskip(learner)
    found = manifest_of(table(y=lambda frame: 3 * frame.x + frame.z), tmp_path, learner)
    assert [feature.missing for feature in found.schema.features] == [False, False]


@pytest.mark.parametrize(
    ("learner", "task"),
    list(zip([each for each in LEARNERS if each != "baseline"], cycle(["regression", "classification"]))),
)
def test_gaps_of_rows_that_are_not_fitted_on_are_answered(
    tmp_path: Path, learner: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column whose only gap is in a row that is set aside may be missing in use, of any type and to the bit."""
    for package in LEARNERS[learner].requires:
        pytest.importorskip(package)
    monkeypatch.setattr(proof, "RANDOM_ROWS", 2_000)
    days = np.arange(N_ROWS)
    sold = (pd.Timestamp("2024-01-01") + pd.to_timedelta(days * 7 % 365, "D")).strftime("%Y-%m-%d")
    many = [f"t{day % 70}" for day in days]
    frame = table(town=np.array(["x", "y", "zz"])[days % 3], street=many, new=days % 4 < 2, sold=sold)
    signal = 3 * frame.x + (frame.town == "y") + frame.new
    frame = frame.assign(y=signal if task == "regression" else np.where(signal > 0, "high", "low")).astype(object)
    gone = {**dict.fromkeys(frame), "z": frame.z[17]}
    frame.loc[17] = gone

    found = manifest_of(frame, tmp_path, learner)
    served = Store(tmp_path / "store").load("mine")
    accepts = {feature.name: feature.missing for feature in found.schema.features}
    assert accepts == {**dict.fromkeys(("x", "town", "street", "new", "sold"), True), "z": False}
    assert served.predict(np.array([[np.nan, 0.5, *[np.nan] * 4]])).shape[0] == 1


@pytest.mark.parametrize("place", range(4))
def test_a_label_of_one_row_is_no_obstacle(tmp_path: Path, place: int) -> None:
    """A label that only one row has is a class if the row is fitted on; if it is held out, the row is left out."""
    y = np.where(table().x > 0, "high", "low").astype(object)
    y[place] = "once"
    found = manifest_of(table(y=y), tmp_path, "baseline")
    assert found.classes in (("high", "low"), ("high", "low", "once"))


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('learner = "lineal"', "there is no learner 'lineal'; choose one of auto, "),
        ('learner = "linear"\noptions = { alfa = 2.0 }', "the learner linear has no option 'alfa'"),
    ],
)
def test_schema_file_names_learners_and_options_that_exist(tmp_path: Path, line: str, part: str) -> None:
    """A learner or an option that does not exist is an error, and never passed over."""
    data = write(tmp_path, lambda day: day * 1.5)
    schema = tmp_path / "table.toml"
    schema.write_text(f'{line}\ntarget = "label"\n[columns.area]\n[columns.label]\n')

    with pytest.raises(DataError, match=part):
        recipe.train(recipe.load(Plan("table", data, schema=str(schema))), progress=False)


def test_slower_reading_does_not_lengthen_a_search_that_has_ended(tmp_path: Path) -> None:
    """The same command gives the same search again, however long the table took to read each time."""
    loaded = recipe.load(replace(plan(write(tmp_path, lambda day: day * 1.5)), learner="linear", budget_seconds=20.0))
    slow, quick = (
        recipe.train(replace(loaded, seconds=seconds), runs=tmp_path / "runs", progress=False).search
        for seconds in (18.0, 0.0)
    )

    assert slow is not None
    assert quick is not None
    assert quick.trials == slow.trials
