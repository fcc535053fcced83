"""The trees of models that are made of several fitted ones: calibrated classifiers, and votes.

All trees of all members stand one after the other, on the columns of all members side by side. Each member has sums of
its own. The steps take these member by member, and average what they make of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier, VotingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.pipeline import Pipeline

from model.engine.steps import Step
from model.errors import ExportError
from model.schema.features import Matrix
from model.train.compile import catboost, lightgbm, scikit_learn, xgboost
from model.train.compile.fitted import FittedTrees

NAMES = ("CalibratedClassifierCV", "VotingClassifier", "VotingRegressor")
PACKAGES = scikit_learn.PACKAGES  # that determine the bits, beside those of the members
_FAMILIES = (scikit_learn, xgboost, lightgbm, catboost)
_MAX_NUMBERS = 100_000  # of steps, each about 20 bytes of the manifest


@dataclass(frozen=True, slots=True)
class _Member:
    """One of several fitted models: the steps in front of its estimator, if there are any, and its library."""

    in_front: Pipeline | None
    estimator: Any
    family: ModuleType

    @property
    def n_columns(self) -> int:
        """Return how many columns the estimator takes."""
        return int(getattr(self.estimator, "n_features_in_", 0)) or len(self.estimator.feature_names_)


def owns(estimator: Any) -> bool:
    """Return whether this is made of several fitted models."""
    return isinstance(estimator, (CalibratedClassifierCV, VotingClassifier, VotingRegressor))


def inside(fitted: Any) -> Iterator[Any]:
    """Yield the fitted models that a model is made of, at the end of a pipeline, too; none for any other model."""
    while isinstance(fitted, Pipeline):
        fitted = fitted.steps[-1][1]
    if isinstance(fitted, CalibratedClassifierCV):
        yield from (_thawed(each.estimator) for each in fitted.calibrated_classifiers_)
    elif owns(fitted):
        yield from map(_thawed, fitted.estimators_)


def packages(estimator: Any) -> tuple[str, ...]:
    """Return the packages that determine the bits of the members."""
    return tuple(name for member in _members(estimator) for name in member.family.PACKAGES)


def columns(estimator: Any, table: Any) -> Matrix:
    """Return the columns that the trees compare, `(n_rows, n_columns)`, of what the estimator's `predict` takes."""
    return np.hstack(
        [
            member.family.columns(member.estimator, member.in_front.transform(table) if member.in_front else table)
            for member in _members(estimator)
        ]
    )


def fitted_trees(estimator: Any) -> FittedTrees:
    """Return the trees of all members. Raises `ExportError` for members that are not trees that can be added."""
    name, members = type(estimator).__name__, _members(estimator)
    trees = [member.family.fitted_trees(member.estimator) for member in members]
    if isinstance(estimator, CalibratedClassifierCV):
        trees = [_scored(member, each) for member, each in zip(members, trees)]
        endings = [_calibration(name, each, estimator.classes_) for each in estimator.calibrated_classifiers_]
        divisor = float(len(members))
    else:
        if isinstance(estimator, VotingClassifier) and estimator.voting != "soft":
            raise ExportError(f"{name} with voting='hard' has no probabilities; fit it with voting='soft'")
        if any(each.leaves.dtype == np.float32 for each in trees):
            raise ExportError(f"{name} averages XGBoost's answers in float32; fit it with members of other libraries")
        weights = estimator._weights_not_none
        endings = [[] for _ in members] if weights is None else [[("multiply", (float(w),))] for w in weights]
        divisor = float(len(members) if weights is None else np.sum(weights))
    if len({(each.goes_left, each.leaves.dtype) for each in trees}) > 1:
        raise ExportError(
            f"{name} has members whose trees compare or add in other precisions; fit it with members of one kind, such "
            "as forests and gradient boosting, or histograms alone"
        )
    steps: list[Step] = []
    n_sums = 0
    for each, ending in zip(trees, endings):
        steps += [("take", (float(n_sums), float(n_sums + _width(each)))), *each.steps, *ending, ("total", ())]
        n_sums += _width(each)
    if sum(len(numbers) for _, numbers in steps) > _MAX_NUMBERS:
        raise ExportError(f"{name} has isotonic calibrations of too many numbers; fit it with method='sigmoid'")
    return replace(
        _joined(trees, [member.n_columns for member in members]),
        steps=(*steps, ("divide", (divisor,))),
        classes=np.asarray(getattr(estimator, "classes_", [])).tolist(),
        decision="",
    )


def _members(estimator: Any) -> list[_Member]:
    members = []
    for fitted in inside(estimator):
        steps = []
        while isinstance(fitted, Pipeline):
            steps += [step for _, step in fitted.steps[:-1]]
            fitted = _thawed(fitted.steps[-1][1])
        family = next((family for family in _FAMILIES if family.owns(fitted)), None)
        if family is None or (family is catboost and fitted.get_cat_feature_indices()):
            raise ExportError(
                f"{type(estimator).__name__} has the member {type(fitted).__name__}, which cannot be compiled exactly "
                "in it; choose trees on numbers"
            )
        named = [(f"{number}", step) for number, step in enumerate(steps)]
        members.append(_Member(Pipeline(named) if named else None, fitted, family))
    return members


