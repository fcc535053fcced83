"""The trees of XGBoost's estimators, and of the models in its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.engine.steps import Step
from model.errors import ExportError, first_line
from model.schema.features import Matrix
from model.train.compile.fitted import FittedTrees, under_as_float32

NAMES = ("XGBRegressor", "XGBClassifier", "XGBRFRegressor", "XGBRFClassifier", "XGBRanker")
PACKAGES = ("xgboost",)  # that determine the bits
_IDENTITY: tuple[Step, ...] = ()
_EXP: tuple[Step, ...] = (("exp32", ()),)
_LOGISTIC: tuple[Step, ...] = (("logistic32", ()),)
_STEPS_OF_OBJECTIVE = {
    **dict.fromkeys(("reg:squarederror", "reg:squaredlogerror", "reg:pseudohubererror"), _IDENTITY),
    **dict.fromkeys(("reg:absoluteerror", "reg:quantileerror", "binary:logitraw"), _IDENTITY),
    **dict.fromkeys(("rank:ndcg", "rank:map", "rank:pairwise"), _IDENTITY),
    **dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft"), _EXP),
    **dict.fromkeys(("reg:logistic", "binary:logistic"), _LOGISTIC),
    "binary:hinge": (("above zero", ()),),
}
_TWO_CLASSES = ("binary:logistic", "reg:logistic", "binary:hinge")

# What the JSON of a fitted booster says of its categories, since it is long and columns are asked for many times.
_known_categories: WeakKeyDictionary[Any, list[list[Any]]] = WeakKeyDictionary()


def owns(estimator: Any) -> bool:
    """Return whether this is an estimator of XGBoost."""
    return type(estimator).__module__.startswith("xgboost.") and hasattr(estimator, "get_booster")


_WRAPPER = "scikit_learn"  # what a booster of an XGBRegressor, XGBClassifier or XGBRanker has, and no other


def load(path: Path) -> Any:
    """Return the estimator in a file that XGBoost wrote as JSON or UBJ. Raises `ExportError` for any other file."""
    import xgboost

    try:
        booster = xgboost.Booster(model_file=path)
        estimator = _unfitted(booster)
    except (ValueError, TypeError, KeyError) as error:  # XGBoostError is a ValueError
        raise ExportError(
            f"XGBoost {xgboost.__version__} cannot read {path} ({_reason(error)}); write it by save_model with a name "
            "that ends in .json or .ubj"
        ) from None
    if not booster.attr(_WRAPPER):
        return of_booster(booster)
    estimator.load_model(path)
    return estimator


def categories(estimator: Any) -> dict[str, None]:
    """Return the columns that are categories to a fitted estimator."""
    booster = estimator.get_booster()
    types = booster.feature_types or []
    return {name: None for name, kind in zip(booster.feature_names or [], types) if kind == "c"}


def is_booster(fitted: Any) -> bool:
    """Return whether this is what XGBoost's `train` returns."""
    return type(fitted).__module__ == "xgboost.core" and type(fitted).__name__ == "Booster"


def of_booster(booster: Any) -> Any:
    """Return an estimator with what XGBoost's `train` returns, which predicts with all trees after early stopping."""
    estimator = _unfitted(booster)
    estimator.load_model(booster.save_raw("ubj"))
    estimator.get_booster().set_attr(best_iteration=None)
    return estimator


def _unfitted(booster: Any) -> Any:
    """Return an estimator of the kind that a booster is of."""
    import xgboost

    kind = json.loads(booster.attr(_WRAPPER) or "{}").get("_estimator_type", "")
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    if kind == "classifier" or (not kind and objective.startswith(("binary:", "multi:"))):
        return xgboost.XGBClassifier()
    return xgboost.XGBRanker() if kind == "ranker" else xgboost.XGBRegressor()


