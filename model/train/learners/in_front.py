"""What stands in front of a learner: the columns of a model frame, and derived features, as numbers.

Each is a ColumnTransformer that compiles to the bit. Every column accepts missing values, and every category unseen
ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder

from model.engine.formulas import Derived
from model.schema.feature import CATEGORY, DATE
from model.task import REGRESSION, Task
from model.train.derive import Formulas
from model.train.frames import Column

MAX_CODES = 254  # that histograms of 255 bins take for categories, beside a missing value
ONE_HOT = 10  # categories that get a column each in front of trees; more would be split one by one
_MAX_ONE_HOT = 500  # columns of 1 and 0 in all


def coded(
    columns: Sequence[Column], derived: Sequence[Derived], task: Task, seed: int
) -> tuple[ColumnTransformer, list[int] | None]:
    """Return the steps that leave numbers and categories to the trees, and the places of categories as codes.

    A code counts from 0; a missing or an unseen category is NaN. Rare categories beyond `MAX_CODES` share a code.
    Beside derived features categories pass as those of pandas, which the trees tell by their type, and there are no
    codes (None); a column of more than `MAX_CODES` is the mean of the target for each.
    """
    numbers, categories, definitions = _parts(columns, derived)
    if definitions:
        few = [column.name for column in categories if len(column.categories) <= MAX_CODES]
        parts = [
            ("numbers", "passthrough", numbers),
            *_formulas(definitions, []),
            ("few", "passthrough", few),
            ("many", _means(task, seed), [column.name for column in categories if column.name not in few]),
        ]
        front = _joined(parts).set_params(verbose_feature_names_out=plain_name)
        return front.set_output(transform="pandas"), None
    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,
        encoded_missing_value=np.nan,
        max_categories=MAX_CODES,
    )
    parts = [("numbers", "passthrough", numbers), ("categories", codes, [column.name for column in categories])]
    return _joined(parts), list(range(len(numbers), len(numbers) + len(categories)))


def encoded(
    columns: Sequence[Column],
    derived: Sequence[Derived],
    task: Task,
    seed: int,
    *,
    one_hot: int,
    min_frequency: int = 1,
    scaled: bool = False,
) -> ColumnTransformer:
    """Return the steps that make numbers of categories.

    A column of at most `one_hot` categories becomes columns of 1 and 0, in which those with fewer rows than
    `min_frequency` are one. Any other becomes the mean of the target for each category, smoothed and fitted across
    folds. If `scaled`, numbers get the median for a missing value, with a column that says so, and mean 0 and
    deviation 1.
    """
    numbers, categories, definitions = _parts(columns, derived)
    some = [column for column in categories if len(column.categories) <= one_hot]
    if sum(len(column.categories) for column in some) > _MAX_ONE_HOT:
        some = []
    many = [column for column in categories if column not in some]
    scale = [("scale", StandardScaler())] if scaled else []
    each = OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        min_frequency=min_frequency if min_frequency > 1 else None,
        sparse_output=False,
    )
    parts = [
        ("numbers", Pipeline(_scaled()) if scaled else "passthrough", numbers),
        *_formulas(definitions, _scaled() if scaled else []),
        ("some", each, [column.name for column in some]),
        ("many", Pipeline([("means", _means(task, seed)), *scale]), [column.name for column in many]),
    ]
    return _joined(parts)


def _means(task: Task, seed: int) -> TargetEncoder:
    of_numbers = task is REGRESSION
    folds = (KFold if of_numbers else StratifiedKFold)(5, shuffle=True, random_state=seed)
    return TargetEncoder(target_type="continuous" if of_numbers else "auto", cv=folds)


def are_plain(columns: Sequence[Column], derived: Sequence[Derived]) -> bool:
    """Return whether all columns are numbers without gaps, which learners that scale them take as they are."""
    return not derived and all(column.type not in (CATEGORY, DATE) and not column.has_gaps for column in columns)


def _scaled() -> list[tuple[str, Any]]:
    impute = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    return [("impute", impute), ("scale", StandardScaler())]


def _parts(
    columns: Sequence[Column], derived: Sequence[Derived]
) -> tuple[list[str], list[Column], tuple[Derived, ...]]:
    """Return the names of numbers, the categories, and the derived features.

    A date that no derived feature uses is derived itself, as its days since 1970.
    """
    numbers = [column.name for column in columns if column.type not in (CATEGORY, DATE)]
    dates = [column.name for column in columns if column.type == DATE and column.name not in _sources(derived)]
    return numbers, [column for column in columns if column.type == CATEGORY], (*derived, *map(_days, dates))


def plain_name(step: str, name: str) -> str:
    """Return a column's name without the characters that LightGBM and XGBoost refuse, such as `"`, `[` and `<`."""
    return quote(name, safe="")


def _days(name: str) -> Derived:
    quoted = name.replace("`", "``")
    return Derived(f"days of {name}", f"days_since(`{quoted}`, '1970-01-01')")


def _sources(definitions: Sequence[Derived]) -> list[str]:
    """Return the columns that derived features are made of."""
    return list(dict.fromkeys(name for each in definitions for name in each.parsed.names))


def _formulas(definitions: Sequence[Derived], behind: Sequence[tuple[str, Any]]) -> list[tuple[str, Any, list[str]]]:
    if not definitions:
        return []
    step = Pipeline([("formulas", Formulas(definitions)), *behind])
    return [("derived", step, _sources(definitions))]


def _joined(parts: Sequence[tuple[str, Any, Sequence[str]]]) -> ColumnTransformer:
    return ColumnTransformer([part for part in parts if len(part[2])], verbose_feature_names_out=False)
