"""The trees of LightGBM's estimators, and of the models in its text files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from model.engine.steps import Step
from model.errors import ExportError
from model.schema.features import Matrix
from model.train.compile.fitted import FittedTrees, below_as_float64

NAMES = ("LGBMRegressor", "LGBMClassifier", "LGBMRanker")
PACKAGES = ("lightgbm",)  # that determine the bits
_IDENTITY = ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg", "custom")
_EXP = ("poisson", "gamma", "tweedie")
_CLASSES = ("binary", "multiclass", "multiclassova")
_ZERO = float(np.float32(1e-35))  # a number that is no further from zero is zero to LightGBM
# Bits of a split's decision type, and its two bits for the kind of missing values.
_IS_SET, _DEFAULT_LEFT, _ZERO_IS_MISSING, _NAN_IS_MISSING = 1, 2, 1, 2
_READABLE = ("v3", "v4")  # versions of the text format: LightGBM 2.3 to 4

# Lines of a tree with a value for each split or leaf. Some are only for LightGBM itself.
_OF_SPLITS = (
    *("split_feature", "threshold", "decision_type", "left_child", "right_child"),
    *("split_gain", "internal_value", "internal_weight", "internal_count"),
)
_OF_LEAVES = ("leaf_value", "leaf_weight", "leaf_count")
_OF_FLOATS = (
    *("threshold", "split_gain", "internal_value", "internal_weight", "leaf_value", "leaf_weight", "shrinkage"),
    *("leaf_const", "leaf_coeff"),
)

_Lines = dict[str, str]


class LightGBMModel(BaseEstimator):  # type: ignore[misc]
    """A regressor or a ranker in a file of LightGBM, or one that its `train` made."""

    def __init__(self, booster: Any) -> None:
        self.booster = booster

    @property
    def booster_(self) -> Any:
        """Return LightGBM's own object."""
        return self.booster

    @property
    def feature_name_(self) -> list[str]:
        """Return the columns' names."""
        return list(self.booster.feature_name())

    def fit(self, X: Any, y: Any) -> LightGBMModel:
        """Raise `ExportError`: a booster is fitted."""
        raise ExportError("a booster of LightGBM cannot be fitted again; fit an estimator of LightGBM")

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, table: Any) -> NDArray[Any]:
        """Return what LightGBM predicts, `(n_rows,)`."""
        return np.asarray(self.booster.predict(table))


class LightGBMClassifier(LightGBMModel):
    """A classifier of LightGBM without its labels, as a file or its `train` gives it: the classes are 0, 1 and on."""

    @property
    def classes_(self) -> NDArray[np.intp]:
        """Return the classes, `(n_classes,)`."""
        return np.arange(max(2, self.booster.num_model_per_iteration()))

    def predict_proba(self, table: Any) -> Matrix:
        """Return the probabilities, `(n_rows, n_classes)`."""
        found = np.asarray(self.booster.predict(table))
        return found if found.ndim == 2 else np.column_stack([1 - found, found])

    def predict(self, table: Any) -> NDArray[Any]:
        """Return the class of the largest probability, `(n_rows,)`."""
        return np.asarray(self.predict_proba(table).argmax(axis=1))


def owns(estimator: Any) -> bool:
    """Return whether this is an estimator of LightGBM, or is around a booster of it."""
    of_library = type(estimator).__module__.startswith("lightgbm.") and hasattr(estimator, "booster_")
    return of_library or isinstance(estimator, LightGBMModel)


def load(path: Path) -> LightGBMModel:
    """Return the model in a text file that LightGBM wrote. Raises `ExportError` for any other file."""
    import lightgbm

    try:
        _checked(path.read_text(encoding="utf-8"))  # LightGBM itself ends the process at some broken files
        booster = lightgbm.Booster(model_file=str(path))
    except (OSError, ValueError, KeyError, lightgbm.basic.LightGBMError) as error:
        raise ExportError(f"{path} is not a model that LightGBM can read ({error}); write it by save_model") from None
    return of_booster(booster)


