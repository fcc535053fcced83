"""The trees of CatBoost's estimators, and of the models in its files.

CatBoost turns a category into statistics of the target by hash tables of its own. So each split of categories is a
column of its own, 0 or 1, and CatBoost itself says for rows on which side they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.engine.steps import Step
from model.errors import ExportError, first_line
from model.schema.features import Matrix
from model.train.compile.fitted import FittedTrees, below_as_float32

NAMES = ("CatBoostRegressor", "CatBoostClassifier", "CatBoostRanker")
PACKAGES = ("catboost",)  # that determine the bits
_EXP = ("Poisson", "Tweedie")
_TWO_CLASSES = ("Logloss", "CrossEntropy")
_FORMATS = {".cbm": "cbm", ".json": "json"}
_PARTS = {"features_info", "model_info", "scale_and_bias"}
_LINK_OF_CLASSES: dict[str, Step] = {"MultiClass": ("fast softmax", ()), "MultiClassOneVsAll": ("logistic", (1.0,))}

_Document = dict[str, Any]
_Split = tuple[int, float, bool]
"""A split's column, its threshold and whether a missing value goes left."""
_Places = dict[int, tuple[int, int]]
"""By the number of each split of categories: a tree that has it, and its place there."""

# By the hash of a model's leaves, since CatBoost writes its JSON slowly, and columns are asked for many times.
_known_places: dict[str, _Places] = {}


@dataclass(frozen=True, slots=True)
class _Tree:
    """The nodes of one tree, and the values of its leaves, `(n_leaves, width)`. `weights` are those of all nodes."""

    column: NDArray[np.int64]
    threshold: NDArray[np.float64]
    missing_left: NDArray[np.bool_]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    values: NDArray[np.float64]
    weights: NDArray[np.float64]


def owns(estimator: Any) -> bool:
    """Return whether this is an estimator of CatBoost."""
    return type(estimator).__module__.startswith("catboost.") and hasattr(estimator, "calc_leaf_indexes")


def load(path: Path) -> Any:
    """Return the estimator in a file that CatBoost wrote as cbm or JSON. Raises `ExportError` for any other file."""
    import catboost

    try:
        if path.suffix not in _FORMATS:
            raise ValueError("its name ends in neither .cbm nor .json")
        if path.suffix == ".json":  # of which CatBoost itself reads as much as there is
            document = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(document, dict) or not document.keys() >= _PARTS:
                raise ValueError(f"it has not all of {', '.join(sorted(_PARTS))}")
        model = catboost.CatBoost().load_model(str(path), format=_FORMATS[path.suffix])
        kind = catboost.CatBoostClassifier if len(model.classes_) else catboost.CatBoostRegressor
        return kind().load_model(str(path), format=_FORMATS[path.suffix])
    except (OSError, ValueError, TypeError, catboost.CatBoostError) as error:
        raise ExportError(
            f"CatBoost {catboost.__version__} cannot read {path} ({first_line(error)}); write it by save_model"
        ) from None


def categories(estimator: Any) -> dict[str, None]:
    """Return the columns that are categories to a fitted estimator, which keeps hashes of them alone."""
    return {estimator.feature_names_[number]: None for number in estimator.get_cat_feature_indices()}


def fitted_trees(estimator: Any) -> FittedTrees:
    """Return the trees of a fitted estimator. Raises `ExportError` for what has no trees to add."""
    name, document = type(estimator).__name__, _document(estimator)
    features = document["features_info"]
    _refuse_combinations(name, estimator.feature_names_, features)
    asked = {number: place for place, number in enumerate(_places(document))}
    numbers = {each["feature_index"]: each for each in features.get("float_features", [])}

    def split_of(split: _Document) -> _Split:
        if split["split_type"] == "FloatFeature":
            feature = numbers[split["float_feature_index"]]
            return feature["flat_feature_index"], split["border"], feature["nan_value_treatment"] != "AsTrue"
        if split["split_index"] not in asked:
            raise ExportError(
                f"{name} has categories in trees that are not symmetric; fit it with grow_policy='SymmetricTree'"
            )
        return len(estimator.feature_names_) + asked[split["split_index"]], 0.5, False

    trees = [_symmetric(tree, split_of) for tree in document.get("oblivious_trees", [])]
    trees += [_other(tree, split_of) for tree in document.get("trees", [])]
    n_nodes = np.array([len(tree.column) for tree in trees])
    roots = np.cumsum(n_nodes) - n_nodes
    start, n_all = np.repeat(roots, n_nodes), int(n_nodes.sum())
    column = np.concatenate([tree.column for tree in trees])
    leaves = np.concatenate([tree.values for tree in trees])
    steps, classes, decision = _answer(estimator, document, n_sums=leaves.shape[1])
    return FittedTrees(
        roots=roots,
        output=np.zeros(len(trees), dtype=np.int64),
        column=column,
        threshold=np.concatenate([tree.threshold for tree in trees]),
        missing_left=np.concatenate([tree.missing_left for tree in trees]),
        other_left=np.zeros(n_all, dtype=bool),
        is_set=np.zeros(n_all, dtype=bool),
        n_codes=np.zeros(n_all, dtype=np.int64),
        codes=np.zeros(0, dtype=np.int64),
        left=start + np.concatenate([tree.left for tree in trees]),
        right=start + np.concatenate([tree.right for tree in trees]),
        leaves=leaves,
        cover=np.concatenate([tree.weights for tree in trees]),
        goes_left=below_as_float32,
        steps=steps,
        classes=classes,
        decision=decision,
    )


