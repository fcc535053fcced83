"""The labels of a classifier: which it has, and their positions, by which everything behind it knows them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.errors import ExportError
from model.schema.feature import BOOLEAN, CATEGORY, Category, Feature
from model.schema.numbers import is_number
from model.store.manifest import MAX_CLASSES

_MAX_SHOWN = 6  # labels in a message


def labels_of(fitted: Any) -> tuple[Category, ...]:
    """Return the labels of a fitted classifier in the order of its probabilities; none for any other model.

    Raises `ExportError` for a classifier whose labels cannot be served.
    """
    found = getattr(fitted, "classes_", None)
    if found is None or not len(found):
        return ()
    name = type(fitted).__name__
    if isinstance(found, list) and np.ndim(found[0]):
        raise ExportError(f"{name} gives {len(found)} labels a row; fit and export one model for each")
    labels = tuple(each.item() if isinstance(each, np.generic) else each for each in found)
    if not 1 < len(labels) <= MAX_CLASSES:
        raise ExportError(
            f"{name} has {len(labels)} classes; 2 to {MAX_CLASSES:,} can be served: fit it on more labels, or group "
            "the rare ones"
        )
    kinds = set(map(type, labels))
    if kinds == {str}:
        if not all(map(is_utf8, labels)):
            raise ExportError("a label cannot be written in UTF-8; rename it, and fit again")
    elif labels != (False, True) and not (
        kinds <= {int, float} and all(map(is_number, labels)) and len(set(map(float, labels))) == len(labels)
    ):
        raise ExportError(
            f"the labels {shown(labels)} are neither all strings, nor all numbers, nor true and false; make them so, "
            "and fit again"
        )
    return labels


def target_of(labels: Sequence[Category], name: str, unit: str) -> Feature:
    """Return what a model predicts: a number, or one of the labels. Raises `ExportError` for labels with a unit."""
    if not labels:
        return Feature(name, unit)
    if unit:
        raise ExportError(f"a label has no unit, such as {unit!r}; leave it out")
    if isinstance(labels[0], bool):
        return Feature(name, type=BOOLEAN)
    return Feature(name, type=CATEGORY, categories=tuple(labels))


def positions(y: Any, labels: Sequence[Category]) -> NDArray[np.float64]:
    """Return the position of each row's label, `(n_rows,)`. Raises `ExportError` for a label that is not known."""
    given = np.asarray(y, dtype=object).reshape(-1)
    if not all(isinstance(each, Hashable) for each in given):
        raise ExportError("a target is no label but a list or an object; pass one label for each row")
    found = pd.Index(np.array(labels, dtype=object)).get_indexer(pd.Index(given))
    unknown = list(dict.fromkeys(given[found < 0]))
    if unknown:
        raise ExportError(
            f"{shown(unknown)} {'is' if len(unknown) == 1 else 'are'} not among the labels that the model was fitted "
            f"on, {shown(labels)}; pass those labels, and leave out rows of others"
        )
    return np.asarray(found, dtype=np.float64)


def shown(labels: Sequence[Any]) -> str:
    """Return the first labels for a message."""
    more = len(labels) - _MAX_SHOWN
    return f"{', '.join(map(repr, labels[:_MAX_SHOWN]))}{f' and {more} more' if more > 0 else ''}"


def is_utf8(text: str) -> bool:
    """Return whether a text can be written in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