def is_booster(fitted: Any) -> bool:
    """Return whether this is what LightGBM's `train` returns."""
    return type(fitted).__module__ == "lightgbm.basic" and type(fitted).__name__ == "Booster"


def of_booster(booster: Any) -> LightGBMModel:
    """Return an estimator around what LightGBM's `train` returns."""
    facts, _ = _read(booster.model_to_string(num_iteration=None))
    return (LightGBMClassifier if facts.get("objective", "").split(" ")[0] in _CLASSES else LightGBMModel)(booster)


def categories(estimator: Any) -> dict[str, Sequence[Any] | None]:
    """Return the columns that are categories to a fitted estimator, with those of pandas' categories.

    Raises `ExportError` if it cannot be said which categories are those of which column.
    """
    booster = estimator.booster_
    infos = booster.dump_model(num_iteration=1)["feature_infos"]
    names = [name for name in booster.feature_name() if infos.get(name, {}).get("values")]
    known = booster.pandas_categorical
    if not known:
        return dict.fromkeys(names)
    # A constant column has no values.
    names = [name for name in booster.feature_name() if name in names or name not in infos]
    if len(names) != len(known):
        raise ExportError(
            f"the model has categories for {len(known)} columns, and any of {', '.join(map(repr, names))} may be one: "
            "leave the columns with a single value out, and fit it again"
        )
    return dict(zip(names, known))


def fitted_trees(estimator: Any) -> FittedTrees:
    """Return the trees of a fitted estimator. Raises `ExportError` for what has no trees to add."""
    name = type(estimator).__name__
    text = estimator.booster_.model_to_string(num_iteration=None)  # after early stopping up to the best
    facts, trees = _read(text)
    if not trees:
        raise ExportError(f"{name} has no trees; fit it with n_estimators of 1 or more")
    if any(tree.get("is_linear", "0") != "0" for tree in trees):
        raise ExportError(f"{name} has a linear model in each leaf; fit it with linear_tree=False")
    n_outputs = int(facts["num_tree_per_iteration"])
    steps: list[Step] = []
    if "average_output" in facts:
        steps.append(("divide", (len(trees) / n_outputs,)))
    classes = np.asarray(getattr(estimator, "classes_", [])).tolist()
    steps += _link(name, facts.get("objective", "custom"), is_classifier=bool(classes))
    return _joined(name, trees, n_outputs, steps=steps, classes=classes)


def columns(estimator: Any, table: Any) -> Matrix:
    """Return the columns that the trees compare, `(n_rows, n_columns)`, of what the estimator's `predict` takes."""
    X = _numbers(estimator, table)
    return np.where(np.abs(X) <= _ZERO, 0.0, X)


def _numbers(estimator: Any, table: Any) -> Matrix:
    if hasattr(table, "toarray"):
        table = table.toarray()
    if not isinstance(table, pd.DataFrame):
        array = np.asarray(table)
        return array.astype(np.float32 if array.dtype.kind != "f" else array.dtype).astype(np.float64)
    known = estimator.booster_.pandas_categorical
    is_category = [isinstance(dtype, pd.CategoricalDtype) for dtype in table.dtypes]
    if known is not None and len(known) != sum(is_category):
        raise ValueError(f"the table has {sum(is_category)} categories, and LightGBM was fitted with {len(known)}")
    of_column = iter(known or [None] * sum(is_category))
    return np.column_stack(
        [
            _codes(table.iloc[:, number], next(of_column))
            if is_category[number]
            else table.iloc[:, number].to_numpy(dtype=np.float64, na_value=np.nan)
            for number in range(table.shape[1])
        ]
    )


def _codes(values: pd.Series, known: list[Any] | None) -> NDArray[np.float64]:
    """Return the position of each category in the list that LightGBM was fitted with; NaN where it is in none."""
    if known is not None and list(values.cat.categories) != known:
        values = values.cat.set_categories(known)
    codes = values.cat.codes.to_numpy()
    return np.where(codes < 0, np.nan, codes)