def _thawed(fitted: Any) -> Any:
    """Return the model in a frozen one."""
    while isinstance(fitted, FrozenEstimator):
        fitted = fitted.estimator
    return fitted


def _width(trees: FittedTrees) -> int:
    """Return the number of sums."""
    width = trees.leaves.shape[1]
    return width if width > 1 else int(trees.output.max()) + 1


def _scored(member: _Member, trees: FittedTrees) -> FittedTrees:
    """Return a classifier's trees with the steps to what is calibrated: sums where it has them, or probabilities.

    Of two classes that is one column, for the second class.
    """
    if hasattr(member.estimator, "decision_function"):
        return replace(trees, steps=())
    if len(trees.classes) > 2:
        return trees
    if trees.leaves.shape[1] == 2:
        return replace(trees, leaves=trees.leaves[:, 1:])
    return replace(trees, steps=[step for step in trees.steps if not step[0].startswith("two classes")])


def _calibration(name: str, calibrated: Any, classes: NDArray[Any]) -> list[Step]:
    """Return the steps from what is calibrated to probabilities."""
    if calibrated.method not in ("sigmoid", "isotonic"):
        raise ExportError(
            f"{name} with method={calibrated.method!r} cannot be compiled exactly; fit it with 'sigmoid' or 'isotonic'"
        )
    if not np.array_equal(_thawed(calibrated.estimator).classes_, classes):
        raise ExportError(f"{name} has a member that has not seen all classes; fit it with stratified folds")
    if calibrated.method == "sigmoid":
        slopes = [number for each in calibrated.calibrators for number in (float(each.a_), float(each.b_))]
        steps: list[Step] = [("sigmoids", tuple(slopes))]
    else:
        steps = [_isotonic(column, each) for column, each in enumerate(calibrated.calibrators)]
    return [*steps, ("two classes", ()) if len(classes) == 2 else ("shares", ())]


def _isotonic(column: int, calibrator: IsotonicRegression) -> Step:
    is_single = calibrator.X_thresholds_.dtype == np.float32
    numbers = (*calibrator.X_thresholds_.tolist(), *calibrator.y_thresholds_.tolist())
    return f"isotonic{'32' if is_single else ''}", (float(column), *numbers)


def _joined(members: Sequence[FittedTrees], n_columns: Sequence[int]) -> FittedTrees:
    """Return the trees of all members one after the other; leaves of several numbers have zeros for other members."""
    widths = [_width(each) for each in members]
    first_sums, first_columns = np.cumsum([0, *widths]), np.cumsum([0, *n_columns])
    first_nodes = np.cumsum([0, *(len(each.column) for each in members)])
    is_wide = any(each.leaves.shape[1] > 1 for each in members)
    n_places = max(each.n_places for each in members)
    leaves, output, n_codes, codes = [], [], [], []
    for each, first, width in zip(members, first_sums.tolist(), widths):
        if is_wide:
            wide = np.zeros((len(each.leaves), first_sums[-1]), dtype=each.leaves.dtype)
            if each.leaves.shape[1] > 1:
                wide[:, first : first + width] = each.leaves
            else:
                is_leaf = each.column < 0
                tree = np.searchsorted(each.roots, np.flatnonzero(is_leaf), side="right") - 1
                wide[np.arange(len(wide)), first + each.output[tree]] = each.leaves[:, 0]
            leaves.append(wide)
            output.append(np.zeros_like(each.output))
        else:
            leaves.append(each.leaves)
            output.append(each.output + first)
        # A category beyond those of one member may be among those of another.
        beyond = np.arange(each.n_places, n_places)
        ends = np.cumsum(each.n_codes)
        of_nodes = np.split(each.codes, ends[:-1]) if len(each.codes) or len(beyond) else []
        extended = each.is_set & each.other_left & bool(len(beyond))
        codes += [np.append(own, beyond) if more else own for own, more in zip(of_nodes, extended)]
        n_codes.append(each.n_codes + np.where(extended, len(beyond), 0))
    return FittedTrees(
        roots=np.concatenate([each.roots + first for each, first in zip(members, first_nodes)]),
        output=np.concatenate(output),
        column=np.concatenate(
            [np.where(each.column < 0, -1, each.column + first) for each, first in zip(members, first_columns)]
        ),
        threshold=np.concatenate([each.threshold for each in members]),
        missing_left=np.concatenate([each.missing_left for each in members]),
        other_left=np.concatenate([each.other_left for each in members]),
        is_set=np.concatenate([each.is_set for each in members]),
        n_codes=np.concatenate(n_codes),
        codes=np.concatenate([*codes, np.zeros(0, dtype=np.int64)]),
        left=np.concatenate([each.left + first for each, first in zip(members, first_nodes)]),
        right=np.concatenate([each.right + first for each, first in zip(members, first_nodes)]),
        leaves=np.concatenate(leaves),
        cover=np.concatenate([each.cover for each in members]),
        goes_left=members[0].goes_left,
        n_places=n_places,
        finite_in_float32=any(each.finite_in_float32 for each in members),
        n_constants=sum(each.n_constants for each in members),
    )