def columns(estimator: Any, table: Any) -> Matrix:
    """Return the columns that the trees compare, `(n_rows, n_columns)`, of what the estimator's `predict` takes.

    First those of the table, without its categories, then one for each split of categories: 1 where a row goes right.
    """
    categories = estimator.get_cat_feature_indices()
    if not categories:
        if isinstance(table, pd.DataFrame):
            return table.to_numpy(dtype=np.float64, na_value=np.nan)
        return np.asarray(table.toarray() if hasattr(table, "toarray") else table, dtype=np.float64)
    if not isinstance(table, pd.DataFrame):
        raise ValueError("CatBoost takes categories in a data frame")
    numbers = np.full(table.shape, np.nan)
    for number in sorted(set(range(table.shape[1])) - set(categories)):
        numbers[:, number] = table.iloc[:, number].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.hstack([numbers, _sides(estimator, table, categories)])


def _sides(estimator: Any, table: pd.DataFrame, categories: Sequence[int]) -> Matrix:
    """Return the side of each row at each split of categories, `(n_rows, n_splits)`, as CatBoost says."""
    import catboost

    key = sha256(estimator.get_leaf_values()).hexdigest()
    if key not in _known_places:
        _known_places[key] = _places(_document(estimator))
    places = _known_places[key].values()
    if not places:
        return np.zeros((len(table), 0))
    codes = np.column_stack([pd.factorize(table.iloc[:, number])[0] for number in categories])
    _, first, same = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    try:
        leaves = np.asarray(estimator.calc_leaf_indexes(table.iloc[first])).astype(np.int64)
    except catboost.CatBoostError as error:  # of a missing category
        raise ValueError(str(error)) from None
    sides = np.column_stack([leaves[:, tree] >> place & 1 for tree, place in places])
    return sides[same.reshape(-1)].astype(np.float64)


def _document(estimator: Any) -> _Document:
    """Return the model as CatBoost's JSON. Raises `ExportError` for one that cannot be written so."""
    import catboost

    with TemporaryDirectory() as folder:
        path = Path(folder, "model.json")
        try:
            estimator.save_model(str(path), format="json")
            document: _Document = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, catboost.CatBoostError) as error:
            raise ExportError(
                f"CatBoost {catboost.__version__} cannot write {type(estimator).__name__} as JSON "
                f"({first_line(error)}), in which its trees are read; fit it anew, on numbers and categories alone"
            ) from None
        return document


def _places(document: _Document) -> _Places:
    """Return where each split of categories is in the symmetric trees, whose leaves' numbers have a bit for each."""
    places: _Places = {}
    for number, tree in enumerate(document.get("oblivious_trees", [])):
        for place, split in enumerate(tree["splits"] or []):
            if split["split_type"] != "FloatFeature":
                places.setdefault(split["split_index"], (number, place))
    return places