def fitted_trees(estimator: Any) -> FittedTrees:
    """Return the trees of a fitted estimator. Raises `ExportError` for what has no trees to add."""
    name, booster = type(estimator).__name__, estimator.get_booster()
    if estimator.missing is not None and not np.isnan(estimator.missing):
        raise ExportError(
            f"{name} takes {estimator.missing} for a missing value; put NaN into the table, and fit it with missing=nan"
        )
    document = json.loads(booster.save_raw("json"))
    learner = document["learner"]
    objective, parameters = learner["objective"]["name"], learner["learner_model_param"]
    if learner["gradient_booster"]["name"] == "gblinear":
        raise ExportError(f"{name} with booster='gblinear' has no trees; fit it with booster='gbtree'")
    model, weights = _model(learner)
    trees = model["trees"]
    if int(parameters.get("num_target", 1)) > 1:
        raise ExportError(
            f"{name} predicts {parameters['num_target']} numbers a row; fit and export one model for each"
        )
    if any(int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in trees):
        raise ExportError(
            f"{name} has trees with several numbers a leaf; fit it with multi_strategy='one_output_per_tree'"
        )
    n_trees = _n_trees(estimator, model, n_groups=max(int(parameters["num_class"]), 1))
    steps, classes, decision = _answer(estimator, objective)
    return _joined(
        trees[:n_trees],
        weights,
        model["tree_info"][:n_trees],
        _first_sums(document),
        steps=steps,
        classes=classes,
        decision=decision,
    )


def columns(estimator: Any, table: Any) -> Matrix:
    """Return the columns that the trees compare, `(n_rows, n_columns)`, of what the estimator's `predict` takes."""
    if hasattr(table, "toarray"):  # what a sparse matrix leaves out is missing to XGBoost, not zero
        cells = table.tocoo()
        X = np.full(cells.shape, np.nan)
        X[cells.row, cells.col] = cells.data
        return X
    if not isinstance(table, pd.DataFrame):
        return np.asarray(table, dtype=np.float64)
    return np.column_stack([_column(estimator, number, table.iloc[:, number]) for number in range(table.shape[1])])


def _column(estimator: Any, number: int, values: pd.Series) -> NDArray[np.float64]:
    if not isinstance(values.dtype, pd.CategoricalDtype):
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    known, names = _categories(estimator.get_booster())[number], values.cat.categories.tolist()
    codes = values.cat.codes.to_numpy()
    # Since XGBoost 3.1 a model keeps its categories, and finds those of the table among them.
    if known and known not in (names, _pieces(names)):
        places = {name: place for place, name in enumerate(known)}
        unknown = [name for name in names if name not in places]
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is not among the categories of column {number} that XGBoost was fitted with"
            )
        codes = np.where(codes < 0, -1, np.array([places[name] for name in names])[codes])
    return np.where(codes < 0, np.nan, codes)


def _categories(booster: Any) -> list[list[Any]]:
    """Return the categories of each feature that a booster keeps, in the order of their codes."""
    if booster not in _known_categories:
        model, _ = _model(json.loads(booster.save_raw("json"))["learner"])
        kept = model.get("cats", {}).get("enc") or [{}] * booster.num_features()
        _known_categories[booster] = [_names(each) for each in kept]
    return _known_categories[booster]


def _names(categories: dict[str, Any]) -> list[Any]:
    """Return the categories of one feature: numbers, or strings as one text with the end of each."""
    values: list[Any] = categories.get("values", [])
    if "offsets" not in categories:
        return values
    text = np.array(values).astype(np.uint8).tobytes()
    return [text[start:end].decode(errors="replace") for start, end in pairwise(categories["offsets"])]


def _pieces(names: list[Any]) -> list[str]:
    """Return categories as XGBoost keeps them: cuts the bytes of all where each would end if each letter had one."""
    text, ends = "".join(map(str, names)).encode(), np.cumsum([0, *(len(str(name)) for name in names)]).tolist()
    return [text[start:end].decode(errors="replace") for start, end in pairwise(ends)]