def _link(name: str, objective: str, *, is_classifier: bool) -> list[Step]:
    """Return the steps from sums to predictions or probabilities."""
    kind, *options = objective.split(" ")
    sigmoid = next((float(option.split(":")[1]) for option in options if option.startswith("sigmoid:")), 1.0)
    if is_classifier:
        if kind == "binary":
            return [("logistic", (sigmoid,)), ("two classes", ())]
        if kind == "multiclass":
            return [("softmax", ())]
        if kind == "multiclassova":
            return [("logistic", (sigmoid,))]
    elif kind in _IDENTITY:
        return [("signed square", ())] if "sqrt" in options else []
    elif kind in _EXP:
        return [("libm exp", ())]
    elif kind in ("binary", "cross_entropy"):
        return [("logistic", (sigmoid,))]
    raise ExportError(f"{name} with the objective {kind!r} cannot be compiled exactly; choose another one")


def _read(text: str) -> tuple[_Lines, list[_Lines]]:
    """Return the lines of the text in front of the trees, and those of each tree, as names with values."""
    parts = text.split("\nend of trees", 1)[0].split("\nTree=")
    lines = [[line.partition("=") for line in part.splitlines()] for part in parts]
    facts, *trees = [{name: value for name, _, value in part} for part in lines]
    return facts, trees


def _checked(text: str) -> _Lines:
    """Return the facts in front of the trees. Raises `ValueError` or `KeyError` for a text that is no model."""
    facts, trees = _read(text)
    if facts.get("version") not in _READABLE:
        raise ValueError(f"its version is {facts.get('version', 'not given')}, not {' or '.join(_READABLE)}")
    if "\nend of trees\n" not in text or ("\nparameters:" in text and "\nend of parameters" not in text):
        raise ValueError("it ends early")
    start = text.index("\nTree=") + 1 if trees else text.index("end of trees")
    sizes = [int(size) for size in facts["tree_sizes"].split()]
    content = text.encode()[len(text[:start].encode()) :]
    starts = [content[end : end + 5] for end in (0, *accumulate(sizes))]
    if len(sizes) != len(trees) or starts != [b"Tree="] * len(trees) + [b"end o"]:
        raise ValueError("its trees are not of the sizes that it gives")
    for number, tree in enumerate(trees):
        try:
            _check(tree, n_features=int(facts["max_feature_idx"]) + 1)
        except (ValueError, KeyError) as error:
            raise ValueError(f"the tree {number} is broken: {error}") from None
    return facts


def _check(tree: _Lines, *, n_features: int) -> None:
    """Raise `ValueError` or `KeyError` unless the lines are a tree."""
    numbers = {
        line: np.array(value.split(), dtype=np.float64 if line in _OF_FLOATS else np.int64)
        for line, value in tree.items()
        if line
    }
    n_leaves, n_sets = int(tree["num_leaves"]), int(tree["num_cat"])
    n_splits = n_leaves - 1
    lengths = dict.fromkeys(_OF_SPLITS, n_splits) | dict.fromkeys(_OF_LEAVES, n_leaves)
    if n_sets:
        ends = numbers["cat_boundaries"]
        if (
            len(ends) != n_sets + 1
            or ends[0] != 0
            or (np.diff(ends) < 0).any()
            or ends[-1] != len(numbers["cat_threshold"])
        ):
            raise ValueError("its sets do not follow each other")
    for line, values in numbers.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{line} has numbers that are not finite")
        if n_splits and len(values) != lengths.get(line, len(values)):
            raise ValueError(f"{line} has {len(values)} values, not {lengths[line]}")
    if n_splits:
        children = np.concatenate([numbers["left_child"], numbers["right_child"]])
        parents = np.tile(np.arange(n_splits), 2)
        all_but_root = np.setdiff1d(np.arange(-n_leaves, n_splits), [0])
        if not np.array_equal(np.sort(children), all_but_root) or ((children >= 0) & (children <= parents)).any():
            raise ValueError("its nodes are not a tree")
        feature, set_number = numbers["split_feature"], numbers["threshold"][numbers["decision_type"] % 2 == 1]
        if not (0 <= feature.min() <= feature.max() < n_features and np.isin(set_number, np.arange(n_sets)).all()):
            raise ValueError("a split names a feature or a set that does not exist")
    elif len(numbers["leaf_value"]) != 1:
        raise ValueError("it has no value")


