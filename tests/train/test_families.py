"""Every family of learners builds pipelines that are served exactly, for both tasks and all kinds of columns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial
from sklearn.pipeline import Pipeline

from model.engine.compare import differing, shares_of
from model.engine.formulas import Derived
from model.schema.feature import BOOLEAN, Feature
from model.schema.features import Schema
from model.task import CLASSIFICATION, REGRESSION, Task
from model.train import export, frames, proof
from model.train.frames import Frames
from model.train.learners import LEARNERS, fitted

N_ROWS = 300


def numbers(random: np.random.Generator) -> pd.DataFrame:
    """Three numbers, none missing."""
    return pd.DataFrame(random.normal(size=(N_ROWS, 3)), columns=["x", "y", "z"])


def gaps(random: np.random.Generator) -> pd.DataFrame:
    """Numbers, a boolean and categories, of each of which some are missing, and a column of one value."""
    return numbers(random).assign(
        gap=np.where(random.random(N_ROWS) < 0.2, np.nan, random.random(N_ROWS)),
        flag=np.where(random.random(N_ROWS) < 0.1, np.nan, random.integers(0, 2, N_ROWS)),
        same=1.0,
        town=category(pd.Series(random.choice(list("abcdef"), N_ROWS)).where(random.random(N_ROWS) > 0.1)),
    )


def many(random: np.random.Generator) -> pd.DataFrame:
    """A category of 400 values beside one of 3."""
    return numbers(random).assign(
        part=category([f"part {number:03d}" for number in random.integers(0, 400, N_ROWS)]),
        size=category(random.choice(["large", "medium", "small"], N_ROWS)),
    )


def category(values: object) -> pd.Categorical:
    """Return categories of sorted strings."""
    found = pd.Series(values, dtype=object)
    return pd.Categorical(found, categories=sorted(found.dropna().unique()))


def dates(random: np.random.Generator) -> pd.DataFrame:
    """Dates, some missing: one that formulas take, and one that none does; and a category behind formulas."""
    days = pd.to_datetime("2021-01-01") + pd.to_timedelta(random.integers(0, 900, N_ROWS), unit="D")
    sold = pd.Series(days).astype("datetime64[us]").where(random.random(N_ROWS) > 0.1)
    town = category(random.choice(list("abcdefghijklmn"), N_ROWS))
    return numbers(random).assign(sold=sold, built=sold - pd.to_timedelta(400, unit="D"), town=town)


DERIVED = (Derived("ratio", "x / y"), Derived("month", "month(sold)"), Derived("late", "z > 0 and x < 1"))
TABLES: Mapping[str, Callable[[np.random.Generator], pd.DataFrame]] = {
    "numbers": numbers,
    "gaps": gaps,
    "many": many,
    "dates": dates,
}


def targets(frame: pd.DataFrame, task: Task, n_classes: int, random: np.random.Generator) -> np.ndarray:
    """Return numbers, or positions of classes, that depend on the table."""
    score = frame["x"] * 2 + random.normal(size=N_ROWS) * 0.3
    for name in ("town", "size", "part"):
        if name in frame:
            score = score + frame[name].cat.codes % 5
    if task is REGRESSION:
        return score.to_numpy()
    return pd.qcut(score, n_classes, labels=False).to_numpy().astype(np.int64)


def frames_of(frame: pd.DataFrame) -> Frames:
    """Return the columns of a model frame, in which `flag` is a boolean."""
    found = frames.read(frame)
    return replace(
        found,
        columns=tuple(replace(each, type=BOOLEAN) if each.name == "flag" else each for each in found.columns),
    )


class _Lowest(FixedTrial):
    """A trial that takes the lowest, or the last, of everything that it is asked for."""

    def __init__(self) -> None:
        super().__init__({})

    def _suggest(self, name: str, distribution: BaseDistribution) -> object:
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[-1]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        return distribution.low


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("task", "n_classes"), [(REGRESSION, 0), (CLASSIFICATION, 2), (CLASSIFICATION, 5)])
@pytest.mark.parametrize("name", LEARNERS)
def test_family_is_served_exactly(name: str, task: Task, n_classes: int, table: str) -> None:
    """Defaults and other settings of a family are compiled exactly, and accept missing and unseen values."""
    learner = LEARNERS[name]
    for package in learner.requires:
        pytest.importorskip(package)
    family = learner.family()
    random = np.random.default_rng(3)
    frame = TABLES[table](random)
    y = targets(frame, task, n_classes, random)
    columns = frames_of(frame)
    settings = [family.defaults(task), *([family.suggest(_Lowest(), task)] if family.suggest else [])]
    for parameters in settings:
        pipeline = family.build(parameters, columns.columns, DERIVED if table == "dates" else (), task, 7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline.fit(frame, y)
        X = columns.matrix(frame)
        candidate = fitted.candidate(pipeline, columns, X)
        features = tuple(export.with_range(each, values) for each, values in zip(candidate.features, X.T))
        schema = Schema(features, Feature("target"))
        rows = np.vstack([X, proof.random_rows(schema, 2_000, seed=0), proof.limit_rows(schema)])
        rows = np.vstack([rows, candidate.split_rows[:2_000]])
        expected, served = candidate.predict(rows), candidate.engine.predict(rows)

        if candidate.allowance:
            assert (shares_of(candidate.allowance.of_rows(rows), expected, served[np.newaxis]) <= 1).all()
        else:
            assert not differing(expected, served[np.newaxis], candidate.tolerance).any()
        assert all(feature.missing for feature in features)
        assert all(feature.unseen != "error" for feature in features if feature.categories)


@pytest.mark.parametrize("with_categories", [True, False])
@pytest.mark.parametrize("name", LEARNERS)
def test_columns_may_have_any_names(name: str, with_categories: bool) -> None:
    """Behind derived features, too, where libraries see names and refuse some characters, or two that become equal."""
    learner = LEARNERS[name]
    for package in learner.requires:
        pytest.importorskip(package)
    random = np.random.default_rng(3)
    y = random.normal(size=N_ROWS)
    given = ["price [EUR]", '"q": {{x}}', "a<b, c", "a b", "a_b", "it's ünï 😀", "new\nline"]
    frame = pd.DataFrame({each: y + random.normal(size=N_ROWS) for each in given})
    if with_categories:
        frame["'[town]'"] = category(random.choice(list("abc"), N_ROWS))
    derived = (Derived("price / [m2]", "`price [EUR]` / `a b`"),)
    family, columns = learner.family(), frames_of(frame)
    pipeline = family.build(family.defaults(REGRESSION), columns.columns, derived, REGRESSION, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.fit(frame, y)
    X = columns.matrix(frame)
    candidate = fitted.candidate(pipeline, columns, X)
    served = candidate.engine.predict(X)[np.newaxis]
    assert not differing(candidate.predict(X), served, 1e-9 if candidate.allowance else candidate.tolerance).any()


@pytest.mark.parametrize("name", ["hist-gbm", "gbm", "lightgbm", "xgboost"])
@pytest.mark.parametrize("task", [REGRESSION, CLASSIFICATION], ids=["regression", "classification"])
def test_boosting_is_judged_after_fewer_rounds(name: str, task: Task) -> None:
    """What a boosted model predicts after fewer rounds is what one predicts that is fitted with as many."""
    family, frame = LEARNERS[name].family(), gaps(np.random.default_rng(4))
    assert family.staged is not None
    columns = frames.read(frame).columns
    y = frame["x"] * 3 + frame["flag"].fillna(0.5) + frame["town"].cat.codes
    y = y if task is REGRESSION else pd.qcut(y, 3, labels=False)

    def fitted(n_rounds: int) -> Pipeline:
        parameters = {**family.defaults(task), family.rounds: n_rounds}
        with warnings.catch_warnings(action="ignore"):  # LightGBM warns of its own argument for categories
            return family.build(parameters, columns, (), task, 7).fit(frame, y)

    few, many = family.staged(fitted(12), frame, [5, 12], task)
    predict = "predict" if task is REGRESSION else "predict_proba"

    assert np.array_equal(few, getattr(fitted(5), predict)(frame))
    assert np.array_equal(many, getattr(fitted(12), predict)(frame))