def _model(learner: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """Return the trees' part of the JSON, and the weight of each tree if it is of DART."""
    booster = learner["gradient_booster"]
    if booster["name"] == "dart":
        return booster["gbtree"]["model"], np.array(booster["weight_drop"], dtype=np.float32)
    return booster["model"], None


def _n_trees(estimator: Any, model: dict[str, Any], *, n_groups: int) -> int:
    """Return how many of the trees the estimator's `predict` uses: after early stopping those up to the best."""
    try:
        n_rounds = int(estimator.best_iteration) + 1
    except AttributeError:
        return len(model["trees"])
    if "iteration_indptr" in model:  # since XGBoost 2.0
        return int(model["iteration_indptr"][n_rounds])
    return n_rounds * n_groups * int(model["gbtree_model_param"]["num_parallel_tree"])


def _first_sums(document: dict[str, Any]) -> NDArray[np.float32]:
    """Return the sums to which the trees are added: what XGBoost itself predicts when all leaves are zero."""
    import xgboost

    document = deepcopy(document)
    for tree in _model(document["learner"])[0]["trees"]:
        tree["split_conditions"] = [0.0] * len(tree["split_conditions"])
    booster = xgboost.Booster(model_file=bytearray(json.dumps(document).encode()))
    row = np.zeros((1, booster.num_features()))
    return np.asarray(booster.inplace_predict(row, predict_type="margin"), dtype=np.float32).reshape(-1)


def _answer(estimator: Any, objective: str) -> tuple[Sequence[Step], Sequence[Any], str]:
    """Return the steps from sums to predictions or probabilities, the classes and the decision."""
    name = type(estimator).__name__
    if not hasattr(estimator, "classes_"):
        if objective not in _STEPS_OF_OBJECTIVE:
            raise ExportError(f"{name} with the objective {objective!r} cannot be compiled exactly; choose another one")
        return _STEPS_OF_OBJECTIVE[objective], (), ""
    classes = estimator.classes_.tolist()
    if objective in _TWO_CLASSES:
        return (*_STEPS_OF_OBJECTIVE[objective], ("two classes32", ())), classes, "probability > 0.5"
    if objective == "multi:softprob":
        return (("softmax32", ()),), classes, ""
    if objective == "multi:softmax":
        return (("numpy softmax32", ()),), classes, "largest sum"
    raise ExportError(
        f"{name} with the objective {objective!r} has no probabilities; "
        "fit it with 'binary:logistic' or 'multi:softprob'"
    )


def _joined(
    trees: Sequence[dict[str, Any]],
    weights: NDArray[np.float32] | None,
    output: Sequence[int],
    first: NDArray[np.float32],
    **answer: Any,
) -> FittedTrees:
    """Return the trees of the JSON one after the other, behind a tree of one leaf for each of the first sums."""
    n_nodes = np.array([1] * len(first) + [len(tree["left_children"]) for tree in trees])
    roots = np.cumsum(n_nodes) - n_nodes
    start, itself = np.repeat(roots, n_nodes), np.arange(n_nodes.sum())
    kinds = {"left_children": -1, "right_children": -1, "split_indices": 0, "default_left": 0, "split_type": 0}
    nodes = {
        name: np.concatenate([np.full(len(first), fill), *(np.asarray(tree[name], dtype=np.int64) for tree in trees)])
        for name, fill in kinds.items()
    }
    values = [np.asarray(tree["split_conditions"], dtype=np.float32) for tree in trees]
    thresholds = np.concatenate([first, *values])
    if weights is not None:
        # With DART `predict` adds the first sum to each leaf and takes it off again. Booster.predict does not.
        values = [((first[n] + value) - first[n]) * weight for n, value, weight in zip(output, values, weights)]
    leaves = np.concatenate([first, *values])
    is_leaf = nodes["left_children"] < 0
    is_set = (nodes["split_type"] == 1) & ~is_leaf
    # The listed categories go right. All others go left, those that are in no list, too.
    right = [np.asarray(tree["categories"], dtype=np.int64) for tree in trees]
    n_places = 1 + max((int(each.max()) for each in right if len(each)), default=-1)
    codes, n_codes = [], np.zeros(len(itself), dtype=np.int64)
    for root, tree, listed in zip(roots[len(first) :], trees, right):
        for node, begin, size in zip(tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"]):
            codes.append(np.setdiff1d(np.arange(n_places), listed[begin : begin + size]))
            n_codes[root + node] = len(codes[-1])
    return FittedTrees(
        roots=roots,
        output=np.array([*range(len(first)), *output], dtype=np.int64),
        column=np.where(is_leaf, -1, nodes["split_indices"]),
        threshold=np.where(is_leaf | is_set, 0.0, thresholds.astype(np.float64)),
        missing_left=(nodes["default_left"] == 1) & ~is_leaf,
        other_left=is_set,
        is_set=is_set,
        n_codes=n_codes,
        codes=np.concatenate([*codes, np.zeros(0, dtype=np.int64)]),
        left=np.where(is_leaf, itself, start + nodes["left_children"]),
        right=np.where(is_leaf, itself, start + nodes["right_children"]),
        leaves=leaves[is_leaf, np.newaxis],
        cover=np.concatenate([np.ones(len(first)), *(np.asarray(tree["sum_hessian"], dtype=float) for tree in trees)]),
        goes_left=under_as_float32,
        n_places=n_places,
        n_constants=len(first),
        **answer,
    )


def _reason(error: Exception) -> str:
    """Return the first line of an error's message, without XGBoost's time and place."""
    return first_line(error).split(": ", 1)[-1]