def _joined(name: str, trees: Sequence[_Lines], n_outputs: int, **answer: Any) -> FittedTrees:
    """Return the trees of the text one after the other: of each the splits, then the leaves."""

    def all_of(line: str, dtype: Any) -> NDArray[Any]:
        return np.concatenate([np.array(tree.get(line, "").split(), dtype=dtype) for tree in trees])

    n_leaves = np.array([int(tree["num_leaves"]) for tree in trees])
    n_nodes = 2 * n_leaves - 1
    roots = np.cumsum(n_nodes) - n_nodes
    itself, root = np.arange(n_nodes.sum()), np.repeat(roots, n_nodes)
    n_splits = np.repeat(n_leaves - 1, n_nodes)
    is_leaf = itself - root >= n_splits
    split = np.flatnonzero(~is_leaf)
    kind = all_of("decision_type", np.int64)
    is_set = np.zeros(len(itself), dtype=bool)
    is_set[split] = kind & _IS_SET
    threshold = np.zeros(len(itself))
    threshold[split] = all_of("threshold", np.float64)
    missing_kind = kind >> 2
    if (missing_kind[~is_set[split]] == _ZERO_IS_MISSING).any():
        raise ExportError(
            f"{name} takes zeros for missing values; put NaN into the table, and fit it with zero_as_missing=False"
        )
    missing_left = np.zeros(len(itself), dtype=bool)
    # Where training saw no missing value, one counts as zero. At a set it goes right, as unseen categories do.
    missing_left[split] = np.where(missing_kind == _NAN_IS_MISSING, kind & _DEFAULT_LEFT != 0, threshold[split] >= 0)
    missing_left &= ~is_set
    column = np.full(len(itself), -1)
    column[split] = all_of("split_feature", np.int64)
    cover = np.ones(len(itself))
    cover[split] = all_of("internal_count", np.float64)
    cover[is_leaf & (n_splits > 0)] = np.concatenate(
        [np.array(tree["leaf_count"].split(), dtype=np.float64) for tree in trees if tree["num_leaves"] != "1"]
        or [np.zeros(0)]
    )
    sides = []
    for line in ("left_child", "right_child"):
        child = all_of(line, np.int64)  # a leaf is -1 less its number
        side = itself.copy()
        side[split] = root[split] + np.where(child >= 0, child, n_splits[split] - 1 - child)
        sides.append(side)
    bits = [_sets(tree) for tree in trees if int(tree["num_cat"])]
    # A split's threshold is the number of its set among those of its tree.
    codes = [np.flatnonzero(each) for sets in bits for each in sets]
    first_set = np.cumsum([0, *(int(tree["num_cat"]) for tree in trees)])[:-1]
    set_number = (np.repeat(first_set, n_nodes) + threshold)[is_set].astype(np.int64)
    codes = [codes[number] for number in set_number]
    n_codes = np.zeros(len(itself), dtype=np.int64)
    n_codes[is_set] = [len(each) for each in codes]
    return FittedTrees(
        roots=roots,
        output=np.arange(len(trees)) % n_outputs,
        column=column,
        threshold=np.where(is_set, 0.0, threshold),
        missing_left=missing_left,
        other_left=np.zeros(len(itself), dtype=bool),
        is_set=is_set,
        n_codes=n_codes,
        codes=np.concatenate([*codes, np.zeros(0, dtype=np.int64)]),
        left=sides[0],
        right=sides[1],
        leaves=all_of("leaf_value", np.float64)[:, np.newaxis],
        cover=cover,
        goes_left=below_as_float64,
        n_places=1 + max((int(each.max()) for each in codes if len(each)), default=-1),
        **answer,
    )


def _sets(tree: _Lines) -> list[NDArray[np.bool_]]:
    """Return the bits of a tree's sets of categories, from the lowest of each set's first word on."""
    words = np.array(tree["cat_threshold"].split(), dtype=np.uint32)
    ends = np.array(tree["cat_boundaries"].split(), dtype=np.int64)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
    return [bits[32 * start : 32 * end] for start, end in pairwise(ends)]