def _symmetric(tree: _Document, split_of: Callable[[_Document], _Split]) -> _Tree:
    """Return a tree with the same split on each level; the number of a leaf has a bit for each split."""
    splits = [split_of(split) for split in reversed(tree["splits"] or [])]
    n_leaves = 2 ** len(splits)
    itself = np.arange(2 * n_leaves - 1)
    is_leaf = itself >= n_leaves - 1
    n_nodes = [2**level for level in range(len(splits))]
    return _Tree(
        column=np.append(np.repeat([column for column, _, _ in splits], n_nodes), [-1] * n_leaves).astype(np.int64),
        threshold=np.append(np.repeat([threshold for _, threshold, _ in splits], n_nodes), [0.0] * n_leaves),
        missing_left=np.append(np.repeat([left for _, _, left in splits], n_nodes), [False] * n_leaves).astype(bool),
        left=np.where(is_leaf, itself, 2 * itself + 1),
        right=np.where(is_leaf, itself, 2 * itself + 2),
        values=np.array(tree["leaf_values"], dtype=np.float64).reshape(n_leaves, -1),
        weights=_sums_of_children(np.array(tree.get("leaf_weights") or [1.0] * n_leaves, dtype=np.float64)),
    )


def _sums_of_children(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of all nodes of a symmetric tree, level after level, from those of its leaves."""
    levels = [weights]
    while len(levels[0]) > 1:
        levels.insert(0, levels[0][::2] + levels[0][1::2])
    return np.concatenate(levels)


def _other(tree: _Document, split_of: Callable[[_Document], _Split]) -> _Tree:
    """Return a tree of nodes within nodes."""
    nodes, splits, values, weights = [tree], [], [], []
    left, right = [], []
    for number, node in enumerate(nodes):  # which grows
        if "value" in node:
            splits.append((-1, 0.0, False))
            values.append(np.atleast_1d(node["value"]))
            weights.append(float(node.get("weight", 1.0)))
            left.append(number)
            right.append(number)
        else:
            splits.append(split_of(node["split"]))
            weights.append(0.0)
            left.append(len(nodes))
            right.append(len(nodes) + 1)
            nodes += [node["left"], node["right"]]
    for number in reversed(range(len(nodes))):
        if left[number] != number:
            weights[number] = weights[left[number]] + weights[right[number]]
    column, threshold, missing_left = zip(*splits)
    return _Tree(
        column=np.array(column),
        threshold=np.array(threshold, dtype=np.float64),
        missing_left=np.array(missing_left),
        left=np.array(left),
        right=np.array(right),
        values=np.array(values, dtype=np.float64),
        weights=np.array(weights),
    )


def _answer(estimator: Any, document: _Document, *, n_sums: int) -> tuple[Sequence[Step], Sequence[Any], str]:
    """Return the steps from sums to predictions or probabilities, the classes and the decision."""
    name, classes = type(estimator).__name__, np.asarray(estimator.classes_).tolist()
    parameters = document["model_info"].get("params")
    loss = parameters.get("loss_function", {}).get("type") if isinstance(parameters, dict) else None
    if not classes and n_sums > 1:
        raise ExportError(f"{name} predicts {n_sums} numbers a row; fit and export one model for each")
    scale, biases = document["scale_and_bias"]
    steps: list[Step] = [] if scale == 1 else [("multiply", (scale,))]
    if len(set(biases)) > 1:
        raise ExportError(f"{name} adds a number of its own to each class; fit it with boost_from_average=False")
    if biases and biases[0] != 0:
        steps.append(("add", (biases[0],)))
    if not classes:
        return [*steps, ("fast exp", ())] if loss in _EXP else steps, (), ""
    if loss in _TWO_CLASSES:
        if estimator.get_probability_threshold() != 0.5:
            raise ExportError(
                f"{name} decides at another probability than 0.5; set it by set_probability_threshold(0.5)"
            )
        return [*steps, ("logistic", (1.0,)), ("two classes", ())], classes, "sum > 0"
    if loss in _LINK_OF_CLASSES:
        return [*steps, _LINK_OF_CLASSES[loss]], classes, "largest sum"
    raise ExportError(
        f"{name} with the loss {loss!r} cannot be compiled exactly; fit it with 'Logloss' or 'MultiClass'"
    )


def _refuse_combinations(name: str, names: Sequence[str], features: _Document) -> None:
    """Raise `ExportError` for a statistic of a category together with other features."""
    columns = {each["feature_index"]: each["flat_feature_index"] for each in features.get("categorical_features", [])}
    for statistic in features.get("ctrs", []):
        elements = statistic["elements"]
        if len(elements) > 1:
            categories = [names[columns[each["cat_feature_index"]]] for each in elements if "cat_feature_index" in each]
            raise ExportError(
                f"{name} combines the category {categories[0]!r} with other features in one statistic; "
                "fit it with max_ctr_complexity=1"
            )
