"""Which rows a version was fitted on, as hashes, so that a later version can be compared with it on others.

A version keeps 8 bytes for each row that it was fitted on. Whoever has them and a whole row can tell whether the row
was among these; the rows themselves cannot be read from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from model.errors import NotInStoreError
from model.schema.feature import Category
from model.schema.features import Matrix, Schema
from model.store.artifact import Artifact
from model.store.differences import translated

FILE = "fitted-rows.bin"
_BYTES = 8  # of a million rows one in 2 * 10**13 is taken for another, and is then not compared, which is safe


def pack(X: Matrix, y: NDArray[np.float64]) -> bytes:
    """Return the hashes of rows `X` `(n_rows, n_features)` with their targets `y` `(n_rows,)`, in order of size."""
    return np.unique(_hashes(X, y)).tobytes()


def has_seen(
    model: Artifact, X: Matrix, y: NDArray[np.float64], schema: Schema, classes: Sequence[Category] = ()
) -> NDArray[np.bool_]:
    """Return which rows `X` `(n_rows, n_features)` of a schema a version was fitted on, `(n_rows,)`.

    `y` `(n_rows,)` are targets, of a classifier positions among `classes`. Raises `NotInStoreError` for a version that
    does not say it, and `SchemaError` for rows that it does not accept.
    """
    path = model.path / FILE
    if FILE not in model.manifest.files:
        raise NotInStoreError(
            f"{model.name}@{model.version} does not say which rows it was fitted on: it was imported or exported, or "
            "trained by an older version of tabserve"
        )
    fitted = np.frombuffer(path.read_bytes(), "<u8")
    return np.isin(_hashes(translated(X, schema, model.schema), of_labels(y, classes, model.manifest.classes)), fitted)


def of_labels(y: NDArray[np.float64], classes: Sequence[Category], others: Sequence[Category]) -> NDArray[np.float64]:
    """Return positions among labels as positions among other ones, -1 for none; targets of a regression as they are."""
    if not classes:
        return y
    places = {label: place for place, label in enumerate(others)}
    found = np.array([places.get(label, -1) for label in classes], dtype=np.float64)
    return found[y.astype(np.intp)]


def _hashes(X: Matrix, y: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return a number for each row, the same for -0 and 0, and for every NaN."""
    table = np.column_stack([X, y]) + 0.0
    table[np.isnan(table)] = np.nan
    rows = np.ascontiguousarray(table, dtype="<f8")
    return np.frombuffer(b"".join(blake2b(row, digest_size=_BYTES).digest() for row in rows), "<u8")
